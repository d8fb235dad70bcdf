"""Record hashes of what every command computes, to see whether a change of code changes results.

    python benchmarks/same_outputs.py --gta .venv/bin/gta --out before.json
    python benchmarks/same_outputs.py --gta .venv/bin/gta --out after.json    # of the other version
    python benchmarks/same_outputs.py --compare before.json after.json

Every command runs on the built-in dataset with small settings, through the command line alone, on
one thread. Hashed are tensors, pixels, arrays, metrics and JSON lines. Left out are times, rates,
memory, versions and absolute paths; `state.pt` (resumed runs stand for it); what a cache records
about this machine's files; and prose (stderr, errors, of a report all but its data, pictures, maps
and numbers). Titles drawn into a picture are part of its pixels. `--only PATTERN` selects cases,
and the runs that they need; `--keep DIR` keeps all files, to inspect a difference.

The comparison prints one line per case and one JSON line; its exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

Items = dict[str, str]
COMPUTE = "--device cpu --workers 0"
SHARED = f"{COMPUTE} --seed 3 --batch-size 8 -o out --json"
RUN, PLAIN, MAPS = "finetune-gta/out", "finetune-none/out", "discover-tokencut/out"
TIMEOUT = 600
LEFT_OUT = {
    "argv", "versions", "version", "platform", "threads", "system", "python", "devices",
    "seconds", "images_per_second", "peak_memory_mb", "bytes", "bytes_a_map",
    "path", "value", "backend_version", "format", "of",
}  # fmt: skip
"""Keys of JSON that are not compared: costs, versions, places, digests of unordered headers."""
PROSE = {"weights", "error"}
"""Keys of texts for people; only their numbers are compared."""

FINETUNE = {
    "gta": "",
    "none": "--regularizer none",
    "l2-sp": "--regularizer l2-sp",
    "bss": "--regularizer bss",
    "gta-bss": "--regularizer gta --regularizer bss:0.01",
    "gta-kl": "--distance kl --decay cosine",
    "gta-msa": "--guide msa --lam 0.01",
    "gta-block": "--guide block --decay linear",
    "gta-rows-all": "--rows all --center",
    "gta-last": "--layers last --cls-column include --reduction mean",
    "lam-auto": "--lam auto --epochs 5",
    "refit": "--refit",
    "mixup": "--mix mixup",
    "cutmix": "--mix cutmix",
    "transmix": "--mix transmix",
    "transmix-attention": "--mix transmix --transmix-weight attention --mix-prob 0.5",
    "source-views": "--source-views 2 --epochs 3",
    "source-size": f"--init {PLAIN} --source demo --source-size 72 --image-size 120x96",
    "ema": "--ema 0.9 --layer-decay 0.7 --patience 1",
    "freeze": "--freeze-epochs 1 --optimizer sgd --no-flip --crop-scale 0.8",
    "sampling-rate": "--data demo --sampling-rate 15 --epochs 1",
    "shots": "--data demo --shots 2 --epochs 1",
    "track-attention": "--data small.csv --track-attention",
    "accumulate": "--batch-size 4 --accumulate 2 --clip-grad 1 --grad-checkpointing",
    "augment": "--auto-augment rand-m9-mstd0.5-inc1 --random-erasing 0.5 --color-jitter 0.4",
    "noise": "--drop-path 0.2 --label-smoothing 0.1",
    "bf16": "--precision bf16",
    "seed": "--seed 4",
    "nproc": "--nproc 2",
    "dry-run": "--dry-run",
}
PRETRAIN = {
    "mae": "",
    "tokencut": "--teacher demo",
    "dino": "--teacher demo --guide dino --teacher-size 72",
    "maps": f"--maps {MAPS}",
    "shuffle-maps": f"--maps {MAPS} --shuffle-maps --tau 0.7 --gamma 1",
    "crossmae": f"--maps {MAPS} --method crossmae --predict-ratio 0.5",
    "mask-attention": f"--maps {MAPS} --mask attention --guide none",
    "mask-inverse": f"--maps {MAPS} --mask inverse --mask-ratio 0.5 --repeats 2 --no-norm-pix",
    "size": f"--init {RUN} --image-size 72x96 --patch-size 8 --accumulate 2",
    "distilled": "--model deit_tiny_distilled_patch16_224 --image-size 64 --epochs 1",
    "rope": "--model vit_tiny_patch16_dinov3_qkvb --image-size 64 --epochs 1",
    "nproc": "--nproc 2 --teacher demo",
}
DISCOVER = {
    "tokencut": "",
    "tokencut-given": "--layer=-1 --tau 0.2 --image-size 72 --shard 0/2",
    "dino": "--backend dino",
    "gradcam": "--backend gradcam",
}
SEGMENT = {
    "tokencut": "photos --data small.csv --overlay",
    "dino": "photos --data small.csv --kind attention",
    "gradcam": "photos --data small.csv --backend gradcam",
    "bilateral": "photos --data small.csv --refine bilateral",
    "guided": "photos --data small.csv --refine guided",
    "objects": "photos --data small.csv --objects 3",
    "compare": f"--data small.csv --kind dino --compare {RUN} {PLAIN}",
    "ground-truth": "small/test --ground-truth masks/test --layer 3 --tau 0.3",
    "demo": "--data demo",
}
ATTENTION = {
    "cls": "photos --layer all --heads all --style raw",
    "overlay": "photos small/test",
    "heat": "photos --layer 0,3 --heads mean --style heat --colormap red --clip 0.97",
    "mask": "photos --heads 0,2 --style mask --mass 0.5 --stretch",
    "rollout": "photos --kind rollout --layer all --style raw",
    "gradcam": "photos --kind gradcam --style heat --image-size 72x96",
    "tokencut": "photos --kind tokencut --style mask",
    "dino": "photos --kind dino --style raw",
    "compare": f"photos small/test --compare {RUN} {PLAIN} --sheet sheet.png --sheet-rows 4",
    "layouts": "photos --layer all --style raw --model pretrain-distilled/out "
    "--compare pretrain-rope/out",
}
PROBE = {
    "knn": f"knn --data small.csv --k 3 --temperature 0.07,0.2 --features cls+mean "
    f"--layer=-2,-1 --compare {RUN} {PLAIN}",
    "linear": f"linear --data small --epochs 20 --compare {RUN}",
    "linear-on-test": "linear --data small --epochs 20 --no-race --choose-on-test",
    "linear-mae": "linear --data small --protocol mae --epochs 3 --warmup 1",
    "fewshot": f"fewshot --data small --shots 1,3 --draws 5 --compare {RUN}",
    "retrieval": f"retrieval --data small --recall 1,2 --compare {RUN}",
    "retrieval-train": "retrieval --data small --gallery train",
    "retrieval-places": "retrieval --data places --ground-truth places.json",
    "background": f"background --data small.csv --backgrounds train --model {RUN} "
    f"--compare {PLAIN}",
    "background-images": "background small/test --masks masks/test",
    "background-variants": f"background --variants in9 --mapping in9.json --model {RUN}",
    "attention": f"attention --data small.csv --compare {RUN} {PLAIN}",
    "attention-tokencut": "attention small/test photos --layer 1,-1",
    "robust": "robust --model classifier --imagenet-v2 v2 --imagenet-r r --imagenet-a r "
    "--sketch r --cue-conflict cues",
    "transfer": f"transfer --data small small.csv --compare {RUN}",
}
REPORT = {
    "finetune": f"{RUN} finetune-seed/out {PLAIN} finetune-track-attention/out --max-images 6 "
    "--mistakes 3",
    "pretrain": f"pretrain-tokencut/out pretrain-mae/out {RUN} --images photos",
    "probes": f"{RUN} {PLAIN} probe-knn/out probe-background/out probe-attention/out "
    "probe-fewshot/out --no-images",
}
CONFIGS = (
    "finetune", "pretrain", "discover", "segment", "attention-map", "predict", "report", "demo",
    *(f"probe {name}" for name in (
        "knn", "linear", "fewshot", "retrieval", "transfer", "background", "robust", "attention",
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """Commands that run one after another in a folder of their own.

    Attributes:
        commands: without the leading `gta`.
        interrupted: whether the first one gets Ctrl-C after its first epoch.
        prepare: puts a further input into the folder.
    """

    commands: tuple[str, ...]
    interrupted: bool = False
    prepare: Callable[[Path], None] | None = None

    @property
    def needs(self) -> list[str]:
        """Return the cases whose folders the commands name."""
        words = {word for line in self.commands for word in shlex.split(line)}
        words |= {RUN} if self.prepare else set()
        return sorted(word.removesuffix("/out") for word in words if word.endswith("/out"))


def all_cases(recipes: Iterable[str]) -> dict[str, Case]:
    """Return every case by its name, each after those that it needs."""
    tune = f"finetune --model demo --data small --epochs 2 {SHARED}"
    decoder = "--decoder-dim 32 --decoder-depth 2 --decoder-heads 2"
    mae = f"pretrain --model demo --data small --epochs 2 {decoder} {SHARED}"
    find = f"discover --data small --teacher demo {SHARED}"
    maps = (f"stats {MAPS}", f"verify {MAPS} --data small", f"show {MAPS} small/test -o shown")
    tables: list[tuple[str, str, dict[str, str]]] = [
        ("finetune", tune, FINETUNE),
        ("discover", find, DISCOVER),
        ("pretrain", mae, PRETRAIN),
        ("segment", f"segment --model demo {SHARED}", SEGMENT),
        ("attention-map", f"attention-map --model demo {SHARED}", ATTENTION),
    ]
    cases = {
        f"{kind}-{name}": Case((f"{command} {flags}",))
        for kind, command, table in tables
        for name, flags in table.items()
    }
    cases["finetune-resume"] = Case((f"{tune} --epochs 8", "finetune --resume out --json"), True)
    cases["pretrain-resume"] = Case((f"{mae} --epochs 8", "pretrain --resume out --json"), True)
    cases["maps"] = Case(tuple(f"maps {line} --json" for line in maps))
    cases["predict"] = Case(
        (f"predict photos small/test broken.png --model {RUN} --top 3 {COMPUTE} --json",)
    )
    for name, flags in PROBE.items():
        task, rest = flags.split(maxsplit=1)
        model = "" if "--model" in rest else "--model demo"
        cases[f"probe-{name}"] = Case((f"probe {task} {SHARED} {model} {rest}",))
    robust = cases["probe-robust"].commands
    cases["probe-robust"] = Case(robust, prepare=classifier)
    for name, flags in REPORT.items():
        cases[f"report-{name}"] = Case((f"report {flags} {COMPUTE} -o report.html --json",))
    cases["demo"] = Case((f"demo --seeds 1 --epochs 1 --sampling-rate 5 {SHARED}",))
    cases["data-check"] = Case(("data check small --json", "data check demo --json"))
    lists = ("models list", "models list '*dino*'", "plugins list", "plugins check", "recipes list")
    cases["lists"] = Case(tuple(f"{line} --json" for line in (*lists, "doctor")))
    cases["configs"] = Case(tuple(f"{line} --print-config" for line in CONFIGS))
    shown = (f"{r} --{'dry-run' if r.startswith('study ') else 'print-config'}" for r in recipes)
    cases["recipes"] = Case(tuple(shown))
    return cases


# Running


@dataclass(frozen=True)
class Bench:
    """A `gta` executable and the folder in which its cases run."""

    gta: str
    root: Path
    cache: Path

    def run(self, case: str, number: int, line: str, interrupted: bool = False) -> tuple[int, str]:
        """Run a command in the folder of its case; return its exit status and stdout."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GTA_", "PYTHON"))}
        own = {"GTA_CACHE": str(self.cache), "GTA_PLUGINS": "", "PYTHONHASHSEED": "0"}
        own |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        logs = self.root / "logs"
        out, err = logs / f"{case}-{number}.out", logs / f"{case}-{number}.err"
        folder = self.root / case
        with out.open("wb") as stdout, err.open("wb") as stderr:
            child = subprocess.Popen(
                [self.gta, *shlex.split(line)], cwd=folder, env=kept | own,
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )  # fmt: skip
            metrics = folder / "out" / "metrics.jsonl"
            while interrupted and child.poll() is None and not metrics.is_file():
                time.sleep(0.01)
            if interrupted and child.poll() is None:
                child.send_signal(signal.SIGINT)
            try:
                status = child.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                child.kill()
                status = child.wait()
        return status, out.read_text(encoding="utf-8", errors="replace")

    def folder(self, name: str) -> Path:
        """Create the folder of a case, with the inputs if they exist already."""
        folder, inputs = self.root / name, self.root / "inputs"
        if inputs.is_dir():
            shutil.copytree(inputs, folder)
        else:
            folder.mkdir()
        return folder

    def record(self, name: str, case: Case) -> Items:
        """Return hashes of everything that a case writes and prints."""
        folder = self.folder(name)
        for need in case.needs:
            if (self.root / need / "out").is_dir():
                shutil.copytree(self.root / need / "out", folder / need / "out")
        if case.prepare is not None:
            case.prepare(folder)
        before = stamps(folder)
        items: Items = {}
        clean = Cleaner({str(folder): ".", str(self.cache): "CACHE"})
        for number, line in enumerate(case.commands, 1):
            cut = case.interrupted and number == 1
            status, out = self.run(name, number, line, cut)
            if cut:  # where it stopped is chance; what the resumed run makes of it is not
                continue
            shown = " ".join(line.replace(SHARED, "").replace(COMPUTE, "").split())
            items[f"exit of {shown}"] = str(status)
            if "--json" in line:
                items[f"stdout of {shown}"] = clean.lines(out)
            elif "--print-config" in line and status == 0:
                items[f"config of {shown}"] = clean.value(tomllib.loads(out))
        new = [path for path, stamp in stamps(folder).items() if before.get(path) != stamp]
        return items | hashes(folder, new, clean)


