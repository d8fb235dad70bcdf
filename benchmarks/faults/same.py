"""Run commands twice: are the files equal, byte for byte? What do threads and processes change?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from cases import CASES, CUT, FINETUNE, PRETRAIN, PROBE, Plan, differences
from commands import Gta
from fixtures import made_fixtures
from records import Records

VIEWS = ["--mix", "transmix", "--color-jitter", "0.4", "--random-erasing", "0.25"]
VIEWS += ["--auto-augment", "rand-m9-mstd0.5-inc1", "--drop-path", "0.1"]
COMMANDS = {
    "finetune": [*FINETUNE, *VIEWS],
    "pretrain": PRETRAIN,
    "discover": ["discover", "{photos}", "--teacher", "demo", *CUT],
    "segment": ["segment", "{photos}", "-m", "demo", *CUT],
    "attn-maps": ["attn-maps", "{photos}", "-m", "demo", "--style", "raw"],
    "knn": ["probe", "knn", *PROBE, "--k", "3"],
}
TRAIN = ("finetune", "pretrain")
VARIANTS: dict[str, tuple[list[str], dict[str, str], tuple[str, ...]]] = {
    # name: (words, environment, commands)
    "two threads": ([], {"OMP_NUM_THREADS": "2"}, tuple(COMMANDS)),
    "two workers": (["--workers", "2"], {}, ("finetune", "pretrain", "discover", "segment")),
    "two processes": (["--nproc", "2"], {}, TRAIN),
    "no cache": (["--cache", "none"], {}, ("finetune",)),
    "batches of 7": (["--batch-size", "7"], {}, ("discover", "segment", "attn-maps", "knn")),
}


def run(place: Path, records: Records, only: list[str]) -> None:
    """Do every command twice, then each variant."""
    fixtures = made_fixtures()
    again = [f"again: {name}" for name in CASES if CASES[name].exact or CASES[name].cost == 1]
    units = [*again, *(f"{v}: {c}" for v, (_, _, commands) in VARIANTS.items() for c in commands)]
    for unit in records.left(u for u in units if not only or u.split(": ")[1] in only):
        kind, name = unit.split(": ")
        if kind == "again":
            run_again(place, records, unit, name, fixtures)
        else:
            run_variant(place, records, unit, kind, name, fixtures)


def run_again(place: Path, records: Records, unit: str, name: str, fixtures: Path) -> None:
    """Compare a command with the same one in a new process, with other hashes of strings.

    Both write into a folder of the same name, one after the other.
    """
    out, kept = place / name / "out", place / name / "first"
    shutil.rmtree(place / name, ignore_errors=True)
    plan = Plan(name, out, fixtures)
    one = Gta(place / name, fork=True).run(plan.first)
    out.rename(kept)
    other = Gta(place / name, {"PYTHONHASHSEED": "77"}).run(plan.first)
    defects = [f"{d['rc']}: {d['last']}" for d in (one, other) if d["rc"] != 0]
    defects += differences(kept, out, (out, out))
    bytes_differ = [
        str(p.relative_to(kept))
        for p in sorted(kept.rglob("*"))
        if p.is_file() and p.read_bytes() != (out / p.relative_to(kept)).read_bytes()
    ]
    files = sum(p.is_file() for p in kept.rglob("*"))
    totals = {"commands": 1, "files": files, "equal bytes": files - len(bytes_differ)}
    records.add(unit, defects, totals=totals, bytes_differ=bytes_differ)


def run_variant(
    place: Path, records: Records, unit: str, kind: str, name: str, fixtures: Path
) -> None:
    """Measure how far a variant is from the plain command."""
    words = [w.format(photos=fixtures / "photos") for w in COMMANDS[name]]
    plain, out = place / f"plain-{name}", place / f"{name}-{kind.replace(' ', '-')}"
    if not plain.is_dir():
        done = Gta(place, fork=True).run([*words, "-o", plain])
        assert done["rc"] == 0, done["last"]
    shutil.rmtree(out, ignore_errors=True)
    more, env, _ = VARIANTS[kind]
    done = Gta(place, env, fork=True).run([*words, *more, "-o", out])
    defects = [f"{done['rc']}: {done['last']}"] if done["rc"] != 0 else []
    records.add(unit, defects, sizes=None if defects else sizes(plain, out))


def sizes(left: Path, right: Path) -> dict[str, Any]:
    """Return the largest differences of tensors and arrays, and the number of other pixels."""
    import numpy as np
    from PIL import Image

    found: dict[str, Any] = {}
    one, other = arrays(left), arrays(right)
    for kind in {name.partition("/")[0] for name in one}:
        names = [name for name in one.keys() & other.keys() if name.startswith(kind)]
        pairs = [(one[n].astype(np.float64), other[n].astype(np.float64)) for n in names]
        found[kind] = {
            "largest difference": max((float(np.abs(a - b).max(initial=0)) for a, b in pairs)),
            "largest value": max(float(np.abs(a).max(initial=0)) for a, _ in pairs),
            "values": sum(a.size for a, _ in pairs),
            "other values": sum(int((a != b).sum()) for a, b in pairs),
        }
    pixels = [
        [np.asarray(Image.open(p)) for p in (path, right / path.relative_to(left))]
        for path in sorted(left.rglob("*.png"))
    ]
    if pixels:
        changed = sum(int((a != b).sum()) for a, b in pixels)
        found["pixels"] = {"values": sum(a.size for a, _ in pixels), "other values": changed}
    found["files that differ"] = differences(left, right)
    return found


def arrays(folder: Path) -> dict[str, Any]:
    """Return all tensors and arrays of a folder, by their kinds and names."""
    import numpy as np
    from safetensors.numpy import load_file

    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        kind = "features" if path.parent.name == "features" else path.stem
        content = load_file(path)
        if kind == "features":  # files are named after their keys
            content = {str(content["keys"].tobytes()): content["values"]}
        found |= {f"{kind}/{name}": value for name, value in content.items()}
    for path in sorted(folder.rglob("*.npy")):
        content = np.load(path)
        if content.dtype.names is None:
            found[f"maps/{path.relative_to(folder)}"] = content
        elif "map" in content.dtype.names:
            found |= {f"maps/{row['digest'].tobytes()!r}": row["map"] for row in content}
    return found
