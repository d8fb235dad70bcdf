"""`gta probe`: the measurements, a file and a line each."""

from __future__ import annotations

from gtacli.cli.lazy import group
from gtacli.cli.options import config_command
from gtacli.cli.probe_attention import attention
from gtacli.config.probe import AttentionProbeConfig

app = group("Measure what a network has learnt, without training it.")

config_command(app, AttentionProbeConfig, "probe attention")(attention)