def stamps(folder: Path) -> dict[Path, int]:
    """Return the modification time of each file below a folder."""
    return {p: p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


# Hashing


def sha(*parts: bytes | str) -> str:
    """Return the SHA-256 of parts with their lengths, so that no two lists are the same bytes."""
    digest = hashlib.sha256()
    for part in parts:
        given = part.encode() if isinstance(part, str) else part
        digest.update(len(given).to_bytes(8, "little") + given)
    return digest.hexdigest()


@dataclass(frozen=True)
class Cleaner:
    """A filter that removes what differs from run to run; `places` maps folders to names."""

    places: dict[str, str]

    def __call__(self, value: Any) -> Any:
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if k not in LEFT_OUT}
            return {self(k): numbers(v) if k in PROSE else self(v) for k, v in kept.items()}
        if isinstance(value, list):
            return [self(item) for item in value]
        if isinstance(value, str):
            for place, name in self.places.items():
                value = value.replace(place, name)
            return re.sub(r"\b(demo(?:-source)?)-[0-9a-f]{10}\b", r"\1", value)
        return value

    def value(self, value: Any) -> str:
        return sha(json.dumps(self(value), sort_keys=True))

    def lines(self, text: str) -> str:
        return self.value([json.loads(line) for line in text.splitlines()])


