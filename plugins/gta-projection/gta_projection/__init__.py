"""The plug-in gta-projection: optimizers that keep the weights near their start.

`ftp` is in `gta_projection.ftp`, `spd` in `gta_projection.spd`, Adam's step, which both take first,
in `gta_projection.adam`, their options in `gta_projection.options`, which need no torch.
"""
