"""The search behind `lam=auto`: the first regularizer's strength, chosen on held-out images.

Successive halving (Jamieson and Talwalkar, 2016) over 0, the regularizer's own default, and ten
times it. The candidates are the run itself, each with its strength and the whole schedule: all
train two fifths of the epochs, at most two continue to three fifths, and one becomes the run. So
nothing that the best candidate has learned is discarded, its weights are those of a run with this
strength, and all of it costs at most two runs.

Where labels are few, so are the held-out images, and they can seldom separate two candidates. So
the one-standard-error rule decides (Breiman et al., Classification and Regression Trees, 1984): the
strongest regularization whose accuracy, in the best epoch so far, lies within one standard error of
the best. At the first decision the best candidate continues beside it. 0 is chosen where every
strength measurably hurts.

GTA has an estimate before training of whether the source's attention suits the labels
(`suitability`). It takes the place of the third candidate, as held-out images order strengths
above the default least of all: two cost 1.4 to 1.6 runs. And where it says that the attention does
not suit, the weakest within one standard error is chosen instead of the strongest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import Field, ValidationError

from gtacli.config.base import StrictModel
from gtacli.errors import GtaError, Interrupted, RunError, UsageError
from gtacli.finetuning.results import SearchResult
from gtacli.registry import REGULARIZERS
from gtacli.runtime.run_folder import RunFolder
from gtacli.training.selection import score_of, standard_error

log = logging.getLogger(__name__)

SEARCH_FILE = "search.json"
MULTIPLES = (0.0, 1.0, 10.0)
MIN_EPOCHS = 5
Train = Callable[[float, RunFolder, int], list[dict[str, Any]]]
"""(strength, folder, epochs to stop after) -> the rows of all epochs so far."""


def report(result: SearchResult, run_epochs: int) -> str:
    """Describe a search for the log: what was chosen, and its cost."""
    extra = result["epochs"] - decisions(run_epochs)[-1]
    cost = f"{extra} epochs more than a run of {run_epochs}, {result['seconds']:.0f} s so far"
    if result["chosen"] == 0:
        return f"`lam=auto` chose 0, so this run is plain fine-tuning ({cost})"
    return f"`lam=auto` chose {result['chosen']:g} ({cost})"


def decisions(epochs: int) -> tuple[int, int]:
    """Return after how many epochs candidates are dropped: two and three fifths, rounded down.

    So three candidates up to the first, two up to the second and one to the end cost at most two
    runs.
    """
    return 2 * epochs // 5, 3 * epochs // 5


def choices(regularizer: str, estimated: bool = False) -> tuple[float, ...]:
    """Return the strengths to try for a regularizer, ascending from 0.

    Args:
        estimated: there is an estimate of whether the source's attention suits the labels.
    """
    default = REGULARIZERS.load(regularizer).Options.model_fields["lam"].default
    multiples = MULTIPLES[:2] if estimated else MULTIPLES
    return tuple(float(f"{default * m:.6g}") for m in multiples)


def require_search(
    epochs: int, regularizers: Collection[str], held_out: int, idle: float = 0
) -> None:
    """Raise UsageError if there is nothing to search, or too little to decide by.

    Args:
        epochs: of the run.
        regularizers: the names of all.
        held_out: number of images to decide by.
        idle: epochs in which the backbone is frozen or warms up: candidates hardly differ then.
    """
    first = decisions(epochs)[0]
    if not regularizers:
        text = "there is no regularizer whose strength could be chosen"
    elif epochs < MIN_EPOCHS:
        text = f"{epochs} epochs are too few to decide by; use at least {MIN_EPOCHS}"
    elif idle >= first:
        text = (
            f"the first decision is after {first} of {epochs} epochs, but `freeze_epochs` and "
            f"`warmup` take {idle:g}, in which the candidates hardly differ"
        )
    elif not held_out:
        text = "no image is held out to decide by (no class has 3 or more); set a number"
    else:
        return
    raise UsageError(f"auto: {text}", option="lam")


class _SavedSearch(StrictModel):
    """The content of search.json, see `SearchResult`."""

    chosen: Annotated[float, Field(ge=0)]
    scores: dict[str, list[float | None]]
    epochs: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
    why: str | None = None


def read_search(run: RunFolder) -> SearchResult:
    """Return the result of a search that has ended. Raises GtaError for a file of other content."""
    value = run.read_json(SEARCH_FILE)
    try:
        saved = _SavedSearch.model_validate(value)
    except ValidationError:
        text = f"{run.path / SEARCH_FILE} is damaged: it is no result of a search"
        raise GtaError(text, option="resume") from None
    return cast(SearchResult, saved.model_dump())


def search(
    candidates: Sequence[float],
    epochs: int,
    held_out: Callable[[], int],
    run: RunFolder,
    train: Train,
    weakest: bool = False,
    why: str | None = None,
) -> SearchResult:
    """Choose among `candidates`; the files of the best one become those of `run`.

    Args:
        candidates: strengths.
        epochs: of the whole run.
        held_out: returns the number of images that accuracies were measured on.
        run: its folder; the candidates train in folders below it, and continue there after a kill.
        train: trains a candidate.
        weakest: of candidates that the images cannot separate take the weakest.
        why: the reason, for the result.

    Raises:
        Interrupted: with the way to resume.
        RunError: when every candidate failed.
    """
    started = time.perf_counter()
    folders = {c: run.subfolder(f"search/{c:g}") for c in candidates}
    scores: dict[float, list[float]] = {c: [] for c in candidates}
    trained = dict.fromkeys(candidates, 0)
    alive, chosen = sorted(candidates), 0.0
    for stop in decisions(epochs):
        for lam in alive:
            score, trained[lam] = _train_candidate(train, lam, folders[lam], stop)
            scores[lam].append(score)
            if score >= 0:
                log.info("`lam=auto`: %g: %.1f %% after %d epochs", lam, 100 * score, stop)
        best = max(alive, key=lambda lam: (scores[lam][-1], -lam if weakest else lam))
        if scores[best][-1] < 0:
            raise RunError(
                "auto: training failed with every strength; try a smaller `lr`", option="lam"
            )
        chosen = within_error({lam: scores[lam][-1] for lam in alive}, held_out(), weakest)
        alive = sorted({best, chosen})
    result: SearchResult = {
        "chosen": chosen,
        "scores": {f"{c:g}": [None if s < 0 else s for s in scores[c]] for c in candidates},
        "epochs": sum(trained.values()),
        "seconds": round(time.perf_counter() - started, 2),
        "why": why,
    }
    run.copy_progress(folders[chosen])
    run.write_json(SEARCH_FILE, result)
    run.remove("search")
    return result


def within_error(accuracies: Mapping[float, float], images: int, weakest: bool = False) -> float:
    """Return the greatest or least strength within one standard error of the best accuracy.

    Args:
        accuracies: fractions, by strength.
        images: the number that they were measured on.
        weakest: return the least.
    """
    best = max(accuracies.values())
    error = standard_error(best, images)
    equal = [lam for lam, accuracy in accuracies.items() if accuracy >= best - error]
    return min(equal) if weakest else max(equal)


def _train_candidate(train: Train, lam: float, folder: RunFolder, stop: int) -> tuple[float, int]:
    """Train a candidate up to epoch `stop`.

    Returns: its best accuracy so far on the held-out images, -1 where the training failed; and the
        number of its epochs.
    """
    try:
        rows = [row for row in train(lam, folder, stop) if row["epoch"] < stop]
    except Interrupted:
        raise Interrupted(
            "stopped while `lam=auto` was choosing; "
            f"continue with `resume` {folder.path.parent.parent}"
        ) from None
    except RunError as e:
        log.warning("`lam=auto`: %g is dropped: %s", lam, e)
        return -1.0, stop
    measured = [score for row in rows if (score := score_of(row)) is not None]
    if not measured:
        raise RunError("auto: no held-out image could be read to decide by", option="lam")
    return max(measured), len(rows)
