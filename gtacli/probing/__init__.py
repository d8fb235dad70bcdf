"""Probes: evaluations of a model's features, attention and predictions, without training it."""
