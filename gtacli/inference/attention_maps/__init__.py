"""Attention maps of images as files: the library behind `gta attention-map`."""
