"""The built-in example: its dataset, its source model, and the runs of `gta demo`."""
