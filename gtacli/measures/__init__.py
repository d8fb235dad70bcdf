"""Metrics and statistics: pure functions of arrays, without I/O."""
