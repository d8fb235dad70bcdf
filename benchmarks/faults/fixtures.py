"""Make the folders that the harness starts from: WORK/fixtures, once."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from commands import Gta

TINY = ["--epochs", "3", "--shots", "3"]
CUT = ["--layer", "-2", "--tau", "0.3"]
_VARIABLE = "FAULTS_FIXTURES"
PRETRAIN = ["pretrain", "--recipe", "pretrain-demo", "--batch-size", "96"]


def make_fixtures(work: Path) -> Path:
    """Return the folder with `run`, `mid`, `prerun`, `maps` and `images`.

    `run` is a run of the demo, `mid` the same stopped after an epoch, `prerun` one of pre-training,
    `small` one on 18 images (`photos`), which is resumed within a second.
    """
    folder = work / "fixtures"
    if not (folder / "complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        gta = Gta(work, fork=True)
        for words in (
            ["finetune", *TINY, "--out", folder / "run"],
            [*PRETRAIN, "--epochs", "1", "--out", folder / "prerun"],
            ["discover", "--data", "demo", "--teacher", "demo", *CUT, "-o", folder / "maps"],
        ):
            done = gta.run(words)
            if done["rc"] != 0:
                raise SystemExit(f"cannot make the fixtures: {done['last']}")
        stop_after_an_epoch(gta, folder / "mid")
        shutil.copytree(demo_images() / "test", folder / "images")
        words = small_run(make_photos(folder / "photos", folder / "images"))
        done = gta.run([*words, "--out", folder / "small"])
        if done["rc"] != 0:
            raise SystemExit(f"cannot make the fixtures: {done['last']}")
        (folder / "complete").touch()
    os.environ[_VARIABLE] = str(folder)
    return folder


def made_fixtures() -> Path:
    """Return the folder that `make_fixtures` has made in this process or its parent."""
    return Path(os.environ[_VARIABLE])


def small_run(data: Path) -> list[object]:
    words = ["finetune", "--model", "demo", "--data", data, "--epochs", "2", "--batch-size", "8"]
    return [*words, "--image-size", "36", "--workers", "0"]


def make_photos(folder: Path, source: Path, classes: int = 3, each: int = 6) -> Path:
    """Copy some images, at 36 px, as a folder of classes."""
    from PIL import Image

    for i, file in enumerate(sorted(source.rglob("*.png"))[: classes * each]):
        place = folder / f"class{i % classes}" / f"{i:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.convert("RGB").resize((36, 36)).save(place)
    return folder


def stop_after_an_epoch(gta: Gta, out: Path) -> None:
    process = gta.start(["finetune", *TINY, "--out", out])
    while process.poll() is None and not (out / "state.pt").is_file():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGTERM)
    process.wait()


def demo_images() -> Path:
    """Return the folder of the demo's drawings, which a run has made."""
    from gtacli.runtime.cache import cache_dir
    from gtacli.scenes.digest import drawing_digest

    return cache_dir() / "data" / f"demo-{drawing_digest()}"
