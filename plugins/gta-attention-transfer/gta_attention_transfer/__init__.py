"""The plug-in gta-attention-transfer: attention distillation as a regularizer of `gta finetune`.

The class is in `gta_attention_transfer.regularizer`, its options in
`gta_attention_transfer.options`, which need no torch.
"""
