"""The plug-in gta-cotuning: Co-Tuning as a regularizer of `gta finetune`.

The class is in `gta_cotuning.regularizer`, its options in `gta_cotuning.options`, which need no
torch.
"""
