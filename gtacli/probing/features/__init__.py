"""Frozen features of a model: extracted once, cached, and evaluated."""
