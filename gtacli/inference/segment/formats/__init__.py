"""Annotations of the objects that are found, in the formats of datasets and of labeling tools."""
