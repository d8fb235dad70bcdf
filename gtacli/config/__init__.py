"""Strict configs, one a command, and the one way they are resolved.

Precedence: defaults < recipe < environment < ``--set`` < flags. Nothing in here imports torch.
"""
