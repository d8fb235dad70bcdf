"""Every command and every piece of Python that README.md and docs/ show runs here.

A section (what stands below one heading) is one session: its blocks run in order, in one folder,
among small files with the names that the documents use. There is no network; what the hub would
give lies in its cache, with random weights. What a document shows as output must come: the same
lines but for the numbers, the same keys of JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

from gtacli.cli import console, main
from gtacli.cli.lazy import COMMANDS
from gtacli.config.study import change_study
from gtacli.registry import EXECUTORS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {
    "make demo": "installs some gigabytes; the command behind it runs as `gta demo`",
    "make test": "would run itself",
    "torchrun": "wants two machines; tests/training/test_launch.py runs it on one",
}
"""How a command begins, and why it is shown but not run."""

NOT_SHOWN = {
    "maps: # of #": "a line every 30 seconds",
    "registers: vit_tiny_patch16_224@augreg.safetensors has": "random weights have no outliers",
}
"""How a line of output begins, and why it does not come here."""

SLOW = {
    "README.md: Try it",
    "README.md: Your own photos",
    "README.md: Pre-training without labels",
    "README.md: A DINO, DINOv2 or DINOv3 backbone",
    "README.md: A table for a paper",
    "README.md: From Python, and plug-ins",
    "plugins.md: A regularizer in ten lines",
    "plugins.md: A back-end in ten lines",
    "datasets.md: Shards as a stream",
    "export.md: A graph for an application",
    "finetune.md: Several GPUs and nodes",
    "finetune.md: Train a small part",
    "pretraining.md: On the built-in set",
    "pretraining.md: Both papers in three commands",
    "report.md",
    "probing.md: How good are the features?",
    "probing.md: Which map shows what the answer rests on?",
    "python.md: Commands",
    "study.md: The file",
}
"""Sections that take longer than a few seconds."""

LESS = {
    "GTA_DEMO__EPOCHS": "1",
    "GTA_FINETUNE__EPOCHS": "1",
    "GTA_FINETUNE__IMAGE_SIZE": "32",
    "GTA_FINETUNE__BATCH_SIZE": "4",
    "GTA_PRETRAIN__EPOCHS": "1",
    "GTA_PRETRAIN__BATCH_SIZE": "4",
    "GTA_PRETRAIN__DECODER_DEPTH": "1",
    "GTA_PRETRAIN__DECODER_DIM": "64",
    "GTA_SEGMENT__LAYER": "-1",
}
"""Settings that make the commands quick; what a document says on a command line counts more."""

LESS_STUDY = {
    "README.md: A table for a paper": (
        "grid.seed=[0]", "grid.sampling_rate=[10, 15]", "method.gta.tune.lam=[0.1]"
    )
}  # fmt: skip
"""What a section's study has less of: its cells are processes, which LESS does not reach."""

CLASSES = {"birds": ("heron", "robin"), "animals": ("horses", "fox"), "people": ("dancer", "cook")}
HUB = (
    "vit_tiny_patch16_224",
    "vit_small_patch16_224.dino",
    "vit_small_patch14_reg4_dinov2.lvd142m",
    "vit_small_patch16_dinov3.lvd1689m",
)


@dataclass
class Block:
    """What stands between two fences."""

    language: str
    lines: list[str] = field(default_factory=list)

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each with the lines of output that are shown below it."""
        starts = [i for i, line in enumerate(self.lines) if line.startswith("$ ")]
        for start, end in pairwise((*starts, len(self.lines))):
            yield self.lines[start][2:], self.lines[start + 1 : end]


def sections() -> dict[str, list[Block]]:
    found: dict[str, list[Block]] = {}
    for document in DOCUMENTS:
        name, block = document.name, None
        for line in document.read_text(encoding="utf-8").splitlines():
            if line.startswith("```"):
                if block is None:
                    block = Block(line[3:].strip())
                    found.setdefault(name, []).append(block)
                else:
                    block = None
            elif block is not None:
                block.lines.append(line)
            elif line.startswith("## "):
                name = f"{document.name}: {line[3:]}"
    return found


SECTIONS = sections()


def reason(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


# --- the world that the documents speak of


def photograph(path: Path, seed: int) -> None:
    """A bright square somewhere on a dark ground, its mask in masks/ and truth/."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (64, 80, 3), dtype=np.uint8)
    mask = np.zeros((64, 80), np.uint8)
    mask[16:48, 20 + seed % 20 : 52 + seed % 20] = 255
    pixels[mask > 0] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    for folder in ("masks", "truth"):
        file = path.parents[2] / folder / path.parent.name / f"{path.stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(file)


