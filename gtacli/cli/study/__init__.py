"""`gta study`: a grid of runs, its state, table and figures."""

from __future__ import annotations

from gtacli.cli.lazy import group
from gtacli.cli.study.cell import cell
from gtacli.cli.study.course import run
from gtacli.cli.study.sheet import sheet
from gtacli.cli.study.show import clean, compare, plot, status, table

app = group("study")

for command in (run, status, table, plot, sheet, compare, clean):
    app.command()(command)
app.command(hidden=True)(cell)
