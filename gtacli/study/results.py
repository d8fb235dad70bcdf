"""The results of `gta study`."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from gtacli.runtime.results import Doc

_CELLS = "names of cells"


class StudyRun(TypedDict):
    """The result of `gta study run`."""

    study: Annotated[str, Doc("its folder")]
    cells: Annotated[int, Doc("cells of the study")]
    finished: Annotated[int, Doc("cells that are finished")]
    ran: Annotated[list[str], Doc(f"{_CELLS} that this command has finished")]
    failed: Annotated[dict[str, str], Doc("line of the error, by cell")]
    changed: Annotated[
        dict[str, str], Doc("what is other now than when the cell was computed, by cell")
    ]
    blocked: Annotated[list[str], Doc(f"{_CELLS} that wait for one of these")]
    seconds: Annotated[float, Doc("run time", "s")]


class CellStatus(TypedDict):
    """A line of `gta study status`."""

    cell: Annotated[str, Doc("name of the cell")]
    command: Annotated[str, Doc("its command")]
    state: Annotated[
        Literal["finished", "changed", "failed", "running", "interrupted", "waiting", "ready"],
        Doc("interrupted: goes on where it was; waiting: for other cells"),
    ]
    seconds: Annotated[float | None, Doc("run time; null if it has not ended", "s")]
    reason: Annotated[str | None, Doc("why it failed, or what has changed; else null")]


class Entry(TypedDict):
    """A place of a table: a row in a column."""

    mean: Annotated[float, Doc("mean of the metric over the seeds")]
    std: Annotated[float | None, Doc("standard deviation (n - 1); null for one seed")]
    n: Annotated[int, Doc("seeds")]
    p: Annotated[
        float | None,
        Doc("p-value of the paired t-test against `against`; null for itself, or below 2 pairs"),
    ]
    best: Annotated[
        bool,
        Doc("whether it is the column's best, and better than each other row with p < 0.05"),
    ]
    seconds: Annotated[float, Doc("mean run time of a cell", "s")]


class StudyRow(TypedDict):
    """A row of a table."""

    method: Annotated[str, Doc("name of the row")]
    keys: NotRequired[
        Annotated[dict[str, object], Doc("further keys of the grid, by which rows differ")]
    ]
    columns: Annotated[
        dict[str, Entry | None], Doc("by value of the columns' key; null: no cell yet")
    ]


class TuningCost(TypedDict):
    """The cost of the choice of a method's values."""

    runs: Annotated[int, Doc("cells that were run to choose")]
    seconds: Annotated[float, Doc("their run time", "s")]
    chosen: Annotated[list[dict[str, object]], Doc("the values, each choice once")]
    borrowed: Annotated[
        int, Doc("cells whose values were chosen at the other places, as no image was held out")
    ]


class StudyTable(TypedDict):
    """The table of `gta study table` as JSON."""

    metric: Annotated[str, Doc("the metric")]
    by: Annotated[str | None, Doc("key of the grid that makes the columns; null: there is one")]
    against: Annotated[str | None, Doc("row that the others are tested against")]
    rows: Annotated[list[StudyRow], Doc("the rows")]
    tuning: Annotated[dict[str, TuningCost], Doc("by method; those without choices are left out")]
    missing: Annotated[list[str], Doc(f"{_CELLS} that have no result yet")]
    changed: Annotated[list[str], Doc(f"{_CELLS} left out, as the study has changed since")]


class StudyComparison(TypedDict):
    """A line of `gta study compare`: two rows in one column, paired by seed."""

    column: Annotated[str, Doc("value of the columns' key")]
    a: Annotated[float, Doc("mean of the first")]
    b: Annotated[float, Doc("mean of the second")]
    difference: Annotated[float, Doc("mean of first minus second over the pairs")]
    low: Annotated[float | None, Doc("lower end of its 95 % confidence interval")]
    high: Annotated[float | None, Doc("upper end")]
    p: Annotated[float | None, Doc("p-value of the paired t-test; null below 2 pairs")]
    n: Annotated[int, Doc("pairs")]


class StudyCleaned(TypedDict):
    """The result of `gta study clean`."""

    removed: Annotated[list[str], Doc(f"{_CELLS} that were removed, or would be")]
    bytes: Annotated[int, Doc("their size")]
    dry_run: Annotated[bool, Doc("whether nothing was removed")]


class StudySheet(TypedDict):
    """The result of `gta study sheet`."""

    sheet: Annotated[str, Doc("the picture")]
    models: Annotated[dict[str, str], Doc("spec of the model by column")]
    images: Annotated[list[str], Doc("the images, a row each")]