def published(cache: Path, name: str) -> dict[str, torch.Tensor]:
    """Put random weights where the hub's client keeps what it has fetched; returns them."""
    torch.manual_seed(0)
    tensors = timm.create_model(name).state_dict()
    cfg = timm.get_pretrained_cfg(name)
    repository = cache / f"models--timm--{name.split('.')[0]}.{cfg.tag}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0")
    (repository / "snapshots" / "0").mkdir(parents=True)
    save_file(tensors, repository / "snapshots" / "0" / "model.safetensors")
    return tensors


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, masks, weights, a hub's cache, and two runs."""
    top = tmp_path_factory.mktemp("world")
    for seed, (label, stems) in enumerate(CLASSES.items()):
        for k, stem in enumerate((*stems, "other")):
            photograph(top / "photos" / label / f"{stem}.jpg", 10 * seed + k)
    shutil.copytree(top / "photos" / "birds", top / "new")
    shutil.copy(top / "photos" / "birds" / "heron.jpg", top / "bird.jpg")
    shutil.copytree(top / "photos" / "animals", top / "ecssd" / "images")
    shutil.copytree(top / "masks" / "animals", top / "ecssd" / "masks")
    birds(top / "CUB_200_2011")
    tags(top / "tags.csv")
    tensors = {name: published(top / "hub", name) for name in HUB}
    for file in ("augreg.safetensors", "weights.safetensors"):
        save_file(tensors["vit_tiny_patch16_224"], top / file)
    torch.save(dino_training(tensors["vit_small_patch16_224.dino"]), top / CHECKPOINT)
    with pytest.MonkeyPatch.context() as patch:
        offline(patch, top, top)
        for name, regularizer in (("gta", "gta"), ("plain", "none")):
            words = "finetune --model vit_tiny_patch16_224 --data photos --device cpu"
            assert main([*words.split(), "--regularizer", regularizer, "-o", f"runs/{name}"]) == 0
        for name, guide in (("attg", "--teacher demo"), ("mae", "")):
            words = f"pretrain --model vit_tiny_patch16_224 --data photos {guide} --device cpu"
            assert main([*words.split(), "-o", f"runs/{name}"]) == 0
    for folder, copy in (("gta", "gta-1"), ("plain", "none-1")):
        shutil.copytree(top / "runs" / folder, top / "runs" / copy, copy_function=os.link)
    return top


SITE = "site"
CHECKPOINT = "dino_full_checkpoint.pth"


def dino_training(tensors: dict[str, torch.Tensor]) -> dict[str, object]:
    """As DINO's training keeps it, of which a teacher is enough here."""
    teacher = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
    for i in (0, 2, 4):
        teacher[f"head.mlp.{i}.weight"] = torch.ones(3, 3)
        teacher[f"head.mlp.{i}.bias"] = torch.ones(3)
    teacher |= {f"head.last_layer.weight_{of}": torch.ones(3, 1) for of in "gv"}
    return {"teacher": teacher, "epoch": 100}


def tags(table: Path) -> None:
    """A table of photographs with any number of labels."""
    lines = ["image,tags,split"]
    for label, stems in CLASSES.items():
        for number, stem in enumerate((*stems, "other")):  # enough of each tag to hold one out
            split = "test" if stem == "other" else "train"
            lines.append(f"photos/{label}/{stem}.jpg,photo|tag{number % 2},{split}")
    table.write_text("\n".join(lines) + "\n")


