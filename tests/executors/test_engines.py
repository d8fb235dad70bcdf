"""The engines themselves: submitit on this machine, and a Ray cluster of two nodes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gtacli.errors import GtaError
from gtacli.executors.base import Executor
from gtacli.executors.ray_cluster import RayCluster, RayOptions
from gtacli.executors.slurm import Slurm, SlurmOptions

pytestmark = pytest.mark.slow
VERSION = ["--version"]
UNKNOWN = ["study", "status", "nothing"]


def statuses(executor: Executor[Any], folder: Path, *commands: list[str]) -> list[int]:
    jobs = [executor.submit(words, folder / str(n)) for n, words in enumerate(commands)]
    end = time.monotonic() + 120
    while not all(job.done() for job in jobs):
        assert time.monotonic() < end
        time.sleep(0.1)
    return [job.result() for job in jobs]


def test_submitit_runs_commands_and_reports_their_status(tmp_path: Path) -> None:
    executor = Slurm(SlurmOptions(cluster="local", gpus=0), None, tmp_path / "jobs")
    assert statuses(executor, tmp_path, VERSION, UNKNOWN) == [0, 2]
    assert "is no study's folder" in (tmp_path / "1").read_text()
    executor.close()


def test_without_sbatch_slurm_is_said_to_be_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(GtaError, match="runs where sbatch does"):
        Slurm(SlurmOptions(), None, tmp_path)


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    cluster.add_node(num_cpus=1, num_gpus=0)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def test_a_ray_cluster_runs_commands_on_both_nodes(two_nodes: Any, tmp_path: Path) -> None:
    with pytest.raises(GtaError, match="no node of the Ray cluster has CPU 3"):
        RayCluster(RayOptions(cpus=3), None, tmp_path)
    import ray

    ray.shutdown()
    handler = signal.getsignal(signal.SIGTERM)
    executor = RayCluster(RayOptions(), None, tmp_path)
    assert executor.slots is None
    assert signal.getsignal(signal.SIGTERM) == handler  # of this program, not Ray's
    assert statuses(executor, tmp_path, VERSION, UNKNOWN, VERSION) == [0, 2, 0]
    executor.close()
