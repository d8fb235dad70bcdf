"""Frozen features of a network: extracted once, cached, and evaluated."""