def birds(folder: Path) -> None:
    """CUB-200-2011's files, of two species."""
    names = [f"{k:03}.{name}/{i}.jpg" for k, name in ((1, "Wren"), (2, "Owl")) for i in range(4)]
    table = {
        "images": names,
        "image_class_labels": [1, 1, 1, 1, 2, 2, 2, 2],
        "train_test_split": [1, 1, 1, 0] * 2,
        "classes": ["001.Wren", "002.Owl"],
    }
    for i, name in enumerate(names):
        file = folder / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((48, 40), 10 * i).convert("RGB").save(file)
    for file, values in table.items():
        text = "".join(f"{k} {value}\n" for k, value in enumerate(values, 1))
        (folder / f"{file}.txt").write_text(text)


def offline(patch: pytest.MonkeyPatch, folder: Path, top: Path) -> None:
    """In `folder`, with the quick settings, the hub's client looking at its cache alone."""
    patch.chdir(folder)
    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(top / "hub"))
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    patch.setenv("HF_HUB_CACHE", str(top / "hub"))  # of processes that are started
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("GTA_CACHE", str(top / "cache"))
    for name, value in LESS.items():
        patch.setenv(name, value)


# --- running


@pytest.fixture
def folder(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world, in links."""
    copy = tmp_path / "home"
    ignored = shutil.ignore_patterns("hub", "cache")
    shutil.copytree(world, copy, copy_function=os.link, ignore=ignored)
    offline(monkeypatch, copy, world)
    monkeypatch.syspath_prepend(str(copy / SITE))
    return copy


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in SECTIONS]
)
def test_what_is_shown_runs(name: str, folder: Path) -> None:
    for block in SECTIONS[name]:
        for command, _ in block.commands():
            make_room(command, folder)
    names: dict[str, Any] = {}
    for block in SECTIONS[name]:
        text = "\n".join(block.lines)
        if file := re.match(r"# ([\w-]+/[\w./-]+)$", block.lines[0]):
            Path(file[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(file[1]).write_text(text, encoding="utf-8")
        elif block.language == "console":
            assert list(block.commands()), f"no command in {text}"
            for command, shown in block.commands():
                if reason(command) is None:
                    status, output = run(command)
                    assert status == 0, f"{command}\n{output}"
                    compare(shown, output, command)
        elif block.language == "python":
            exec(compile(text, name, "exec"), names)
            check_comments(text, names)
        elif block.language == "toml":
            tomllib.loads(text)
            if named := re.match(r"# (\w+\.toml)$", block.lines[0]):
                sets = LESS_STUDY.get(name, ())
                Path(named[1]).write_text(change_study(text, named[1], sets), encoding="utf-8")
        else:
            assert block.language in ("text", "bash"), f"what is `{block.language}`?"


def make_room(command: str, folder: Path) -> None:
    """What a section makes is not there before."""
    for made in re.findall(r"(?:--out|-o) (\S+)", command):
        shutil.rmtree(folder / made, ignore_errors=True)


def run(command: str) -> tuple[int, str]:
    """As a shell would, but that `gta` runs in this process; a pipe ends at a tool that is not
    installed. Returns the worst status, and stdout with all that came on stderr."""
    piped, log, worst = b"", "", 0
    for stage in command.split(" | "):
        # The shell itself says what its words are: patterns, quotes, comments.
        expanded = subprocess.run(["bash", "-c", f"printf '%s\\0' {stage}"], capture_output=True)
        program, *words = expanded.stdout.decode().split("\0")[:-1]
        if program == "gta":
            status, piped, said = gta(words, piped)
            log += said
        elif [program, *words[:2]] == ["pip", "install", "-e"] and os.path.isdir(words[2]):
            status, piped, said = install(words[2])
            log += said
        elif shutil.which(program) is None:
            break
        else:
            done = subprocess.run([program, *words], input=piped, capture_output=True)
            status, piped = done.returncode, done.stdout
            log += done.stderr.decode()
        worst = max(worst, status)
    return worst, piped.decode() + log


def gta(words: list[str], stdin: bytes) -> tuple[int, bytes, str]:
    if "--nproc" in words:  # starts processes of its own, which write for themselves
        done = subprocess.run([sys.executable, "-m", "gtacli", *words], capture_output=True)
        return done.returncode, done.stdout, done.stderr.decode()
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        console.stderr.cache_clear()
        status = main(words)
    console.stderr.cache_clear()
    return status, out.getvalue().encode(), err.getvalue()


def install(project: str) -> tuple[int, bytes, str]:
    """Install a project of this section, for this section, without a network."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*pip, *offline, "--target", SITE, os.path.abspath(project)], capture_output=True
    )
    importlib.invalidate_caches()
    return done.returncode, done.stdout, done.stderr.decode()


