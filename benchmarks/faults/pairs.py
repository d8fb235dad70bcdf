"""Start two commands on one folder, together or one while the other is at work.

Either both do right, as if one had come after the other, or one is refused with one line that names
the other; what the other one wrote is then as if it had been alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import CUT, FINETUNE, PRETRAIN, PROBE, differences
from commands import Gta, hidden, outcome
from fixtures import made_fixtures
from records import Records

IMAGES = ["{images}", "--batch-size", "4"]
SEGMENT = ["segment", *IMAGES, "-m", "demo", *CUT]
MAPS = ["attn-maps", *IMAGES, "-m", "demo"]
DISCOVER = ["discover", *IMAGES, "--teacher", "demo", "--layer", "-2"]
KNN = ["probe", "knn", *PROBE, "--k", "3"]
OUT = ["--out", "{root}/out"]
QUEUE = [*OUT, "--resume", "auto"]
CACHE = ["--cache", "{root}/features"]


def finished(words: list[str]) -> Callable[[Gta, Path, Path], None]:
    """Return a preparation: a finished run."""

    def prepare(gta: Gta, root: Path, fixtures: Path) -> None:
        done = gta.run(fill(words, root, fixtures))
        assert done["rc"] == 0, done["last"]

    return prepare


def interrupted(words: list[str], name: str) -> Callable[[Gta, Path, Path], None]:
    """Return a preparation: a run that was killed once it had written a file."""

    def prepare(gta: Gta, root: Path, fixtures: Path) -> None:
        process = gta.start(fill(words, root, fixtures))
        while process.poll() is None and not (root / "out" / name).exists():
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)

    return prepare


@dataclass(frozen=True)
class Pair:
    """Two command lines; {root} is a folder of their own."""

    one: list[str]
    other: list[str]
    prepare: Callable[[Gta, Path, Path], None] | None = None
    ignored: str = ""  # a file that shows the run as it was when it was read


AT_WORK = "at work"
RESUME = ["finetune", "--resume", "{root}/out"]
PAIRS = {
    "finetune, finetune": Pair([*FINETUNE, *OUT], [*FINETUNE, *OUT]),
    "finetune, pretrain": Pair([*FINETUNE, *OUT], [*PRETRAIN, *OUT]),
    "pretrain, pretrain": Pair([*PRETRAIN, *OUT], [*PRETRAIN, *OUT]),
    "finetune, finetune of a queue": Pair([*FINETUNE, *QUEUE], [*FINETUNE, *QUEUE]),
    "finetune, finetune, overwriting": Pair(
        [*FINETUNE, *OUT, "--overwrite"],
        [*FINETUNE, *OUT, "--overwrite", "--seed", "1"],
        finished([*FINETUNE, *OUT]),
    ),
    "resume, resume": Pair(RESUME, RESUME, interrupted([*FINETUNE, *OUT], "state.pt")),
    "finetune, discover": Pair([*FINETUNE, *OUT], [*DISCOVER, "--tau", "0.3", *OUT]),
    "finetune, segment": Pair([*FINETUNE, *OUT], [*SEGMENT, *OUT]),
    "finetune, knn": Pair([*FINETUNE, *OUT], [*KNN, *OUT]),
    "finetune, report": Pair(
        [*FINETUNE, *OUT, "--overwrite"],
        ["report", "{root}/out", "--no-images", "-o", "{root}/page.html"],
        finished([*FINETUNE, *OUT]),
        "page.html",
    ),
    "segment, segment": Pair([*SEGMENT, *OUT], [*SEGMENT, *OUT]),
    "segment, attn-maps": Pair([*SEGMENT, *OUT], [*MAPS, *OUT]),
    "segment, segment, resuming": Pair(
        [*SEGMENT, *OUT, "--resume"],
        [*SEGMENT, *OUT, "--resume"],
        interrupted([*SEGMENT, *OUT], "journal.jsonl"),
    ),
    "attn-maps, attn-maps": Pair([*MAPS, *OUT], [*MAPS, *OUT]),
    "discover, discover": Pair(
        [*DISCOVER, "--tau", "0.3", *OUT], [*DISCOVER, "--tau", "0.3", *OUT]
    ),
    "discover, discover with other options": Pair(
        [*DISCOVER, "--tau", "0.3", *OUT], [*DISCOVER, "--tau", "0.2", *OUT]
    ),
    "knn, knn": Pair([*KNN, *OUT], [*KNN, *OUT]),
    "knn, linear": Pair([*KNN, *OUT], ["probe", "linear", *PROBE, *OUT]),
    "knn, linear with one cache": Pair(
        [*KNN, "-o", "{root}/a", *CACHE], ["probe", "linear", *PROBE, "-o", "{root}/b", *CACHE]
    ),
    "demo, demo": Pair(
        ["demo", "--seeds", "1", "--epochs", "1", *OUT],
        ["demo", "--seeds", "1", "--epochs", "1", *OUT],
    ),
    "finetune, finetune without --out": Pair(FINETUNE, FINETUNE),
    "segment, segment without --out": Pair(SEGMENT, SEGMENT),
}


def impatient() -> None:
    from gtacli.runtime import ownership

    ownership.PATIENCE = 0.0


def fill(words: list[str], root: Path, fixtures: Path) -> list[str]:
    photos = str(fixtures / "photos")
    return [word.format(root=root, photos=photos, images=photos) for word in words]


def run(place: Path, records: Records, only: list[str]) -> None:
    """Do every pair, started together and one after 40 % of the other's time."""
    fixtures = made_fixtures()
    names = [n for n in PAIRS if not only or n in only]
    units = [f"{name}: {mode}" for name in names for mode in ("together", AT_WORK)]
    for unit in records.left(units):
        name, mode = unit.split(": ")
        number = [*PAIRS].index(name)
        defects, totals = try_pair(place / str(number), PAIRS[name], mode, fixtures)
        records.add(unit, defects, totals=totals)