def numbers(text: str | None) -> list[str] | None:
    return None if text is None else re.findall(r"\d+", text)


def hashes(folder: Path, files: Iterable[Path], clean: Cleaner) -> Items:
    """Return a hash per file; a cache, whose file names are random, is one item."""
    items: Items = {}
    grouped: dict[Path, list[Path]] = {}
    for path in files:
        if path.parent.name in ("features", "maps") and path.suffix in (".safetensors", ".npy"):
            grouped.setdefault(path.parent, []).append(path)
        elif path.name != "state.pt" and path.parent.name != "seen":
            name = str(path.relative_to(folder))
            for part, digest in file_hashes(path, clean).items():
                items[f"{name} {part}"] = digest
    for parent, members in grouped.items():
        made = features if parent.name == "features" else maps
        items[str(parent.relative_to(folder))] = made(members)
    return items


def file_hashes(path: Path, clean: Cleaner) -> Items:
    data = path.read_bytes()
    match path.suffix:
        case ".safetensors":
            with safe_open(path, "np") as file:
                metadata = file.metadata() or {}
            return {"tensors": tensors(data), "metadata": clean.value(metadata)}
        case ".png" | ".jpg":
            return {"pixels": pixels(data)}
        case ".npy":
            return {"array": array(np.load(path))}
        case ".json":
            return {"values": clean.value(json.loads(data))}
        case ".jsonl":
            return {"values": clean.lines(data.decode())}
        case ".html":
            return Page(data.decode()).hashes(clean)
    return {"bytes": sha(data)}


