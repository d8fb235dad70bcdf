"""The plug-in gta-gram: Gram anchoring as a regularizer of `gta finetune`.

The class is in `gta_gram.regularizer`, the formula in `gta_gram.distance`, the options in
`gta_gram.options`, which need no torch.
"""