def compare(shown: list[str], output: str, command: str) -> None:
    """Every line that is shown, but for its numbers, is among those of the output."""
    came = {shape(line) for line in output.splitlines()}
    for line in shown:
        wanted = shape(line)
        if line != "…" and not wanted.startswith(tuple(NOT_SHOWN)):
            assert wanted in came, f"{command}\n{line}\ndid not come; there was\n{output}"


def shape(line: str) -> str:
    """Return the keys of a line of JSON, or the words of another line with # for each number."""
    with contextlib.suppress(json.JSONDecodeError):
        if line.startswith("{"):
            return " ".join(json.loads(line))
    numbered = re.sub(r"(?<![\w.])-?\d[\d,]*(\.\d+)?(?!\w)", "#", line)
    # TokenCut's choice is cached or made, by which section runs first.
    return " ".join(numbered.replace("(chosen in # s;", "(cached;").split())


def check_comments(text: str, names: dict[str, Any]) -> None:
    """`value  # uint8 (14, 14)`, `value.shape  # (1, 196): what it is`, `x = …  # (1, 196)`: the
    shape is right; of several values the first one's."""
    for value, said in re.findall(r"^(\S.*?)  # (?:\w+ )?(\(\d[\d, ]*\))", text, re.MULTILINE):
        found = eval(value.split(" = ")[0], names)
        if type(found) is tuple:
            found = found[0]
        assert str(tuple(getattr(found, "shape", found))) == said, value


# --- the documents themselves


def test_what_is_excepted_is_there() -> None:
    shown = [(c, o) for blocks in SECTIONS.values() for b in blocks for c, o in b.commands()]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command, _ in shown), start
    for start in NOT_SHOWN:
        lines = [shape(line) for _, output in shown for line in output]
        assert any(line.startswith(start) for line in lines), start
    assert SECTIONS.keys() >= SLOW


def test_options_exist() -> None:
    """Each `--option` that is spoken of is one of some command."""
    known = {*options(), "--help", "--install-completion"}
    for document in DOCUMENTS:
        for line in document.read_text(encoding="utf-8").splitlines():
            others = "$ torchrun" in line or line.startswith(("#SBATCH", "docker "))
            if not others and "`--build-arg" not in line:
                for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", line):
                    assert option in known, f"{document.name}: {line}"


def options() -> Iterator[str]:
    for module, _ in COMMANDS.values():
        command = typer.main.get_command(importlib.import_module(module).app)
        for each in (command, *getattr(command, "commands", {}).values()):
            for parameter in each.params:
                yield from (*parameter.opts, *parameter.secondary_opts)
    for name in EXECUTORS.names():  # flags where the executor is chosen
        for key in EXECUTORS.load(name).Options.model_fields:
            yield f"--{key.replace('_', '-')}"


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)]+)\)", text):
            file, _, heading = target.partition("#")
            if "://" in file:
                continue
            to = document.parent / file if file else document
            assert to.exists(), f"{document.name}: {target}"
            if heading:
                anchors = [
                    re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                    for line in to.read_text(encoding="utf-8").splitlines()
                    if line.startswith("#")
                ]
                assert heading in anchors, f"{document.name}: {target}"
