"""The parts of the page that need no script: results, settings, where each run comes from."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from html import escape
from typing import Any

from gtacli.report import figures
from gtacli.report.figures import Figure, figures_of
from gtacli.report.groups import MISSING, Kind, Mean, flat, mean_of, settings_of, text
from gtacli.report.runs import Run

_HINT = "Mean ± standard deviation over the runs of a setting; the best mean is bold."
_NOTHING = '<td class="none">–</td>'


def results(runs: Sequence[Run], labels: Sequence[str], kinds: Sequence[Kind]) -> str:
    """A table a kind."""
    several = len(kinds) > 1
    found = "".join(
        (f"<h2>{escape(kind.title)}</h2>" if several else "") + _table(runs, labels, kind)
        for kind in kinds
    )
    return f'{found}<p class="hint">{_HINT}</p>' if kinds else ""


def _table(runs: Sequence[Run], labels: Sequence[str], kind: Kind) -> str:
    """A row a setting, mean ± deviation over its runs, and below it a row a run."""
    groups = kind.groups
    summaries = [runs[number].summary for number in kind.runs]
    shown = figures_of([summary for summary in summaries if summary is not None])
    keys = kind.keys or tuple(k for k in ("regularizer", "guide") if k in _settings_of(kind, runs))
    means = {
        (g, f.key): mean_of(_values(f, [runs[i] for i in group.runs]))
        for g, group in enumerate(groups)
        for f in shown
    }
    best = {f.key: _best([means[g, f.key] for g in range(len(groups))]) for f in shown if f.best}
    titles = [*(escape(_title(key)) for key in keys), "runs", *map(_unit, shown)]
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    bodies = []
    for g, group in enumerate(groups):
        settings = [settings_of(runs[group.runs[0]]).get(key, MISSING) for key in keys]
        cells = "".join(f'<th scope="row">{escape(setting)}</th>' for setting in settings)
        cells += f"<td>{len(group.runs)}</td>"
        for f in shown:
            mean = means[g, f.key]
            strong = len(groups) > 1 and mean is not None and best.get(f.key) == mean.value
            cells += _mean(mean, f, strong)
        rows = f'<tr class="group">{_swatch(kind.first + g)}{cells}</tr>'
        if len(group.runs) > 1 or runs[group.runs[0]].summary is None:
            rows += "".join(_run_row(runs[i], labels[i], len(keys), shown) for i in group.runs)
        bodies.append(f"<tbody>{rows}</tbody>")
    return (
        '<div class="scroll"><table class="results">'
        f"<thead><tr><td></td>{head}</tr></thead>{''.join(bodies)}"
        "</table></div>"
    )


def provenance(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """Of each run what it was called with, and all that it wrote down of itself."""
    return "".join(_details(run, label) for run, label in zip(runs, labels, strict=True))


def common_settings(runs: Sequence[Run], kinds: Sequence[Kind]) -> str:
    """What all runs of a kind were told alike."""
    found = []
    for kind in kinds:
        settings = [dict(flat(runs[number].config)) for number in kind.runs]
        first, *others = settings
        same = {k: v for k, v in first.items() if all(s.get(k, object) == v for s in others)}
        same = {k: v for k, v in same.items() if v is not None and k != "out"}
        of = f"settings that all runs of {kind.title.lower()} share"
        title = of if len(kinds) > 1 else "settings that all runs share"
        shown = _definitions({k: text(v) for k, v in same.items()})
        found.append(f"<details><summary>{escape(title)}</summary>{shown}</details>")
    return "".join(found)


def _swatch(group: int) -> str:
    return f'<td class="swatch c{group % 10}"></td>'


def _settings_of(kind: Kind, runs: Sequence[Run]) -> dict[str, str]:
    """Of a kind with one setting."""
    return settings_of(runs[kind.runs[0]])


def _run_row(run: Run, label: str, keys: int, shown: Sequence[Figure]) -> str:
    seed = run.config.get("seed")
    told = f'{escape(run.name)}<span class="faint"> seed {escape(str(seed))}</span>'
    if run.summary is None:
        done, epochs = run.epochs
        told += f' <span class="badge">incomplete: {done} of {epochs or "?"} epochs</span>'
    cells = "".join(_value((run.summary or {}).get(f.key), f) for f in shown)
    return f'<tr class="run"><td></td><td colspan="{keys + 1}">{told}</td>{cells}</tr>'


def _values(figure: Figure, runs: Sequence[Run]) -> list[float]:
    found = [(run.summary or {}).get(figure.key) for run in runs]
    return [value for value in found if isinstance(value, int | float)]


def _best(means: Sequence[Mean | None]) -> float | None:
    return max((mean.value for mean in means if mean is not None), default=None)


def _mean(mean: Mean | None, figure: Figure, strong: bool) -> str:
    if mean is None:
        return _NOTHING
    shown, _, deviation = figures.mean(mean, figure.percent).partition(" ± ")
    shown = f"<strong>{shown}</strong>" if strong else shown
    spread = f'<span class="faint"> ± {deviation}</span>' if deviation else ""
    return f"<td>{shown}{spread}</td>"


def _value(value: Any, figure: Figure) -> str:
    if not isinstance(value, int | float):
        return _NOTHING
    return f"<td>{figures.number(value, figure.percent)}</td>"


def _unit(figure: Figure) -> str:
    return escape(figure.title) + (' <span class="faint">%</span>' if figure.percent else "")


def _title(key: str) -> str:
    return {"sampling_rate": "labels kept, %"}.get(key, key.replace("_", " "))


def _details(run: Run, label: str) -> str:
    record = run.record
    summary = run.summary or {}
    data, model, versions = run.part("data"), run.part("model"), run.part("versions")
    argv = record.get("argv")
    held_out = "classified" if run.command == "pretrain" else "held out"
    facts = {
        "folder": str(run.path),
        "seed": text(run.config.get("seed")),
        "data": f"{data.get('name', '–')}, fingerprint {data.get('fingerprint', '–')}",
        "weights": f"{model.get('weights', '–')}, fingerprint {model.get('fingerprint', '–')}",
        "images": ", ".join(
            f"{summary[key]:,} {name}"
            for key, name in (("n_train", "to train"), ("n_val", held_out), ("n_test", "to test"))
            if isinstance(summary.get(key), int)
        ),
        "chosen": _chosen(summary),
        "cost": _cost(summary),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": f"{record.get('platform', '–')}, {record.get('threads', '–')} threads",
    }
    command = shlex.join(map(str, argv)) if isinstance(argv, list) else "–"
    config = json.dumps(run.config, indent=1, ensure_ascii=False)
    return (
        f'<details><summary>{escape(label)} <span class="faint">{escape(run.name)}</span></summary>'
        f"<pre><code>{escape(command)}</code></pre>{_definitions(facts)}"
        "<details><summary>all settings</summary>"
        f"<pre><code>{escape(config)}</code></pre></details></details>"
    )


def _chosen(summary: dict[str, Any]) -> str:
    parts = []
    if isinstance(summary.get("best_epoch"), int):
        parts.append(f"epoch {summary['best_epoch']}")
    if isinstance(summary.get("lam"), int | float):
        parts.append(f"lam {summary['lam']:g} (auto)")
    return ", ".join(parts)


def _cost(summary: dict[str, Any]) -> str:
    units = {"seconds": "s", "images_per_second": "images/s", "peak_memory_mb": "MB"}
    found = [(summary.get(key), unit) for key, unit in units.items()]
    return ", ".join(f"{v:,.0f} {unit}" for v, unit in found if isinstance(v, int | float))


def _definitions(facts: dict[str, str]) -> str:
    pairs = (f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items() if v)
    return f"<dl>{''.join(pairs)}</dl>"
