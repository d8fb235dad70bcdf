"""Tests of `gta probe attention`."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from gtacli import attention, load_model
from gtacli.probing.results import AttentionResult

PATCH = 8  # of the tiny model: 32 pixels, 4 x 4 patches, three blocks, three heads


def photo(path: Path, size: tuple[int, int] = (32, 32), seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return path


def mask_of(path: Path, size: tuple[int, int] = (32, 32), columns: slice = slice(0, 12)) -> Path:
    """Write a mask that is white in some columns."""
    pixels = np.zeros(size, np.uint8)
    pixels[:, columns] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images in `photos` and their masks in `masks`; the second has no object."""
    for i in range(3):
        photo(tmp_path / "photos" / f"{i}.png", seed=i)
        columns = slice(0, 0) if i == 1 else slice(0, 12)
        mask_of(tmp_path / "masks" / f"{i}.png", columns=columns)
    return tmp_path / "photos"


def saved(folder: Path, kwargs: dict[str, Any], arch: str = "vit_tiny_patch16_224") -> Path:
    torch.manual_seed(1)
    model = timm.create_model(arch, num_classes=7, **kwargs)
    folder.mkdir()
    metadata = {"architecture": arch, "kwargs": json.dumps(kwargs), "num_classes": "7"}
    save_file(model.state_dict(), folder / "model.safetensors", metadata)
    return folder


TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return saved(tmp_path / "other", TINY)


def words(model: Path, out: Path, *more: object) -> list[str]:
    start = ["probe", "attention", *map(str, more)]
    return [*start, "-m", str(model), "-o", str(out), "--device", "cpu"]


def rows_of(model: Path, images: list[Path]) -> list[NDArray[np.float64]]:
    """Return the logits (images, heads, tokens) of each block, of images of the model's size."""
    loaded = load_model(str(model))
    pixels = np.stack([np.asarray(Image.open(image)) for image in images]) / 255
    batch = (pixels - np.array(loaded.mean)) / np.array(loaded.std)
    inputs = torch.from_numpy(batch).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        taps = attention(loaded.model, inputs, "all")
    return [tap.logits[:, :, 0].double().numpy() for tap in taps]


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_metrics(
    gta: Any, check_fields: Any, tiny_model: Path, other: Path, photos: Path, tmp_path: Path
) -> None:
    masks = ["--masks", tmp_path / "masks", "--compare", other, "--batch-size", 2]
    done = gta(*words(tiny_model, tmp_path / "o", photos, *masks), "--json")
    assert done.status == 0
    first, second = done.lines
    assert [line["model"] for line in done.lines] == [str(tiny_model), str(other)]
    assert [line["reference"] for line in done.lines] == [None, str(tiny_model)]
    for line in done.lines:
        check_fields(AttentionResult, line)
        assert line["task"] == "attention"
        assert line["masks"] == str(tmp_path / "masks")
        assert (line["n_images"], line["n_inside"]) == (3, 2)
        assert line["area"] == pytest.approx(12 / 32)
        assert (line["grid"], line["tokens"]) == ([4, 4], 17)
        assert [layer["layer"] for layer in line["layers"]] == [0, 1, 2]
    images = sorted(photos.glob("*.png"))
    weights = np.tile([1.0, 0.5, 0.0, 0.0], 4)  # 12 of 32 columns: a patch and a half
    ours, theirs = rows_of(tiny_model, images), rows_of(other, images)
    for line, rows in ((first, ours), (second, theirs)):
        for layer, row in zip(line["layers"], rows, strict=True):
            a = softmax(row)
            inside = ((a[..., 1:] @ weights) / a[..., 1:].sum(-1))[[0, 2]].mean(0)
            assert layer["inside"] == pytest.approx(inside.tolist(), rel=1e-4)
            over = [share / (12 / 32) for share in layer["inside"]]
            assert layer["inside_over_area"] == pytest.approx(over)
            entropy = -(a * np.log(a)).sum(-1).mean(0)
            assert layer["entropy"] == pytest.approx(entropy.tolist(), rel=1e-5)
    assert all(layer["drift"] is layer["kl"] is None for layer in first["layers"])
    for layer, s, t in zip(second["layers"], ours, theirs, strict=True):
        drift = ((t - s)[..., 1:] ** 2).sum(-1).mean(0)
        assert layer["drift"] == pytest.approx(drift.tolist(), rel=1e-3)
        p, q = softmax(s[..., 1:]), softmax(t[..., 1:])
        kl = (p * np.log(p / q)).sum(-1).mean(0)
        assert layer["kl"] == pytest.approx(kl.tolist(), rel=1e-3, abs=1e-8)