def try_pair(
    place: Path, pair: Pair, mode: str, fixtures: Path
) -> tuple[list[str], dict[str, int]]:
    """Return the defects, and which way it went."""
    references = Alone(place, pair, fixtures)
    root = references.root
    gta = references.begin()
    first = gta.start(fill(pair.one, root, fixtures))
    start = time.monotonic()
    if mode == AT_WORK:
        while first.poll() is None and time.monotonic() - start < 0.4 * references.seconds:
            time.sleep(0.003)
    # Every second time it does not wait for the owner's end.
    second = gta.start(
        fill(pair.other, root, fixtures), before=impatient if mode == AT_WORK else None
    )
    ended = []
    for process, words in ((first, pair.one), (second, pair.other)):
        out, err = process.communicate(timeout=300)
        ended.append(outcome(words, process.returncode, out, err, 0))
    defects = [f"left: {hidden(root)[:5]}"] if hidden(root) else []
    refused = [one for one in ended if one["rc"] != 0]
    for one in refused:
        lines = [x for x in one["err"].splitlines() if x.startswith("error: ")]
        named = "in use by gta " in one["err"] or "is not empty" in one["err"]
        named |= "have maps of" in one["err"] or "has maps" in one["err"] or "choose" in one["err"]
        if one["rc"] != 2 or len(lines) != 1 or not named:
            defects.append(f"{one['rc']}: {one['err'][-300:]}")
    if len(refused) == 2:
        defects.append("both are refused")
    order = "".join(str(i) for i, one in enumerate(ended) if one["rc"] == 0)
    found = [references.differences(each) for each in {order, order[::-1]}]
    if all(found):
        defects.append(f"results: {found[0][:5]}")
    by_owner = sum("in use by gta " in one["err"] for one in refused)
    return defects, {
        "pairings": 1,
        "both right": int(not refused and not defects),
        "one refused by the owner's name": int(by_owner == 1 and not defects),
        "one refused, as the folder is used": int(len(refused) > by_owner and not defects),
    }


class Alone:
    """What the commands of a pair leave when one comes after the other.

    Attributes:
        root: the folder in which they run; all results of a pair arise in the same one.
        seconds: that the first one takes.
    """

    def __init__(self, place: Path, pair: Pair, fixtures: Path) -> None:
        self.place, self.pair, self.fixtures = place, pair, fixtures
        self.root = place / "root"
        place.mkdir(parents=True, exist_ok=True)
        for order in ("0", "1", "01", "10"):  # before the pair: they need its folder
            self.order(order)
        self.seconds = json.loads((place / "0.json").read_text())[0]["seconds"]

    def begin(self) -> Gta:
        """Make the folder anew, as the pair wants it."""
        shutil.rmtree(self.root, ignore_errors=True)
        gta = Gta(self.root, fork=True)
        if self.pair.prepare is not None:
            self.pair.prepare(gta, self.root, self.fixtures)
        return gta

    def order(self, order: str) -> tuple[Path, list[dict[str, Any]]]:
        """Return the folder after commands in this order ("01": both), and their outcomes."""
        kept, told = self.place / f"after-{order}", self.place / f"{order}.json"
        if not told.is_file():
            gta = self.begin()
            words = (self.pair.one, self.pair.other)
            done = [gta.run(fill(words[int(i)], self.root, self.fixtures)) for i in order]
            shutil.rmtree(kept, ignore_errors=True)
            self.root.rename(kept)
            told.write_text(json.dumps(done))
        return kept, json.loads(told.read_text())

    def differences(self, order: str) -> list[str]:
        kept, done = self.order(order)
        if any(one["rc"] != 0 for one in done):
            return [f"in the order {order} one is refused"]
        if (kept / "runs").is_dir():  # named after the time
            mine, theirs = (sorted((p / "runs").iterdir()) for p in (self.root, kept))
            if len(mine) != len(theirs):
                return [f"{len(mine)} folders instead of {len(theirs)}"]
            return [
                d
                for a, b in zip(mine, theirs, strict=True)
                for d in differences(b, a, (Path("runs", b.name), Path("runs", a.name)))
            ]
        found = differences(kept, self.root, (self.root, self.root))
        return [d for d in found if not self.pair.ignored or self.pair.ignored not in d]
