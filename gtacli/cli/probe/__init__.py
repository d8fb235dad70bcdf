"""`gta probe`: a group of commands, one file each."""

from __future__ import annotations

from gtacli.cli.lazy import group
from gtacli.cli.options import config_command
from gtacli.cli.probe.attention import attention
from gtacli.cli.probe.background import background
from gtacli.cli.probe.fewshot import fewshot
from gtacli.cli.probe.knn import knn
from gtacli.cli.probe.linear import linear
from gtacli.cli.probe.retrieval import retrieval
from gtacli.cli.probe.robust import robust
from gtacli.cli.probe.transfer import transfer
from gtacli.config.probe.attention import AttentionProbeConfig
from gtacli.config.probe.background import BackgroundProbeConfig
from gtacli.config.probe.fewshot import FewshotProbeConfig
from gtacli.config.probe.knn import KnnProbeConfig
from gtacli.config.probe.linear import LinearProbeConfig
from gtacli.config.probe.retrieval import RetrievalProbeConfig
from gtacli.config.probe.robust import RobustProbeConfig
from gtacli.config.probe.transfer import TransferProbeConfig

app = group("probe")

config_command(app, KnnProbeConfig, "probe knn")(knn)
config_command(app, LinearProbeConfig, "probe linear")(linear)
config_command(app, FewshotProbeConfig, "probe fewshot")(fewshot)
config_command(app, RetrievalProbeConfig, "probe retrieval")(retrieval)
config_command(app, TransferProbeConfig, "probe transfer")(transfer)
config_command(app, BackgroundProbeConfig, "probe background")(background)
config_command(app, RobustProbeConfig, "probe robust")(robust)
config_command(app, AttentionProbeConfig, "probe attention")(attention)
