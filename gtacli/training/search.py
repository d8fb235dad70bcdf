"""`--lam auto`: the strength of the first regulariser, chosen on held-out training images.

Successive halving (Jamieson and Talwalkar, 2016) over nothing, a tenth, one and ten times the
regulariser's own default. The candidates are the run itself, each with its strength and the whole
schedule: all four train a quarter of the epochs, the better two go on to the half, and the best
one becomes the run. So nothing that the winner learnt is thrown away, its weights are those of a
run that was given this strength, and all of it costs twice a run's epochs.

A few dozen held-out images hardly tell accuracies apart, so what counts is their cross-entropy,
averaged over the epochs since the last decision.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from gtacli.errors import Interrupted, RunError, UsageError
from gtacli.registry import REGULARIZERS
from gtacli.training.runs import RunFolder

log = logging.getLogger(__name__)

SEARCH_FILE = "search.json"
SHARES = (0.25, 0.5)  # of the epochs, after which half of the candidates are dropped
MULTIPLES = (0.0, 0.1, 1.0, 10.0)
MIN_EPOCHS = 4
Train = Callable[[float, RunFolder, int], list[dict[str, Any]]]


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        chosen: the strength.
        scores: held-out cross-entropy by candidate, at each decision that it reached; None where
            the training failed.
        epochs: trained for all candidates together, up to the last decision.
        seconds: that this took.
    """

    chosen: float
    scores: dict[str, list[float | None]]
    epochs: int
    seconds: float

    def report(self, run_epochs: int) -> str:
        """What was chosen and what it cost, for the log."""
        share = self.epochs - math.ceil(SHARES[-1] * run_epochs)
        cost = f"{share} epochs more than a run of {run_epochs}, {self.seconds:.0f} s so far"
        if self.chosen == 0:
            return (
                "--lam auto: 0 won: on the held-out images no strength did better than plain "
                f"fine-tuning, so nothing holds this run ({cost})"
            )
        return f"--lam auto: {self.chosen:g} ({cost})"


def choices(regularizer: str) -> tuple[float, ...]:
    """The strengths that are tried for a regulariser, ascending from 0."""
    default = REGULARIZERS.load(regularizer).Options.model_fields["lam"].default
    return tuple(float(f"{default * m:.6g}") for m in MULTIPLES)


def require_search(
    epochs: int, regularizers: Collection[str], held_out: int, freeze_epochs: int = 0
) -> None:
    """Raise UsageError where there is nothing to search, or nothing to choose by."""
    if not regularizers:
        raise UsageError("--lam auto: there is no regulariser whose strength could be chosen")
    if epochs < MIN_EPOCHS:
        raise UsageError(
            f"--lam auto: {epochs} epochs are too few to decide by; {MIN_EPOCHS} will do"
        )
    first = math.ceil(SHARES[0] * epochs)
    if freeze_epochs >= first:
        raise UsageError(
            f"--lam auto: after {first} of {epochs} epochs it has to decide, "
            f"and --freeze-epochs {freeze_epochs} lets nothing differ until then"
        )
    if not held_out:
        raise UsageError(
            "--lam auto: no image is held out to choose by (no class has 3 or more); say --lam"
        )


def search(candidates: Sequence[float], epochs: int, run: RunFolder, train: Train) -> Search:
    """Choose among `candidates`; the winner's files become those of `run`.

    Args:
        epochs: of the whole run.
        run: its folder; the candidates train in folders below it, and go on there after a kill.
        train: (strength, folder, epochs to stop after) -> the rows of all its epochs so far.

    Raises:
        Interrupted: with the way to go on.
        RunError: when every candidate failed.
    """
    started = time.perf_counter()
    folders = {c: run.below(f"search/{c:g}") for c in candidates}
    scores: dict[float, list[float]] = {c: [] for c in candidates}
    alive, begun, trained = list(candidates), 0, 0
    for stop in (math.ceil(share * epochs) for share in SHARES):
        for lam in alive:
            score = _score(train, lam, folders[lam], begun, stop)
            scores[lam].append(score)
            log.info("--lam auto: %g, epochs %d-%d: loss %.4f", lam, begun + 1, stop, score)
        trained += len(alive) * (stop - begun)
        # The sort is stable: on a tie the smaller strength, which is nearer to doing nothing.
        alive = sorted(sorted(alive, key=lambda lam: scores[lam][-1])[: len(alive) // 2])
        begun = stop
    chosen = alive[0]
    if not math.isfinite(scores[chosen][-1]):
        raise RunError("--lam auto: the training failed with every strength; try a smaller --lr")
    found = Search(
        chosen,
        {f"{c:g}": [s if math.isfinite(s) else None for s in scores[c]] for c in candidates},
        trained,
        round(time.perf_counter() - started, 2),
    )
    run.adopt(folders[chosen])
    run.write_json(SEARCH_FILE, asdict(found))
    run.remove("search")
    return found


def _score(train: Train, lam: float, folder: RunFolder, begun: int, stop: int) -> float:
    """Mean loss on the held-out images over the epochs from `begun` up to `stop`."""
    try:
        rows = train(lam, folder, stop)
    except Interrupted:
        raise Interrupted(
            "stopped while --lam auto was choosing; "
            f"go on with --resume {folder.path.parent.parent}"
        ) from None
    except RunError as e:
        log.warning("--lam auto: %g is out: %s", lam, e)
        return math.inf
    # A dry run has its first epoch alone; a resumed one may be past `stop`.
    scored = [row for row in rows if begun <= row["epoch"] < stop] or rows
    return fmean(row["val_loss"] for row in scored)
