"""Small runs whose names are HTML injections, and a browser that opens their report."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from gtacli.config.finetune import FinetuneConfig
from gtacli.config.pretrain import PretrainConfig
from gtacli.finetuning.run import finetune
from gtacli.pretraining.run import pretrain

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}
ATTACK = "</script><img src=x onerror=document.title='pwned'>"
CLASSES = (ATTACK, "<script>document.title='pwned'</script>", "&lt;b&gt; \"blue' ${title}")


class SilentObserver:
    """An observer that ignores the progress of a run."""

    def step(self, *at: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


def write_data(root: Path) -> Path:
    """Write a CSV dataset of three classes that differ, not always, in their color."""
    rng = np.random.default_rng(0)
    rows = []
    for split, count in (("train", 5), ("test", 4)):
        for label, name in enumerate(CLASSES):
            for i in range(count):
                pixels = rng.integers(0, 150, (40, 44, 3), dtype=np.uint8)
                pixels[..., label] += int(rng.integers(0, 8))
                file = root / f"<b>{split}-{label}-{i}.png"
                Image.fromarray(pixels).save(file)
                rows.append({"path": file.name, "label": name, "split": split})
    table = root / "images.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return table


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return runs of two methods with two seeds each, and a run that stopped after epoch 2."""
    root = tmp_path_factory.mktemp("report")
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=7, **TINY)
    weights = {"architecture": "vit_tiny_patch16_224", "kwargs": json.dumps(TINY)}
    (root / "source").mkdir()
    save_file(network.state_dict(), root / "source" / "model.safetensors", weights)
    data = write_data(root)
    folders = []
    for regularizer in ("none", "gta"):
        for seed in (1, 2):
            out = root / f"<i>{regularizer}-{seed}"
            finetune(
                FinetuneConfig(
                    model=str(root / "source"),
                    data=str(data),
                    regularizer={} if regularizer == "none" else {regularizer: {}},
                    lam=None if regularizer == "none" else 0.1,
                    out=out,
                    seed=seed,
                    epochs=3,
                    batch_size=4,
                    lr=1e-3,
                    device="cpu",
                    workers=0,
                    hold_out=20.0,
                ),
                SilentObserver(),
            )
            folders.append(out)
    stopped = root / "stopped"
    shutil.copytree(folders[0], stopped)
    stop(stopped)
    record = json.loads((stopped / "run.json").read_text())
    record["config"]["lr"] = 0.5
    (stopped / "run.json").write_text(json.dumps(record))
    return [*folders, stopped]


@pytest.fixture(scope="session")
def pretrainings(runs: list[Path]) -> list[Path]:
    """Return plain and guided runs and runs with shuffled maps, two seeds each.

    The last one has images without labels and stopped after its second epoch.
    """
    root = runs[0].parent
    folders = []
    teacher: dict[str, Any] = {"teacher": str(root / "source"), "guide": "dino"}
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "guided": teacher,
        "shuffled": {**teacher, "shuffle_maps": True},
    }
    (root / "photos").mkdir()
    for file in sorted(root.glob("*train-0*.png")):
        shutil.copy(file, root / "photos")
    for name, extra in options.items():
        for seed in (1, 2):
            out = root / f"<i>{name}-{seed}"
            unlabeled = (name, seed) == ("shuffled", 2)
            config = PretrainConfig(
                model=str(root / "source"),
                data=str(root / "photos" if unlabeled else root / "images.csv"),
                out=out,
                seed=seed,
                epochs=3,
                batch_size=4,
                lr=1e-3,
                decoder_dim=16,
                decoder_depth=1,
                decoder_heads=2,
                knn_every=2,
                device="cpu",
                workers=0,
                **extra,
            )
            pretrain(config, SilentObserver())
            folders.append(out)
    stop(folders[-1])
    (folders[-1] / "previews" / "epoch-0003.png").unlink()
    return folders


def stop(run: Path) -> None:
    """Remove what a run writes after its second epoch."""
    (run / "summary.json").unlink()
    rows = (run / "metrics.jsonl").read_text().splitlines()[:2]
    (run / "metrics.jsonl").write_text("\n".join(rows) + "\n")


@pytest.fixture
def classes() -> tuple[str, ...]:
    return CLASSES


@pytest.fixture
def copies(runs: list[Path], tmp_path: Path) -> list[Path]:
    """Copy the runs for a test that changes them."""
    return [shutil.copytree(run, tmp_path / run.name) for run in runs]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Start a headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    binary = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if binary is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return `visit(file, width=, scheme=, messages=)`, which opens a page.

    Console messages and requests for other files fail the test or are added to `messages`.
    """
    contexts: list[Any] = []
    unexpected: list[str] = []

    def open_page(
        file: Path, width: int = 1280, scheme: str = "light", messages: list[str] | None = None
    ) -> Any:
        messages = unexpected if messages is None else messages
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on(
            "request",
            lambda r: (
                r.url.startswith(("file:", "data:")) or messages.append(f"request for {r.url}")
            ),
        )
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert unexpected == []
