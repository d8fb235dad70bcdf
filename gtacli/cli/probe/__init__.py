"""`gta probe`: the measurements, a file and a line each."""

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
from gtacli.config.probe import AttentionProbeConfig, KnnProbeConfig, LinearProbeConfig
from gtacli.config.probe_background import BackgroundProbeConfig
from gtacli.config.probe_fewshot import FewshotProbeConfig
from gtacli.config.probe_retrieval import RetrievalProbeConfig
from gtacli.config.probe_robust import RobustProbeConfig
from gtacli.config.probe_transfer import TransferProbeConfig

app = group("probe")

config_command(app, KnnProbeConfig, "probe knn")(knn)
config_command(app, LinearProbeConfig, "probe linear")(linear)
config_command(app, FewshotProbeConfig, "probe fewshot")(fewshot)
config_command(app, RetrievalProbeConfig, "probe retrieval")(retrieval)
config_command(app, TransferProbeConfig, "probe transfer")(transfer)
config_command(app, BackgroundProbeConfig, "probe background")(background)
config_command(app, RobustProbeConfig, "probe robust")(robust)
config_command(app, AttentionProbeConfig, "probe attention")(attention)
