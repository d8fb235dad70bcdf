"""Every built-in part passes the conformance suite that plug-ins are held to."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gtacli.registry import (
    DISCOVERY,
    EXECUTORS,
    EXPORTERS,
    GROUPS,
    LOGGERS,
    MAPS,
    MODELS,
    OPTIMIZERS,
    REGULARIZERS,
    Registry,
)
from gtacli.testing import check_part, checks
from gtacli.testing.pair import rank_gradients
from gtacli.testing.promises import Check, NotApplicable

# Without them TokenCut chooses its block, which is measured elsewhere.
OPTIONS: dict[str, dict[str, Any]] = {"tokencut": {"layer": -1, "tau": 0.2}}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("gta", {"rows": "all", "layers": "last", "center": True}),
    ("gta", {"distance": "kl", "decay": "cosine", "every": 2}),
    ("gta", {"guide": "msa", "layers": (-1,)}),
    ("gta", {"guide": "block"}),
    ("l2-sp", {"decoupled": True}),
    ("bss", {"k": 2}),
    ("tokencut", {"layer": 0, "tau": 0.1, "objects": 3}),
    ("dino", {"heads": "best"}),
    ("gradcam", {"target_class": 1}),
]


def names(registry: Registry[Any]) -> list[str]:
    return [name for name in registry.names() if registry.origin(name).builtin]


def quick(part: Any, options: dict[str, Any]) -> list[Check]:
    return [c for c in checks(part, options) if "all processes" not in c.promise]


def run(found: list[Check]) -> list[str]:
    """Run checks; return the promises that are kept."""
    kept = []
    for check in found:
        try:
            check()
        except NotApplicable:
            continue
        kept.append(check.promise)
    return kept


@pytest.mark.parametrize("name", names(REGULARIZERS))
def test_regularizers(name: str) -> None:
    assert len(run(quick(REGULARIZERS.load(name), {}))) == 18


@pytest.mark.parametrize("name", names(DISCOVERY))
def test_back_ends(name: str) -> None:
    part = DISCOVERY.load(name)
    kept = len(run(quick(part, OPTIONS.get(name, {}))))
    assert kept == 17 - part.needs_gradients  # else it runs on fused kernels, too


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_their_variants(name: str, options: dict[str, Any]) -> None:
    registry = REGULARIZERS if name in REGULARIZERS.names() else DISCOVERY
    assert run(quick(registry.load(name), options))


@pytest.mark.usefixtures("delta")
def test_a_plugin() -> None:
    run(quick(REGULARIZERS.load("delta"), {}))


@pytest.mark.parametrize("name", names(OPTIMIZERS))
def test_optimizers(name: str) -> None:
    assert len(run(checks(OPTIMIZERS.load(name)))) == 12


@pytest.mark.parametrize("name", names(LOGGERS))
def test_loggers(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    assert len(run(checks(LOGGERS.load(name)))) >= 5


@pytest.mark.parametrize("name", names(MAPS))
def test_kinds_of_maps(name: str) -> None:
    """Relevance reads all blocks, and computes gradients."""
    assert len(run(checks(MAPS.load(name)))) == 15 - 2 * (name in ("attnlrp", "chefer"))


@pytest.mark.parametrize("name", names(MODELS))
def test_models(name: str) -> None:
    assert len(run(checks(MODELS.load(name)))) == 7


@pytest.mark.parametrize("name", [n for n in names(EXECUTORS) if n != "ray"])
def test_executors(name: str) -> None:
    """Ray takes half a minute to start: tests/executors has its tests.

    SLURM's is tried on this machine, also on one that could submit jobs.
    """
    options = {"cluster": "local", "gpus": 0} if name == "slurm" else {}
    assert len(run(checks(EXECUTORS.load(name), options))) >= 6


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("onnx", "pt2") else [])
        for name in names(EXPORTERS)
    ],
)
def test_exporters(name: str) -> None:
    assert len(run(checks(EXPORTERS.load(name)))) >= 7


def test_every_group_has_checks() -> None:
    for registry in GROUPS:
        assert len(checks(registry.load(names(registry)[0]))) >= 7


@pytest.mark.parametrize("name", names(REGULARIZERS))
def test_two_processes(name: str, together: Callable[..., list[Any]], tmp_path: Path) -> None:
    """As the suite has it, but forked, which is quicker."""
    part, store = REGULARIZERS.load(name), str(tmp_path / name)
    ours, theirs = together(lambda rank: pickle.dumps(rank_gradients(rank, part, {}, store)))
    first, second = dict(pickle.loads(ours)), dict(pickle.loads(theirs))
    assert len(first) > 20
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.slow
def test_the_whole_suite_of_one_part() -> None:
    check_part(REGULARIZERS.load("gta"))
