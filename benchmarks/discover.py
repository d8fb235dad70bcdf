"""Hand out `gta discover` and `gta probe knn` on executors, break them, and measure; prints JSON.

    python benchmarks/discover.py same WORK --executor local|slurm|ray --source list|shards|knn
    python benchmarks/discover.py kills WORK --executor ... --source ... [--kills 20]
    python benchmarks/discover.py idle WORK --executor ... [--images 4000 --pause 0.02]
    python benchmarks/discover.py batches WORK [--images 64 256 512 1024]

`same`: eight parts on an executor (`slurm` is submitit's local engine, `ray` a cluster of one node
with eight names of cores on this machine) against one process: the maps of each image, and the
files. `shards` are tars of 100 images, `list` the same images as files, `knn` the features of them.

`kills`: the same, while at random moments the command is killed (SIGKILL, SIGTERM, SIGINT), one of
its parts (SIGKILL, SIGTERM), or the process of the engine that a part runs in (SIGKILL). The same
command is started again until it ends; new ones are begun until there were so many kills. TokenCut
on a small network, with a pause for each image, so that there is something to kill.

`idle`: a pause in place of the network, which takes no core, so that eight parts run side by side
on any machine. The share of the time in which a part had no batch in its network, from its first
batch to its end, and the seconds before that.

`batches`: images per second of one part of eight and of one process, fp32 and bf16, by a ViT-Tiny
at 112 px with TokenCut.

Linux only (`/proc`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from breaking import EXECUTORS, Killer, cluster, commands_with, gta, parent
from interleaved import time_interleaved
from streaming import save_model

JOBS = 8
SOURCES = ("list", "shards", "knn")
A_SHARD = 100
KINDS = ("command SIGKILL", "command SIGTERM", "command SIGINT")
KINDS += ("part SIGKILL", "part SIGTERM", "engine SIGKILL")


def make_images(folder: Path, count: int) -> Path:
    """Write images in folders of two classes, and the same ones into tars."""
    import numpy as np
    from PIL import Image

    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    tars = folder / "tars"
    tars.mkdir(parents=True)
    for number in range(count):
        split, label = ("train", "test")[number % 5 == 4], "ab"[number % 2]
        path = folder / "images" / split / label / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
        with tarfile.open(tars / f"{number // A_SHARD:04}.tar", "a") as tar:
            tar.add(path, path.name)
    (folder / "done").touch()
    return folder


def make_plugin(folder: Path) -> str:
    """Install the slow back-end in a folder; return it, for PYTHONPATH."""
    about = folder / "gta_slow-0.1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: gta-slow\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text("[gta.discovery]\nslow = slow_backend:Slow\n")
    shutil.copy(Path(__file__).with_name("slow_backend.py"), folder)
    return str(folder)


class Work:
    """The commands on some images."""

    def __init__(self, place: Path, source: str, images: int) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place, self.source = place, source
        self.data = make_images(place / f"data-{images}", images)
        self.model = save_model(place / "model")
        self.env = {"PYTHONPATH": make_plugin(place / "plugin"), "GTA_CACHE": str(place / "cache")}

    def words(self, out: Path, *more: str) -> list[str]:
        given = ["-m", str(self.model), "--device", "cpu", "--precision", "fp32", "--json", *more]
        images = str(self.data / "images")
        if self.source == "knn":
            folders = ["-o", str(out / "run"), "--cache", str(out / "maps")]
            return ["probe", "knn", *given, "--data", images, "--image-size", "128", *folders]
        given += ["--batch-size", "16", "-o", str(out / "maps"), "--backend", "slow"]
        given += ["--set", "discovery.slow.layer=-1", "--set", "discovery.slow.tau=0.2"]
        spec = f"wds/{self.data / 'tars'}" if self.source == "shards" else images
        return ["discover", *given, "--data", spec]

    def on(self, executor: str, jobs: int, out: Path, *more: str) -> list[str]:
        """Return the words of the command that hands out so many parts."""
        words = self.words(out, "--executor", executor, "--jobs", str(jobs), *more)
        local = ["--cluster", "local", "--gpus", "0", "--cpus", "1"]
        return words + (local if executor == "slurm" else [])

    def whole(self) -> Path:
        """Return the place of what one process makes."""
        out = self.place / f"whole-{self.source}-{self.data.name}"
        if not (out / "done").exists():
            shutil.rmtree(out, ignore_errors=True)
            with cluster("local", **self.env) as env:
                assert gta(*self.words(out), env=env, stdout=2).wait() == 0
            (out / "done").touch()
        return out


def files_of(out: Path) -> dict[str, str]:
    """Return the hash of each file; of lists of finished shards the folder alone."""
    found = {}
    for path in sorted((out / "maps").rglob("*")):
        name = str(path.relative_to(out / "maps"))
        if path.is_file() and not path.name.startswith(".") and not name.startswith("shards/"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def maps_of(out: Path) -> dict[bytes, bytes]:
    """Return each map by its image; there are no others."""
    from gtacli.discovery.maps import MapCache

    rows = [row for part in MapCache(out / "maps").parts() for row in part]
    found = {bytes(row["digest"]): row["map"].tobytes() for row in rows}
    assert len(found) == len(rows), "a map is there twice"
    return found


def compare(work: Work, out: Path) -> dict[str, bool]:
    """Compare what parts have made with what one process makes."""
    whole = work.whole()
    same = {"same files": files_of(out) == files_of(whole)}
    return same if work.source == "knn" else {"same maps": maps_of(out) == maps_of(whole), **same}


def same(args: argparse.Namespace) -> dict[str, Any]:
    work = Work(args.work.resolve(), args.source, args.images)
    out = work.place / f"same-{args.source}-{args.executor}"
    shutil.rmtree(out, ignore_errors=True)
    with cluster(args.executor, 1, args.jobs, **work.env) as env:
        assert gta(*work.on(args.executor, args.jobs, out), env=env, stdout=2).wait() == 0
    return {"images": args.images, **compare(work, out), "left": left(out)}


def left(out: Path) -> list[str]:
    """Return drafts, locks and journals."""
    names = (path.name for path in out.rglob("*"))
    return sorted(name for name in names if name.startswith((".gta", "journal-")))


def kills(args: argparse.Namespace) -> dict[str, Any]:
    work = Work(args.work.resolve(), args.source, args.images)
    work.whole()
    rng, place = random.Random(args.seed), work.place / f"kills-{args.source}-{args.executor}"
    counts: dict[str, int] = {}
    found: dict[str, Any] = {"runs": 0, "starts": 0, "ends": [], "left": []}
    pause = {"SLOW_BACKEND_PAUSE": str(args.pause)}
    with (
        cluster(args.executor, 1, args.jobs, **work.env, **pause) as env,
        Path(f"{place}.log").open("wb") as log,
    ):
        while sum(counts.values()) < args.kills:
            out = place / str(found["runs"])
            shutil.rmtree(out, ignore_errors=True)
            killer = Killer(
                work.on(args.executor, args.jobs, out),
                lambda out=out: targets(out),
                KINDS,
                (1, args.every),
                rng,
            )
            killer.run(args.kills - sum(counts.values()), env, log)
            counts = {kind: counts.get(kind, 0) + n for kind, n in killer.counts.items()}
            found["runs"] += 1
            found["starts"] += killer.starts
            found["ends"] += killer.ends
            found["left"] += left(out)
            for name, equal in compare(work, out).items():
                found[name] = found.get(name, True) and equal
        time.sleep(1)
        found["processes left"] = len(commands_with("--shard", str(place)))
    return {"images": args.images, "kills": counts, **found}


def targets(out: Path) -> dict[str, list[int]]:
    """Return the processes of the parts, and those of the engine that have started them."""
    parts = commands_with("--shard", str(out))
    commands = {*commands_with(str(out)), 1, os.getpid()}
    engine = {pid for part in parts if (pid := parent(part)) is not None}
    return {"part": parts, "engine": sorted(engine - commands)}


def idle(args: argparse.Namespace) -> dict[str, Any]:
    work = Work(args.work.resolve(), args.source, args.images)
    out, marks = work.place / f"idle-{args.executor}", work.place / f"marks-{args.executor}"
    for folder in (out, marks):
        shutil.rmtree(folder, ignore_errors=True)
    marks.mkdir()
    pause = {"SLOW_BACKEND_PAUSE": str(args.pause), "SLOW_BACKEND_MARKS": str(marks)}
    with cluster(args.executor, 1, args.jobs, **work.env, **pause) as env:
        began = time.time()
        assert (
            gta(*work.on(args.executor, args.jobs, out, "--workers", "1"), env=env, stdout=2).wait()
            == 0
        )
        seconds = time.time() - began
    told = [json.loads(path.read_text()) for path in marks.glob("*.json")]
    assert len(told) == args.jobs
    assert sum(one["images"] for one in told) == args.images
    busy = sum(one["busy"] for one in told)
    own = sum(one["ended"] - one["first"] for one in told)

    def median(name: str, before: str) -> float:
        return round(statistics.median(one[name] - one[before] for one in told), 2)

    last = max(one["ended"] for one in told)
    return {
        "images": args.images,
        "pause": args.pause,
        "idle share of a part, first batch to end": round(1 - busy / own, 4),
        "idle share of all parts, first batch to the last one's end": round(
            1 - busy / sum(last - one["first"] for one in told), 4
        ),
        "seconds": {
            "command to process of a part": round(
                statistics.median(one["started"] - began for one in told), 2
            ),
            "process to network": median("made", "started"),
            "network to first batch": median("first", "made"),
            "network's end to process's": median("ended", "last"),
            "CPU of a part": round(statistics.median(one["cpu"] for one in told), 2),
            "last part's end to command's": round(began + seconds - last, 2),
            "command": round(seconds, 2),
        },
    }


def batches(args: argparse.Namespace) -> dict[str, Any]:
    import timm
    import torch

    from gtacli.discovery.build import make_backend
    from gtacli.discovery.maps.writer import MapWriter, block_size
    from gtacli.inference.discover import fill_cache, manifest_of
    from gtacli.inference.objects import Finder
    from gtacli.models import load_model
    from gtacli.runtime.devices import Compute

    work = Work(args.work.resolve(), "list", max(args.images))
    paths = sorted((work.data / "images").rglob("*.png"))
    found: dict[str, Any] = {}
    folder = work.place / "vit-tiny"
    if not folder.is_dir():
        from safetensors.torch import save_file

        torch.manual_seed(0)
        folder.mkdir()
        network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
        about = {"architecture": "vit_tiny_patch16_224", "num_classes": "0"}
        save_file(network.state_dict(), folder / "model.safetensors", about)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = load_model(str(folder), image_size=(112, 112))
        compute = Compute(torch.device("cpu"), dtype)
        backend = make_backend("tokencut", {"layer": -1, "tau": 0.2}, model)
        manifest = manifest_of(model, "tokencut", backend, compute)
        finder = Finder(model, backend, compute)

        def run(images: Sequence[Path], share: tuple[int, int], finder: Any, about: Any) -> int:
            out = work.place / "batches"
            shutil.rmtree(out, ignore_errors=True)
            cache = MapWriter(out, about, block_size(len(images)), share)
            return sum(step.new for step in fill_cache(finder, images, cache, 32, 1))  # type: ignore[union-attr]

        for count in args.images:
            variants: Mapping[str, Callable[[], object]] = {
                name: lambda c=count, s=share, f=finder, m=manifest: run(paths[:c], s, f, m)
                for name, share in (("one process", (0, 1)), ("part 0 of 8", (0, JOBS)))
            }
            timed = time_interleaved(variants, args.repeats)
            speed = {
                name: round(float(str(timed.results[name])) / statistics.median(seconds), 1)
                for name, seconds in timed.own.items()
            }
            found[f"{precision}, {count} images"] = speed
    return {"images per CPU second": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="part", required=True)
    for run, images in ((same, 3000), (kills, 3000), (idle, 4000)):
        one = commands.add_parser(run.__name__)
        one.add_argument("work", type=Path)
        one.add_argument("--executor", choices=EXECUTORS, default="local")
        one.add_argument("--source", choices=SOURCES, default="list")
        one.add_argument("--images", type=int, default=images)
        one.add_argument("--jobs", type=int, default=JOBS)
        one.add_argument("--every", type=float, default=40.0, help="most seconds between kills")
        one.add_argument("--pause", type=float, default=0.02, help="seconds for each image")
        one.add_argument("--kills", type=int, default=20)
        one.add_argument("--seed", type=int, default=0)
        one.set_defaults(run=run)
    one = commands.add_parser("batches")
    one.add_argument("work", type=Path)
    one.add_argument("--images", type=int, nargs="+", default=[64, 256, 512, 1024])
    one.add_argument("--repeats", type=int, default=3)
    one.set_defaults(run=batches, executor=None, source=None)
    args = parser.parse_args()
    # A shell lets what it starts in the background ignore it, and so would every command here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names = ("executor", "jobs", "source") if args.executor else ()
    about = {name: getattr(args, name) for name in names}
    print(json.dumps({"what": args.part, **about, **args.run(args)}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
