"""A study's table as text for a terminal, Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from gtacli.study.metrics import is_fraction
from gtacli.study.results import Entry, StudyRow, StudyTable
from gtacli.study.table import ALPHA, ONLY

MISSING = "–"
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def header(table: StudyTable) -> list[str]:
    """Return the heads of the columns."""
    unit = " %" if is_fraction(table["metric"]) else ""
    names = _columns(table)
    if names == [ONLY]:
        return ["method", f"{table['metric']}{unit}"]
    return [f"{table['by']}", *names]


def rows(table: StudyTable) -> list[list[str]]:
    """Return the rows as text: mean ± standard deviation, marked where the test says so."""
    return [
        [row_label(row), *(_show(table, row["columns"].get(name), row) for name in _columns(table))]
        for row in table["rows"]
    ]


def notes(table: StudyTable) -> list[str]:
    """Return what a reader has to know beside the numbers."""
    unit = ", %" if is_fraction(table["metric"]) else ""
    found = [f"{table['metric']}{unit}: mean ± standard deviation over seeds; n where they differ"]
    entries = [e for row in table["rows"] for e in row["columns"].values() if e]
    if any(entry["p"] is not None for entry in entries):
        found.append(f"* p < {ALPHA:g} against {table['against']} (paired t-test over seeds)")
    if any(entry["best"] for entry in entries):
        found.append(f"bold or !: better than every other row with p < {ALPHA:g}")
    for method, cost in table["tuning"].items():
        chosen = "; ".join(
            ", ".join(f"{key} {value}" for key, value in values.items())
            for values in cost["chosen"]
        )
        spent = f"{cost['runs']} runs, {cost['seconds']:,.0f} s"
        found.append(f"{method} was tuned in {spent}: {chosen or '...'}")
        if cost["borrowed"]:
            found.append(
                f"of these, {cost['borrowed']} cells have values that were chosen at other places "
                "of the grid: no image could be held out at theirs"
            )
    budgets = {cost["runs"] for cost in table["tuning"].values()}
    if len(budgets) > 1:
        found.append("the methods that were tuned had unequal numbers of runs")
    if table["missing"]:
        found.append(f"{len(table['missing'])} cells have no result yet")
    if table["changed"]:
        found.append(f"{len(table['changed'])} cells are left out, as the study has changed since")
    return found


def to_markdown(table: StudyTable) -> str:
    """Return the table as Markdown, with its notes below."""
    head = header(table)
    lines = [_markdown(head), _markdown(["---", *["---:"] * (len(head) - 1)])]
    for row, line in zip(table["rows"], rows(table), strict=True):
        marked = [
            _bold(cell.removesuffix(" !")) if entry and entry["best"] else cell
            for cell, entry in zip(line[1:], _entries(table, row), strict=True)
        ]
        lines.append(_markdown([line[0], *marked]))
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(table))]) + "\n"


def _bold(text: str) -> str:
    """Return text in bold; the star of a test stands behind it, or would end it too early."""
    number, star, rest = text.partition(" *")
    return f"**{number}**" + (f" \\*{rest}" if star else "")


def to_latex(table: StudyTable) -> str:
    r"""Return the table as LaTeX for booktabs; its notes are comments."""
    head = header(table)
    lines = [*(f"% {note}" for note in notes(table)), "% needs \\usepackage{booktabs}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(_latex, head)) + r" \\", r"\midrule"]
    for row, line in zip(table["rows"], rows(table), strict=True):
        cells = [_latex(line[0])]
        for text, entry in zip(line[1:], _entries(table, row), strict=True):
            found = _latex(text.removesuffix(" !"))
            cells.append(rf"\textbf{{{found}}}" if entry and entry["best"] else found)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_csv(table: StudyTable) -> str:
    """Return the table as CSV with one line per place, numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = ("mean", "std", "n", "p", "best", "seconds")
    writer.writerow(["method", table["by"] or "column", "metric", *fields])
    for row in table["rows"]:
        for name, entry in row["columns"].items():
            values = ["" if entry is None or entry[f] is None else entry[f] for f in fields]  # type: ignore[literal-required]
            writer.writerow([row_label(row), name, table["metric"], *values])
    return out.getvalue()


def _columns(table: StudyTable) -> list[str]:
    return list(table["rows"][0]["columns"]) if table["rows"] else []


def _entries(table: StudyTable, row: StudyRow) -> Sequence[Entry | None]:
    return [row["columns"].get(name) for name in _columns(table)]


def row_label(row: StudyRow) -> str:
    """Return the name of a row with the further keys by which rows differ."""
    keys = row.get("keys", {})
    return " ".join([row["method"], *(f"{key}={value}" for key, value in keys.items())])


def _show(table: StudyTable, entry: Entry | None, row: StudyRow) -> str:
    if entry is None:
        return MISSING
    scale, digits = (100.0, 1) if is_fraction(table["metric"]) else (1.0, _digits(table))
    text = f"{scale * entry['mean']:.{digits}f}"
    if entry["std"] is not None:
        text += f" ± {scale * entry['std']:.{digits}f}"
    if entry["p"] is not None and entry["p"] < ALPHA:
        text += " *"
    counts = {e["n"] for line in table["rows"] for e in line["columns"].values() if e}
    if len(counts) > 1 and entry["n"] < max(counts):
        text += f" (n {entry['n']})"
    return text + (" !" if entry["best"] else "")


def _digits(table: StudyTable) -> int:
    """Return the decimals that show four digits of the largest number."""
    means = [abs(e["mean"]) for row in table["rows"] for e in row["columns"].values() if e]
    largest = max(means, default=0.0)
    return max(0, 3 - len(str(int(largest)))) + 1 if largest >= 1 else 4


def _markdown(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _latex(text: str) -> str:
    escaped = re.sub(r"[\\&%$#_{}~^]", lambda found: _LATEX[found[0]], text)
    return escaped.replace("±", r"$\pm$").replace(" *", "$^{*}$").replace(MISSING, "--")
