"""`--lam auto`: the strength of the first regulariser, chosen on held-out training images.

Successive halving (Jamieson and Talwalkar, 2016) over nothing, the regulariser's own default, and
ten times it. The candidates are the run itself, each with its strength and the whole schedule:
three train two fifths of the epochs, at most two go on to three fifths, and one becomes the run. So
nothing that the winner learnt is thrown away, its weights are those of a run that was given this
strength, and all of it costs at most twice a run's epochs.

Where labels are few, so are the held-out images, and they can seldom tell two candidates apart. So
the one-standard-error rule decides (Breiman et al., Classification and Regression Trees, 1984): the
strongest regularisation whose accuracy, in the best epoch so far, lies within one standard error of
the best. At the first decision the best goes on beside it. 0 wins where every strength does harm
that the held-out images can see.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gtacli.errors import Interrupted, RunError, UsageError
from gtacli.registry import REGULARIZERS
from gtacli.runtime.run_folder import RunFolder

log = logging.getLogger(__name__)

SEARCH_FILE = "search.json"
MULTIPLES = (0.0, 1.0, 10.0)
MIN_EPOCHS = 5
Train = Callable[[float, RunFolder, int], list[dict[str, Any]]]


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        chosen: the strength.
        scores: best held-out accuracy so far (fraction) by candidate, at each decision that it
            reached; None where the training failed.
        epochs: trained for all candidates together, up to the last decision.
        seconds: that this took.
    """

    chosen: float
    scores: dict[str, list[float | None]]
    epochs: int
    seconds: float

    def report(self, run_epochs: int) -> str:
        """What was chosen and what it cost, for the log."""
        share = self.epochs - decisions(run_epochs)[-1]
        cost = f"{share} epochs more than a run of {run_epochs}, {self.seconds:.0f} s so far"
        if self.chosen == 0:
            return (
                "--lam auto: 0 won: on the held-out images no strength did as well as plain "
                f"fine-tuning, so nothing holds this run ({cost})"
            )
        return f"--lam auto: {self.chosen:g} ({cost})"


def decisions(epochs: int) -> tuple[int, int]:
    """Epochs after which candidates are dropped: two and three fifths, rounded down, so that three
    candidates up to the first, two up to the second and one to the end are at most two runs."""
    return 2 * epochs // 5, 3 * epochs // 5


def choices(regularizer: str) -> tuple[float, ...]:
    """The strengths that are tried for a regulariser, ascending from 0."""
    default = REGULARIZERS.load(regularizer).Options.model_fields["lam"].default
    return tuple(float(f"{default * m:.6g}") for m in MULTIPLES)


def require_search(
    epochs: int, regularizers: Collection[str], held_out: int, idle: float = 0
) -> None:
    """Raise UsageError where there is nothing to search, or nothing to choose by.

    Args:
        held_out: images to choose by.
        idle: epochs in which the backbone is frozen or warms up: candidates hardly differ then.
    """
    if not regularizers:
        raise UsageError("--lam auto: there is no regulariser whose strength could be chosen")
    if epochs < MIN_EPOCHS:
        raise UsageError(
            f"--lam auto: {epochs} epochs are too few to decide by; {MIN_EPOCHS} will do"
        )
    first = decisions(epochs)[0]
    if idle >= first:
        raise UsageError(
            f"--lam auto: after {first} of {epochs} epochs it has to decide, but --freeze-epochs "
            f"and --warmup take {idle:g} in which the candidates hardly differ"
        )
    if not held_out:
        raise UsageError(
            "--lam auto: no image is held out to choose by (no class has 3 or more); say --lam"
        )


def search(
    candidates: Sequence[float],
    epochs: int,
    held_out: Callable[[], int],
    run: RunFolder,
    train: Train,
) -> Search:
    """Choose among `candidates`; the winner's files become those of `run`.

    Args:
        epochs: of the whole run.
        held_out: how many images the accuracies were measured on.
        run: its folder; the candidates train in folders below it, and go on there after a kill.
        train: (strength, folder, epochs to stop after) -> the rows of all its epochs so far.

    Raises:
        Interrupted: with the way to go on.
        RunError: when every candidate failed.
    """
    started = time.perf_counter()
    folders = {c: run.subfolder(f"search/{c:g}") for c in candidates}
    scores: dict[float, list[float]] = {c: [] for c in candidates}
    trained = dict.fromkeys(candidates, 0)
    alive, chosen = sorted(candidates), 0.0
    for stop in decisions(epochs):
        for lam in alive:
            score, trained[lam] = _score(train, lam, folders[lam], stop)
            scores[lam].append(score)
            if score >= 0:
                log.info("--lam auto: %g: %.1f %% after %d epochs", lam, 100 * score, stop)
        best = max(alive, key=lambda lam: (scores[lam][-1], lam))
        if scores[best][-1] < 0:
            raise RunError("--lam auto: training failed with every strength; try a smaller --lr")
        chosen = strongest({lam: scores[lam][-1] for lam in alive}, held_out())
        alive = sorted({best, chosen})
    found = Search(
        chosen,
        {f"{c:g}": [None if s < 0 else s for s in scores[c]] for c in candidates},
        sum(trained.values()),
        round(time.perf_counter() - started, 2),
    )
    run.copy_progress(folders[chosen])
    run.write_json(SEARCH_FILE, asdict(found))
    run.remove("search")
    return found


def strongest(accuracies: Mapping[float, float], images: int) -> float:
    """The greatest strength within one standard error of the best accuracy (fractions, measured on
    so many images)."""
    best = max(accuracies.values())
    error = math.sqrt(best * (1 - best) / images)
    return max(lam for lam, accuracy in accuracies.items() if accuracy >= best - error)


def _score(train: Train, lam: float, folder: RunFolder, stop: int) -> tuple[float, int]:
    """(best accuracy on the held-out images in the epochs before `stop`, how many were trained);
    -1 where the training failed."""
    try:
        rows = [row for row in train(lam, folder, stop) if row["epoch"] < stop]
    except Interrupted:
        raise Interrupted(
            "stopped while --lam auto was choosing; "
            f"go on with --resume {folder.path.parent.parent}"
        ) from None
    except RunError as e:
        log.warning("--lam auto: %g is out: %s", lam, e)
        return -1.0, stop
    measured = [row["val_top1"] for row in rows if row["val_top1"] is not None]
    if not measured:
        raise RunError("--lam auto: no held-out image could be read, so there is nothing to go by")
    return max(measured), len(rows)
