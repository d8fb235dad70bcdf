"""Merging: one model from the weights of several runs, or of a run and its source."""