def test_a_table_and_a_picture(
    gta: Any, tiny_model: Path, other: Path, photos: Path, tmp_path: Path
) -> None:
    more = ["--masks", tmp_path / "masks", "--compare", other]
    done = gta(*words(tiny_model, tmp_path / "o", photos, *more))
    assert done.status == 0
    assert "images 3, with an object 2" in done.out
    assert "area of the object 37.5 %" in done.out
    lines = done.out.splitlines()[2:]
    assert lines[0].split()[:2] == ["model", "block"]
    assert [line.split()[0] for line in lines[1:]] == ["tiny-model"] * 3 + ["other"] * 3
    with Image.open(tmp_path / "o" / "attention.png") as picture:
        assert picture.width > 400
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert len(summary["results"]) == 2
    assert json.loads((tmp_path / "o" / "run.json").read_text())["command"] == "probe attention"


def test_masks_of_a_dataset(gta: Any, tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    """One image has none and counts only for the entropy."""
    rows = [f"photos/{i}.png,{i},masks/{i}.png" for i in (0, 2)] + ["photos/1.png,1,"]
    table = tmp_path / "t.csv"
    table.write_text("path,label,mask\n" + "\n".join(rows))
    (line,) = gta(*words(tiny_model, tmp_path / "o", "--data", table), "--json").lines
    assert (line["masks"], line["n_images"], line["n_inside"]) == ("data", 3, 2)
    assert line["area"] == pytest.approx(12 / 32)
    both = gta(*words(tiny_model, tmp_path / "p", photos, "--data", table), "--json").lines[0]
    assert (both["n_images"], both["n_inside"]) == (6, 2)


def test_without_masks_tokencut_makes_them(
    gta: Any, tiny_model: Path, other: Path, photos: Path, tmp_path: Path
) -> None:
    done = gta(*words(tiny_model, tmp_path / "o", photos, "--layer", "-1,0", "--json"))
    assert done.status == 0
    (line,) = done.lines
    assert line["masks"] == "tokencut"
    options = json.loads((tmp_path / "o" / "run.json").read_text())["options"]
    assert isinstance(options["layer"], int)
    assert "using the first model's by TokenCut" in done.err
    assert 0 < line["area"] < 1
    assert [layer["layer"] for layer in line["layers"]] == [0, 2]


def test_images_of_any_shape(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    """Images and masks are stretched to the model's size."""
    photo(tmp_path / "in" / "a.jpg", (50, 90))
    mask_of(tmp_path / "masks" / "a.png", (50, 90), slice(0, 30))
    more = [tmp_path / "in", "--masks", tmp_path / "masks", "--image-size", 64]
    (line,) = gta(*words(tiny_model, tmp_path / "o", *more), "--json").lines
    assert line["area"] == pytest.approx(1 / 3, rel=1e-6)
    assert line["grid"] == [8, 8]
    assert line["image_size"] == [64, 64]


def test_models_of_different_depths_and_heads(
    gta: Any, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    deep = saved(tmp_path / "deep", {**TINY, "depth": 4, "num_heads": 2})
    base = [photos, "--masks", tmp_path / "masks", "--compare", deep]
    done = gta(*words(tiny_model, tmp_path / "o", *base), "--json")
    assert done.status == 0
    assert "deep has 4 blocks and the first model 3: no distances" in done.err
    assert done.lines[1]["reference"] is None
    assert len(done.lines[1]["layers"]) == 4
    last = gta(*words(tiny_model, tmp_path / "p", *base, "--layer", "last"), "--json")
    (layer,) = last.lines[1]["layers"]
    assert (layer["layer"], len(layer["inside"]), len(layer["kl"])) == (3, 2, 1)


def test_models_of_different_patch_sizes(
    gta: Any, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    fine = saved(tmp_path / "fine", {**TINY, "patch_size": 4})
    more = [photos, "--masks", tmp_path / "masks", "--compare", fine]
    first, second = gta(*words(tiny_model, tmp_path / "o", *more), "--json").lines
    assert (first["grid"], second["grid"]) == ([4, 4], [8, 8])
    assert second["area"] == pytest.approx(first["area"])
    assert second["layers"][0]["drift"] is not None


def test_bad_images_are_reported_and_the_others_are_processed(
    gta: Any, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "3.png").write_bytes(b"no image")
    photo(photos / "4.png")  # has no mask
    photo(photos / "5.png", (30, 32))
    mask_of(tmp_path / "masks" / "5.png")  # of another size
    (tmp_path / "masks" / "6.xml").write_text("<annotation></annotation>")
    photo(photos / "6.png")
    more = [photos, "--masks", tmp_path / "masks"]
    done = gta(*words(tiny_model, tmp_path / "o", *more), "--json")
    assert done.status == 1
    errors = [line["error"] for line in done.lines if "error" in line]
    assert len(errors) == 4
    for error, what in zip(errors, ("not an image", "no ground truth for", "32 x 32", ""),
                           strict=True):  # fmt: skip
        assert what in error
    assert done.lines[-1]["n_images"] == 3


def test_no_readable_image(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    done = gta(*words(tiny_model, tmp_path / "o", tmp_path / "gone.png"), "--json")
    assert done.status == 1
    assert done.lines[-1]["n_images"] == 0
    assert done.lines[-1]["layers"][0]["entropy"] is None
    assert not (tmp_path / "o" / "attention.png").exists()
    assert gta(*words(tiny_model, tmp_path / "p", tmp_path / "gone.png")).status == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--layer", "7"], "no block 7; this model has 3"),
        (["--layer", "some"], "--layer: must be"),
        (["--masks", "nowhere"], "--masks: no folder or file nowhere"),
        (["--image-size", "30"], "not a multiple of the patch size"),
        (["--data", "nowhere"], "no folder or file 'nowhere'"),
        (["--set", "discovery.tokencut.tauu=1"], "unknown key 'tauu'"),
    ],
)
def test_wrong_usage(
    gta: Any, tiny_model: Path, photos: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    done = gta(*words(tiny_model, tmp_path / "o", photos), *more)
    assert done.status == 2
    assert message in done.err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", ["probe attention", "probe knn", "discover", "segment"])
def test_the_demo_needs_no_model(
    gta: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--batch-size", "2", "--dry-run", "--device", "cpu", "-o", "out"]
    done = gta(*command.split(), "--data", "demo", *few)
    assert done.status == 0
    assert "no --model: using the built-in model of demo" in done.err


def test_missing_options(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    done = gta("probe", "attention", "x.png")
    assert done.status == 2
    assert "--model: name a pre-trained ViT" in done.err
    done = gta(*words(tiny_model, tmp_path / "o"))
    assert done.status == 2
    assert "no images" in done.err
    flat = saved(tmp_path / "flat", {**TINY, "class_token": False, "global_pool": "avg"})
    done = gta(*words(flat, tmp_path / "o", "x.png"))
    assert done.status == 2
    assert "no CLS token" in done.err


def test_a_dry_run_writes_nothing(gta: Any, tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    more = [photos, "--masks", tmp_path / "masks", "--batch-size", 2]
    done = gta(*words(tiny_model, tmp_path / "o", *more), "--dry-run", "--json")
    assert (done.status, done.lines[0]["n_images"]) == (0, 2)
    assert not (tmp_path / "o").exists()


def test_an_interruption_shows_the_results_so_far(
    gta: Any, tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtacli.probing.attention import AttentionProbe

    measure = AttentionProbe._measure

    def interrupted(self: Any, batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)  # the batch counts completely
        return measure(self, batch)

    monkeypatch.setattr(AttentionProbe, "_measure", interrupted)
    more = [photos, "--masks", tmp_path / "masks", "--batch-size", 2]
    done = gta(*words(tiny_model, tmp_path / "o", *more), "--json")
    assert done.status == 130
    assert done.lines[0]["n_images"] == 2
    assert (tmp_path / "o" / "attention.png").is_file()


def test_the_environment_and_the_group(gta: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTA_PROBE_ATTENTION__LAYER", "-1,-2")
    done = gta("probe", "attention", "--print-config")
    assert 'command = "probe attention"' in done.out
    assert "-2" in done.out
    assert "attention" in gta("probe").out
    wrong = gta("probe", "atention")
    assert wrong.status == 2
    assert "atention" in wrong.err


def test_threads_change_nothing(gta: Any, tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    more = [photos, "--masks", tmp_path / "masks"]
    lines = []
    for workers in (0, 3):
        out = tmp_path / str(workers)
        (line,) = gta(*words(tiny_model, out, *more, "--workers", workers), "--json").lines
        lines.append({k: v for k, v in line.items() if k != "seconds"})
    assert lines[0] == lines[1]
    assert math.isfinite(lines[0]["layers"][0]["entropy"][0])
