"""Images and classes of odd names, and what is no regular file among images.

Every command must give a result for every image that can be read, name the others, and end within
`PATIENCE` seconds, without an exception's name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import CUT
from commands import CLASS_NAME, Gta
from fixtures import TINY, made_fixtures
from records import Records

PATIENCE = 120.0
NAMES = [
    "new\nline", "tab\tname", 'quo"te', "apo'strophe", "emoji \U0001f426", "back\\slash", "-dash",
    "--out", " lead", "trail ", "percent%s", "*star?", "[set]", "{brace}", "$HOME", "`id`", ";semi",
    "<b>tag</b>".replace("/", "\u2215"), "colon:name", "e\u0301", "\u202ertl", "com1", "nul",
    "a" * 240, "ü" * 120, os.fsdecode(b"bad\xff\xfeutf8"), "dots..", "@at", "#hash",
    "~tilde", "\x1b[31mred", "run.json", "journal.jsonl",
]  # fmt: skip
KINDS: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "random": lambda path: path.symlink_to("/dev/random"),
    "null": lambda path: path.symlink_to("/dev/null"),
    "dangling": lambda path: path.symlink_to(path.with_name("nothing.png")),
    "self": lambda path: path.symlink_to(path),
    "loop": lambda path: path.with_name("loop").symlink_to(path.parent),
    "folder": Path.mkdir,
    "empty": Path.touch,
    "socket": lambda path: _bind(path),
}
EACH = 3


def run(place: Path, records: Records, only: list[str]) -> None:
    """Try the names as images and as classes, and each special file, with every command."""
    fixtures = made_fixtures()
    source = sorted((fixtures / "photos").rglob("*.png"))
    gta = Gta(place, fork=True)
    verbs = ["segment", "attn-maps", "predict", "discover", "finetune", "knn"]
    units = [f"{verb} names" for verb in verbs] + ["report names"]
    units += [f"{verb} {kind}" for kind in KINDS for verb in verbs]
    for unit in records.left([u for u in units if not only or set(only) & set(u.split())]):
        verb, kind = unit.split()
        shutil.rmtree(place / "in", ignore_errors=True)
        shutil.rmtree(place / "out", ignore_errors=True)
        as_classes = verb in ("finetune", "knn", "report")
        make = make_classes if as_classes else make_names
        count = make(place / "in", source) if kind == "names" else 2 * EACH
        if kind != "names":
            make_special(place / "in", source, KINDS[kind])
        if verb == "report":
            gta.run(words("finetune", place, fixtures), timeout=PATIENCE)
        done = gta.run(words(verb, place, fixtures), timeout=PATIENCE)
        defects = faults_of(done, None if as_classes or verb == "discover" else count, kind)
        if verb == "report" and "<b>tag" in (place / "page.html").read_text("utf-8", "replace"):
            defects.append("a name is HTML")
        records.add(unit, defects, status=done["rc"], totals={"commands": 1})


def words(verb: str, place: Path, fixtures: Path) -> list[Any]:
    """Return the command line."""
    given, out = place / "in", ["--out", place / "out"]
    return {
        "segment": ["segment", given, "-m", "demo", *CUT, "--json", *out],
        "attn-maps": ["attn-maps", given, "-m", "demo", "--json", *out],
        "predict": ["predict", given, "-m", fixtures / "run", "--json"],
        "discover": ["discover", given, "--teacher", "demo", *CUT, "--json", *out],
        "finetune": ["finetune", "-m", "demo", "--data", given, *TINY, "--workers", "0", "--json",
                     *out],
        "knn": ["probe", "knn", "--model", "demo", "--data", given, "--k", "1", "--json", *out],
        "report": ["report", place / "out", "--out", place / "page.html", "--json"],
    }[verb]  # fmt: skip


def faults_of(done: dict[str, Any], wanted: int | None, kind: str) -> list[str]:
    """Return what is wrong with the end of a command; `wanted`: images that have results."""
    defects = []
    if done["rc"] not in (0, 1) and not (done["rc"] == 2 and "error: " in done["err"]):
        defects.append(f"status {done['rc']}: {done['err'][-300:]}")
    lines = [json.loads(line) for line in done["out"].splitlines() if line.startswith("{")]
    errors = "\n".join(str(line["error"]) for line in lines if "error" in line)
    said = f"{done['err']}\n{errors}"
    if found := CLASS_NAME.search(said):
        defects.append(f"{found[0]}: {said[-300:]}")
    if re.search("[\0-\x08\x0b-\x1f\x7f]", done["err"]):
        defects.append("a control character on the terminal")
    named = {line["image"] for line in lines if "image" in line and "error" not in line}
    if wanted is not None and kind != "loop" and len(named) != wanted:
        defects.append(f"{len(named)} of {wanted} images: {done['err'][-300:]}")
    return defects


def make_names(folder: Path, source: list[Path]) -> int:
    """Write an image under each name; return how many the file system takes."""
    folder.mkdir(parents=True)
    count = 0
    for i, name in enumerate(NAMES):
        try:
            shutil.copy(source[i % len(source)], folder / f"{name}.png")
            count += 1
        except OSError:
            continue
    return count


def make_classes(folder: Path, source: list[Path]) -> int:
    """Write a folder of images under each name."""
    for i, name in enumerate(NAMES):
        place = folder / name[:80]
        place.mkdir(parents=True)
        for k in range(EACH):
            shutil.copy(source[(EACH * i + k) % len(source)], place / f"{k}.png")
    return EACH * len(NAMES)


def make_special(folder: Path, source: list[Path], make: Callable[[Path], object]) -> None:
    """Write two classes of images, one with what is no regular file."""
    for i, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for k in range(EACH):
            shutil.copy(source[EACH * i + k], folder / name / f"{k}.png")
    make(folder / "a" / "odd.png")


def _bind(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)
