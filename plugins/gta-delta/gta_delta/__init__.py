"""The plug-in gta-delta: DELTA as a regularizer of `gta finetune`.

The class is in `gta_delta.regularizer`, its options in `gta_delta.options`, which need no torch.
"""
