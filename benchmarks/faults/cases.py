"""The commands that write, each with the documented way to go on, and what their results are."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CUT = ["--layer", "-2", "--tau", "0.3"]
FINETUNE = ["finetune", "--model", "demo", "--data", "{photos}", "--epochs", "2"]
FINETUNE += ["--batch-size", "8", "--image-size", "36", "--workers", "0"]
PRETRAIN = ["pretrain", "--recipe", "pretrain-demo", "--data", "{photos}", "--epochs", "3"]
PRETRAIN += ["--batch-size", "8", "--workers", "0"]
PROBE = ["--model", "demo", "--data", "{photos}"]


@dataclass(frozen=True)
class Case:
    """A command but for its folder.

    Attributes:
        words: with {photos}, {images} and {run} in place of folders.
        way: how it goes on. "run": `--resume OUT`, or the command with `--resume auto`; "flag": the
            command with `--resume`; "again": the command; "overwrite": with `--overwrite`.
        cost: about how many times longer than the shortest.
        exact: whether it can die at every single write (it is one process).
    """

    words: list[str]
    way: str
    cost: int = 1
    exact: bool = True


CASES = {
    "finetune": Case(FINETUNE, "run"),
    "workers": Case([*FINETUNE, "--workers", "2"], "run", exact=False),
    "refit": Case([*FINETUNE, "--refit"], "run"),
    "lam-auto": Case([*FINETUNE, "--epochs", "5", "--lam", "auto"], "run", 3),
    "source-views": Case([*FINETUNE, "--source-views", "2"], "run"),
    "ema": Case([*FINETUNE, "--ema", "0.9", "--mix", "transmix"], "run"),
    "average": Case([*FINETUNE, "--average", "source", "--refit"], "run"),
    "lora": Case([*FINETUNE, "--train", "lora", "--keep-adapter"], "run"),
    "frozen": Case([*FINETUNE, "--freeze-epochs", "1", "--patience", "2"], "run"),
    "nproc": Case([*FINETUNE, "--nproc", "2"], "run", 8, exact=False),
    "pretrain": Case(PRETRAIN, "run"),
    "pretrain-nproc": Case([*PRETRAIN, "--nproc", "2"], "run", 8, exact=False),
    "discover": Case(
        ["discover", "{images}", "--teacher", "demo", *CUT, "--batch-size", "4"], "again"
    ),
    "segment": Case(
        ["segment", "{images}", "-m", "demo", *CUT, "--batch-size", "4", "--json"], "flag"
    ),
    "segment-overlay": Case(
        ["segment", "{images}", "-m", "demo", *CUT, "--overlay", "--refine", "none", "--json"],
        "flag",
    ),
    "attn-maps": Case(
        ["attn-maps", "{images}", "-m", "demo", "--batch-size", "4", "--json"], "flag"
    ),
    "attn-maps-raw": Case(["attn-maps", "{images}", "-m", "demo", "--style", "raw"], "flag"),
    "knn": Case(["probe", "knn", *PROBE, "--k", "3"], "again"),
    "linear": Case(["probe", "linear", *PROBE], "again"),
    "fewshot": Case(["probe", "fewshot", *PROBE, "--shots", "2"], "again"),
    "retrieval": Case(["probe", "retrieval", *PROBE, "--gallery", "train"], "again"),
    "probe-attention": Case(["probe", "attention", "{images}", "--model", "demo"], "overwrite"),
    "report": Case(["report", "{run}"], "again"),
    "demo": Case(["demo", "--seeds", "1", "--epochs", "1"], "again", 8),
}


class Plan:
    """The command lines of a case in one folder.

    Args:
        fixtures: see `fixtures.make_fixtures`.
    """

    def __init__(self, name: str, out: Path, fixtures: Path) -> None:
        self.case, self.out = CASES[name], out
        places = {"photos": fixtures / "photos", "images": fixtures / "photos"}
        places |= {"run": fixtures / "small"}
        words = [word.format(**places) for word in self.case.words]
        target = out / "report.html" if name == "report" else out
        self.first = [*words, "--out", str(target)]

    def on(self, auto: bool = False) -> list[str]:
        """Return the command that goes on; `auto`: the one for queues, where there is one."""
        if self.case.way == "flag":
            return [*self.first, "--resume"]
        if self.case.way == "overwrite":
            return [*self.first, "--overwrite"]
        if self.case.way == "again":
            return self.first
        if auto:
            return [*self.first, "--resume", "auto"]
        if not (self.out / "run.json").exists():  # nothing has begun that could go on
            return self.first
        return [self.first[0], "--resume", str(self.out)]


CLOCK = {"seconds", "images_per_second", "peak_memory_mb"}
"""Keys of results that are measured by the clock, and the memory, of the machine."""
HERE = {"argv", "out", "resume", "overwrite", "run", "report", "sheet", "cache", "platform"}
"""Keys of results that name the command line or its folder."""


def differences(left: Path, right: Path, places: tuple[Path, Path] | None = None) -> list[str]:
    """Return how two folders differ: other files, or files that say something else.

    Args:
        places: the folders' names when they were written, if they were renamed.

    Figures of the clock and the names of the folders themselves are not compared; everything else
    is: of JSON every value, of states every tensor, of all other files every byte.
    """
    a, b = _files(left), _files(right)
    found = [f"missing: {n}" for n in sorted(a - b)] + [f"too much: {n}" for n in sorted(b - a)]
    for name in sorted(a & b):
        try:
            one, other = places or (left, right)
            if content(left / name, one) != content(right / name, other):
                found.append(f"differs: {name}")
        except Exception as error:  # a damaged file
            found.append(f"unreadable: {name}: {type(error).__name__} {error}")
    return found


def _files(folder: Path) -> set[str]:
    found = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)) for p in found}


def content(path: Path, root: Path) -> str:
    """Return what decides whether two files say the same."""
    if path.suffix in (".json", ".jsonl"):
        lines = [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines()
        return json.dumps([_clean(json.loads(line)) for line in lines]).replace(str(root), "OUT")
    if path.suffix == ".pt":
        return _state(path)
    if path.suffix == ".html":
        text = re.sub(r"<code>.*?</code>", "#", _text(path))
        text = re.sub(r"\d[\d.,]* ?(s|MB|images/s)\b|\d{4}-\d\d-\d\d[ T][\d:]+", "#", text)
        return _digest(text.replace(str(root), "OUT").encode())
    return _digest(path.read_bytes())


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _clean(v) for k, v in value.items() if k not in CLOCK | HERE}
    if isinstance(value, list):
        return [_clean(v) for v in value]
    return value


def _state(path: Path) -> str:
    """Return a digest of the tensors and values of a state, but for the clock's."""
    import torch

    digest = hashlib.sha256()

    def visit(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                if key not in CLOCK | HERE and key != "digest":
                    visit(f"{name}/{key}", value[key])
        elif isinstance(value, list | tuple):
            for i, each in enumerate(value):
                visit(f"{name}/{i}", each)
        elif isinstance(value, torch.Tensor):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            if isinstance(value, str) and value[:1] in ("[", "{"):
                with contextlib.suppress(ValueError):
                    value = json.dumps(_clean(json.loads(value)))
            digest.update(f"{name}={value!r}".encode())

    visit("", torch.load(path, weights_only=True))
    return digest.hexdigest()[:16]


def printed(text: str, out: Path) -> list[Any]:
    """Return the results that a command printed, as JSON, but for the clock and its folder."""
    lines = []
    for line in text.replace(str(out), "OUT").splitlines():
        with contextlib.suppress(ValueError):
            lines.append(_clean(json.loads(line)))
    return lines
