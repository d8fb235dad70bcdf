"""Details of the runs: data, weights, versions, costs and settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gtacli.report.groups import CommandRuns
from gtacli.report.run_folders import ReportRun
from gtacli.report.settings import flatten, setting_text


def describe_run(run: ReportRun) -> dict[str, str]:
    """Return facts about a run by their titles, from its record and its summary."""
    record, summary = run.record, run.summary or {}
    data, model, versions = run.section("data"), run.section("model"), run.section("versions")
    held_out = "classified" if run.command == "pretrain" else "held out"
    uses = (("n_train", "for training"), ("n_val", held_out), ("n_test", "for testing"))
    return {
        "folder": str(run.path),
        "seed": setting_text(run.config.get("seed")),
        "data": f"{data.get('name', '–')}, fingerprint {data.get('fingerprint', '–')}",
        "weights": f"{model.get('weights', '–')}, fingerprint {model.get('fingerprint', '–')}",
        "images": ", ".join(
            f"{summary[key]:,} {use}" for key, use in uses if isinstance(summary.get(key), int)
        ),
        "selected": _selection(summary),
        "attention": str(summary.get("why") or "–"),
        "cost": _cost(summary),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": f"{record.get('platform', '–')}, {record.get('threads', '–')} threads",
    }


def shared_settings(runs: Sequence[ReportRun], command: CommandRuns) -> dict[str, str]:
    """Return the settings that all runs of a command share."""
    first, *others = (dict(flatten(runs[number].config)) for number in command.runs)
    same = {k: v for k, v in first.items() if all(s.get(k, object) == v for s in others)}
    return {k: setting_text(v) for k, v in same.items() if v is not None and k != "out"}


def _selection(summary: dict[str, Any]) -> str:
    parts = []
    if isinstance(summary.get("best_epoch"), int):
        parts.append(f"epoch {summary['best_epoch'] + 1}")
    if isinstance(summary.get("lam"), int | float) and "lam_search" in summary:
        parts.append(f"lam {summary['lam']:g} (auto)")
    return ", ".join(parts)


def _cost(summary: dict[str, Any]) -> str:
    units = {
        "seconds": "s",
        "cpu_seconds": "s of CPU time",
        "images_per_second": "images/s",
        "peak_memory_mb": "MB",
    }
    values = [(summary.get(key), unit) for key, unit in units.items()]
    values.append((summary.get("trainable_parameters"), "parameters learned"))
    return ", ".join(f"{v:,.0f} {unit}" for v, unit in values if isinstance(v, int | float))
