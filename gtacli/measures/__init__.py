"""Metrics and statistics as pure functions of arrays, without I/O."""