def tensors(data: bytes, names: Iterable[str] | None = None) -> str:
    """Hash the tensors of a safetensors file; NumPy has no bfloat16, so the bytes are read."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    parts: list[bytes | str] = []
    for name in sorted(header.keys() - {"__metadata__"} if names is None else names):
        one = header[name]
        low, high = (start + offset for offset in one["data_offsets"])
        parts += [name, one["dtype"], str(one["shape"]), data[low:high]]
    return sha(*parts)


def pixels(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as image:
        return sha(image.mode, str(image.size), image.tobytes())


def array(values: np.ndarray[Any, Any]) -> str:
    return sha(str(values.dtype), str(values.shape), np.ascontiguousarray(values).tobytes())


def features(files: Iterable[Path]) -> str:
    """Hash feature files without their keys, which depend on when an image was copied."""
    return sha(*sorted(tensors(path.read_bytes(), ("values", "labels", "rows")) for path in files))


def maps(files: Iterable[Path]) -> str:
    """Hash maps in the order of their images' digests, whatever file each is in."""
    rows = np.concatenate([np.load(path) for path in files])
    return array(rows["map"][np.argsort(rows["digest"])])


class Page(HTMLParser):
    """The data, pictures, maps and result tables of a report."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.cells: list[str] = []
        self._section = self._script = ""
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = dict(attrs).get("id") or ""
        if tag == "section":
            self._section = name
        elif tag == "script":
            self._script = name
        elif tag == "td":
            self._cell = self._section in ("results", "probes")
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = ""
        elif tag in ("td", "section"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif self._cell:
            self.cells[-1] += data

    def hashes(self, clean: Cleaner) -> Items:
        data = json.loads(self.scripts.pop("data"))
        data.pop("kinds", None)
        for curve in data.get("curves", ()):
            curve.pop("title")
        found = {name: base64.b64decode(text) for name, text in self.scripts.items()}
        pictures = {name: data for name, data in found.items() if data.startswith(b"\xff\xd8")}
        rest = {name: sha(data) for name, data in found.items() if name not in pictures}
        return {
            "data": clean.value(data),
            "tables": clean.value([" ".join(cell.split()) for cell in self.cells]),
            "pictures": clean.value({name: pixels(data) for name, data in pictures.items()}),
            "maps": clean.value(rest),
        }


# Inputs


def drawn_set(bench: Bench) -> tuple[Path, Items]:
    """Return the folder in which `gta` draws its demo dataset, and hashes of it."""
    bench.folder("demo-set")
    bench.run("demo-set", 1, "data check demo --quick --json")
    (folder,) = (bench.cache / "data").glob("demo-*")
    parts: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.png")):
        name = path.relative_to(folder)
        parts.setdefault(name.parts[0], []).append(f"{name} {pixels(path.read_bytes())}")
    items = {part: sha(*lines) for part, lines in parts.items()}
    return folder, items | {"scenes.csv": sha((folder / "scenes.csv").read_bytes())}


def copy_inputs(demo: Path, to: Path) -> None:
    """Create small inputs from the demo dataset: four classes with six and four images."""
    classes = sorted(path.name for path in (demo / "train").iterdir())[::3]
    rows = []
    for part, count in (("train", 6), ("test", 4)):
        for label, index in ((label, index) for label in classes for index in range(count)):
            name = f"{part}/{label}/{index:03d}.png"
            for source, target in ((demo / name, "small"), (demo / "masks" / name, "masks")):
                (to / target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, to / target / name)
            rows.append((f"small/{name}", label, part, f"masks/{name}"))
    with (to / "small.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split", "mask"), *rows])
    tests = sorted((to / "small" / "test").rglob("*.png"))
    opened = [Image.open(path).convert("RGB") for path in tests]
    (to / "photos" / "more").mkdir(parents=True)
    opened[0].resize((150, 100)).save(to / "photos" / "wide.png")
    opened[5].resize((70, 90)).convert("L").save(to / "photos" / "more" / "grey.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: to be turned by a quarter
    opened[10].resize((140, 96)).save(to / "photos" / "tall.jpg", exif=turned)
    (to / "broken.png").write_bytes(b"no picture")
    (to / "places").mkdir()
    for name, image in zip("abcde", opened[::3], strict=False):
        image.save(to / "places" / f"{name}.jpg")
    box = [5.0, 8.0, 80.0, 90.0]
    answers = [
        {"bbx": box, "easy": [1], "hard": [2, 3], "junk": [0]},
        {"bbx": box, "easy": [3], "hard": [4], "junk": []},
    ]
    truth = {"imlist": [*"abcde"], "qimlist": ["a", "b"], "gnd": answers}
    (to / "places.json").write_text(json.dumps(truth))
    for variant, shift in (("original", 0), ("mixed_same", 1), ("mixed_rand", 5)):
        for number, path in enumerate(tests):
            folder = to / "in9" / variant / "val" / f"{number // 4:02d}_{path.parent.name}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tests[(number + shift) % len(tests)], folder / path.name)
    (to / "in9.json").write_text(json.dumps({str(number): number for number in range(4)}))
    synsets = ("n01440764", "n01443537", "n01484850", "n01491361")
    for number, path in enumerate(tests):
        shape, texture = ("bird", "cat")[number % 2], ("bear", "bird")[number % 2]
        for name in (f"v2/{number}/a", f"r/{synsets[number % 4]}/{number}",
                     f"cues/{shape}{number}-{texture}1"):  # fmt: skip
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to / f"{name}.png")


def classifier(folder: Path) -> None:
    """Create a classifier of ImageNet's thousand classes: a run with a random head."""
    file = folder / RUN / "model.safetensors"
    with safe_open(file, "np") as opened:
        metadata = {k: v for k, v in opened.metadata().items() if k != "classes"}
    weights = load_file(file)
    rng = np.random.default_rng(0)
    width = weights["head.weight"].shape[1]
    weights["head.weight"] = rng.standard_normal((1000, width), np.float32)
    weights["head.bias"] = np.where(np.arange(1000) < 20, 0, -1e4).astype(np.float32)
    (folder / "classifier").mkdir()
    target = folder / "classifier" / "model.safetensors"
    save_file(weights, target, metadata | {"num_classes": "1000"})


