"""Strict configs, one per command, and their resolution from all sources.

Precedence: defaults < recipe < environment < `set` < flags. Nothing in here imports torch.
"""
