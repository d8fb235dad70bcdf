"""Classifiers on frozen features: linear, k-NN, few-shot."""