# The two commands


def record(bench: Bench, only: str) -> dict[str, Items]:
    """Return hashes of every case whose name matches, and of those that it needs."""
    (bench.root / "logs").mkdir(parents=True)
    demo, drawn = drawn_set(bench)
    found = {"demo-set": drawn}
    _, listed = bench.run("demo-set", 2, "recipes list --json")
    calls = [json.loads(line)["run"].removeprefix("gta ") for line in listed.splitlines()]
    cases = all_cases(calls)
    copy_inputs(demo, bench.root / "inputs")
    wanted = {name for name in cases if fnmatch(name, only)}
    for name in reversed(cases):  # what is needed stands before
        if name in wanted:
            wanted |= {*cases[name].needs}
    for name in [name for name in cases if name in wanted]:
        start = time.perf_counter()
        found[name] = bench.record(name, cases[name])
        states = [state for key, state in found[name].items() if key.startswith("exit ")]
        odd = sorted({*states} - {"0"})
        told = f", exit {', '.join(odd)}" if odd else ""
        seconds = time.perf_counter() - start
        print(f"{name}: {len(found[name])} items, {seconds:.1f} s{told}", file=sys.stderr)
    return found


def compare(before: dict[str, Items], after: dict[str, Items]) -> dict[str, Any]:
    """Print one line per case; return how many differ."""
    different = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            items = ["only " + ("before" if new is None else "after")]
        else:
            items = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
        if items:
            different.append(name)
        print(f"{name}: DIFFERENT: {'; '.join(items)}" if items else f"{name}: equal")
    cases = len({*before, *after})
    return {"cases": cases, "equal": cases - len(different), "different": different}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gta", help="the executable whose results are recorded")
    parser.add_argument("--out", type=Path, help="file of the hashes")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of cases")
    parser.add_argument("--cache", type=Path, help="where the set is drawn; default: a new folder")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="new folder that keeps all files")
    given = parser.parse_args()
    if given.compare:
        read = [json.loads(path.read_text())["cases"] for path in given.compare]
        fitting = [{k: v for k, v in one.items() if fnmatch(k, given.only)} for one in read]
        result = compare(*fitting)
        print(json.dumps(result))
        return 1 if result["different"] else 0
    if not (given.gta and given.out):
        parser.error("give --gta and --out, or --compare")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else a child may ignore it too
    start = time.perf_counter()
    with TemporaryDirectory() as scratch:
        root = (given.keep or Path(scratch)).resolve()
        cache = (given.cache or root / "cache").resolve()
        gta = str(Path(shutil.which(given.gta) or given.gta).absolute())
        found = record(Bench(gta, root, cache), given.only)
    seconds = round(time.perf_counter() - start)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = round(used.ru_utime + used.ru_stime)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"cases": found}, indent=1) + "\n")
    hashed = sum(len(items) for items in found.values())
    told = {"cases": len(found), "hashes": hashed, "seconds": seconds, "cpu_seconds": cpu}
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
