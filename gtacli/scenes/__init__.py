"""Drawn scenes: creatures on scenery, each with its mask.

`world` describes two worlds of creatures, `draw` writes all images of one, and `trials` composes
single scenes to calibrate object discovery.
"""
