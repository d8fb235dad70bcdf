"""Scenes that the program draws: little creatures on scenery, each with its mask.

`world` describes two worlds of creatures, `draw` writes all images of one, `trials` composes single
scenes to calibrate object discovery. Nothing here knows a dataset or a model.
"""
