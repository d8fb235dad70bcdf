"""Tests of `gta segment`, in process and as a subprocess."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import count, islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gtacli.data.inputs import InputImage
from gtacli.discovery.build import make_backend
from gtacli.inference.objects import Finder
from gtacli.inference.segment.segmentation import MaskOptions, segment
from gtacli.models import load_model
from gtacli.runtime.devices import choose_compute


@pytest.mark.usefixtures("bright")
def test_masks_and_boxes_are_at_the_size_of_the_image(
    gta: Any, tiny_model: Path, tmp_path: Path, read: Any, scene: Any, words: Any
) -> None:
    truth = scene(tmp_path / "in" / "a.png")
    with Image.open(tmp_path / "in" / "a.png") as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        image.save(tmp_path / "in" / "turned.jpg", exif=exif, quality=95)
    done = gta(*words(tiny_model, tmp_path / "out", tmp_path / "in"), "--json")
    assert done.status == 0
    plain, turned, summary = done.lines
    assert plain["box"] == [48, 16, 72, 48]
    assert plain["area"] == pytest.approx(1 / 8)
    assert (read(plain["mask"]) == truth * np.uint8(255)).all()
    assert turned["box"] == [16, 48, 48, 72]
    assert (read(turned["mask"]) == np.rot90(truth, -1) * np.uint8(255)).all()
    assert set(summary["summary"]) == {"images", "failed", "images_per_second"}
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["config"]["backend"] == "bright"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["images"] == 2


@pytest.mark.usefixtures("bright")
def test_folders_and_order_are_kept_and_bad_images_reported(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    root = tmp_path / "in"
    for name in ("b/2.png", "a/1.png", "a/deep/x.y.png"):
        scene(root / name)
    whole = (root / "a" / "1.png").read_bytes()
    (root / "a" / "cut.png").write_bytes(whole[:60])
    (root / "a" / "text.jpg").write_text("no image")
    (root / "b" / "1.jpg").write_bytes(whole)  # a PNG by its content
    more = ["--json", "--batch-size", "2", "--overlay"]
    done = gta(*words(tiny_model, tmp_path / "out", root, tmp_path / "missing.png"), *more)
    assert done.status == 1
    *lines, last = done.lines
    names = [PurePath(x["image"]).relative_to(tmp_path).as_posix() for x in lines]
    assert names == [
        "in/a/1.png", "in/a/cut.png", "in/a/deep/x.y.png", "in/a/text.jpg", "in/b/1.jpg",
        "in/b/2.png", "missing.png",
    ]  # fmt: skip
    bad = [x for x in lines if "error" in x]
    assert [PurePath(x["image"]).name for x in bad] == ["cut.png", "text.jpg", "missing.png"]
    assert all(x["image"] in done.err for x in bad)
    out = tmp_path / "out"
    written = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    stems = {"a/1", "a/deep/x.y", "b/1", "b/2"}
    expected = {f"{s}{end}" for s in stems for end in (".png", ".overlay.jpg")}
    assert written == expected | {"run.json", "summary.json", "journal.jsonl"}
    assert last["summary"]["images"] == 4
    assert last["summary"]["failed"] == 3


@pytest.mark.usefixtures("bright")
def test_min_confidence_leaves_unsure_masks_empty(
    gta: Any, tiny_model: Path, tmp_path: Path, read: Any, scene: Any, words: Any
) -> None:
    scene(tmp_path / "a.png")
    all_ = gta(*words(tiny_model, tmp_path / "all", tmp_path / "a.png"), "--json").lines[0]
    assert 0 < all_["confidence"] < 1
    assert all_["box"] is not None
    at = ("--min-confidence", str(all_["confidence"] - 1e-6))
    same = gta(*words(tiny_model, tmp_path / "same", tmp_path / "a.png"), "--json", *at).lines[0]
    assert same["box"] == all_["box"]
    above = ("--min-confidence", str(all_["confidence"] + 1e-6))
    given = words(tiny_model, tmp_path / "none", tmp_path / "a.png")
    done = gta(*given, "--json", "--overlay", *above)
    assert done.status == 0, done.err
    none = done.lines[0]
    assert none["box"] is None
    assert none["area"] == 0
    assert none["confidence"] == all_["confidence"]
    assert not read(none["mask"]).any()
    assert "nothing found" in gta(*given, "--overwrite", *above).out


def odd(scene: Any, kind: str, path: Path) -> Path:
    """Write a picture of an unusual kind."""
    scene(path / "plain.png")
    image = Image.open(path / "plain.png")
    if kind == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(path / "odd.png")
    elif kind == "CMYK":
        image.convert("CMYK").save(path / "odd.jpg", quality=95)
    elif kind == "1x1":
        image.resize((1, 1)).save(path / "odd.png")
    elif kind == "long":
        image.resize((20000, 20)).save(path / "odd.png")
    else:
        image.convert(kind, dither=Image.Dither.NONE).save(path / "odd.png")
    return next(path.glob("odd.*"))


@pytest.mark.parametrize("refine", ["none", "bilateral", "guided"])
@pytest.mark.parametrize("kind", ["L", "1", "RGBA", "P", "CMYK", "I;16", "1x1", "long"])
@pytest.mark.usefixtures("bright")
def test_odd_images(
    kind: str,
    refine: str,
    gta: Any,
    tiny_model: Path,
    tmp_path: Path,
    read: Any,
    scene: Any,
    words: Any,
) -> None:
    path = odd(scene, kind, tmp_path)
    given = words(tiny_model, tmp_path / "out", path)
    done = gta(*given, "--json", "--refine", refine, "--overlay")
    assert done.status == 0, done.err
    line = done.lines[0]
    with Image.open(path) as image:
        assert read(line["mask"]).shape == (image.height, image.width)
    if kind == "1x1":
        assert line["box"] is None or line["box"] == [0, 0, 1, 1]
    elif kind == "long":
        if refine == "none":
            assert line["box"] == [10000, 5, 15000, 15]
    else:
        assert line["box"] == pytest.approx([48, 16, 72, 48], abs=2)


def test_odd_images_with_several_models(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    """Of every kind at once, several objects each, by two models, on a sheet."""
    for kind in ("L", "RGBA", "CMYK", "I;16", "1x1", "long"):
        odd(scene, kind, tmp_path / "in" / kind.replace(";", ""))
    (tmp_path / "in" / "cut.jpg").write_bytes((tmp_path / "in/CMYK/odd.jpg").read_bytes()[:200])
    given = words(tiny_model, tmp_path / "out", tmp_path / "in", backend="tokencut")
    done = gta(
        *given,
        "--json",
        "--objects",
        "2",
        "--compare",
        str(tiny_model),
        "--layer",
        "-1",
        "--tau",
        "0.9",
    )
    assert done.status == 1
    results = [x for x in done.lines if "image" in x]
    assert [PurePath(x["image"]).name for x in results if "error" in x] == ["cut.jpg"]
    assert len(results) == 1 + 2 * 12
    sheet = next(x["sheet"] for x in done.lines if "sheet" in x)
    with Image.open(sheet) as drawn:
        assert drawn.height > 200


@pytest.mark.parametrize("refine", ["bilateral", "guided"])
@pytest.mark.usefixtures("bright")
def test_large_images_are_refined_too(
    refine: str, gta: Any, tiny_model: Path, tmp_path: Path, read: Any, scene: Any, words: Any
) -> None:
    truth = scene(tmp_path / "a.png", (1300, 2400))
    given = words(tiny_model, tmp_path / "out", tmp_path / "a.png")
    line = gta(*given, "--json", "--refine", refine, "--overlay").lines[0]
    found = read(line["mask"]) > 0
    assert (found & truth).sum() > 0.98 * (found | truth).sum()
    with Image.open(line["overlay"]) as overlay:
        assert overlay.size == (2048, 1109)


@pytest.mark.usefixtures("bright")
def test_a_refinement_that_leaves_nothing_is_ignored(
    gta: Any,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Any,
    scene: Any,
    words: Any,
) -> None:
    truth = scene(tmp_path / "a.png")
    monkeypatch.setattr(
        "gtacli.inference.segment.masks.bilateral", lambda image, target: target * 0.4
    )
    given = words(tiny_model, tmp_path / "out", tmp_path / "a.png")
    done = gta(*given, "--json", "--refine", "bilateral")
    assert (read(done.lines[0]["mask"]) == truth * np.uint8(255)).all()


@pytest.mark.parametrize("name", ["tokencut", "dino", "gradcam"])
def test_every_backend(
    name: str, gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    for i in range(3):
        truth = scene(tmp_path / "in" / f"{i}.png", (50 + i, 70))
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(truth).save(tmp_path / "masks" / f"{i}.png")
    more = ["--ground-truth", str(tmp_path / "masks"), "--json", "--layer", "-2"]
    results = []
    for threads in ("0", "3"):
        out = tmp_path / f"out{threads}"
        given = words(tiny_model, out, tmp_path / "in", backend=name)
        done = gta(*given, *more, "--workers", threads, "--image-size", "32x48")
        assert done.status == 0, done.err
        figures = {k: v for k, v in done.lines[-1]["summary"].items() if k != "images_per_second"}
        assert (figures["jaccard"] is None) == (name != "dino")
        results.append(([(x["box"], x["area"], x["iou"]) for x in done.lines[:-1]], figures))
    assert results[0] == results[1]


@pytest.mark.usefixtures("bright")
def test_no_mask_overwrites_an_image(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    scene(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "run.json").write_text("{}")
    before = (tmp_path / "in" / "a.png").read_bytes()
    own = words(tiny_model, tmp_path / "in", tmp_path / "in" / "a.png")
    done = gta(*own, "--json", "--overwrite")
    assert done.status == 1
    assert "its mask would overwrite it" in done.lines[0]["error"]
    assert (tmp_path / "in" / "a.png").read_bytes() == before


def test_wrong_options_are_reported_first(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    image = tmp_path / "a.png"
    scene(image)
    out = tmp_path / "out"
    base = words(tiny_model, out, image, backend="tokencut")
    dino = words(tiny_model, out, image, backend="dino")
    used = words(tiny_model, tmp_path, image, backend="tokencut")
    headless = tmp_path / "headless"
    headless.mkdir()
    cases = {
        "--model: name a pre-trained ViT": ["segment", str(image)],
        "did you mean 'tokencut'": words(tiny_model, out, image, backend="tokencutt"),
        "--ground-truth: no folder": [*base, "--ground-truth", str(out / "none")],
        "is not empty; choose another folder, --overwrite, or --resume": used,
        "holds no earlier run, so it is not overwritten": [*used, "--overwrite"],
        "there is no block 9": [*base, "--layer", "9"],
        "not a multiple of the patch size": [*base, "--image-size", "33"],
        "--backend: gradcam needs a classifier": [
            "segment", str(image), "-m", str(_without_head(tiny_model, headless)), "-o", str(out),
            "--backend", "gradcam",
        ],
        "the backend dino finds one object per image": [*dino, "--objects", "2"],
        "the backend gradcam finds one object per image": [
            *words(tiny_model, out, image, backend="gradcam"), "--objects", "2",
        ],
        "two names of one option": [*dino, "--kind", "attention"],
        "--compare resnet18@none: ": [*base, "--compare", "resnet18@none"],
        "--compare vit_tinny": [*base, "--compare", str(tiny_model), "vit_tinny_patch16_224@none"],
        "--tau: must be at least 0 for several objects": [
            *base, "--objects", "2", "--tau", "-0.5", "--layer", "-1",
        ],
        "no such file or folder": [*base, "--data", str(tmp_path / "nowhere")],
        "no images": words(tiny_model, out, backend="tokencut"),
        "no image in": words(tiny_model, out, headless / "*.gif", backend="tokencut"),
    }  # fmt: skip
    for message, given in cases.items():
        done = gta(*given)
        assert done.status == 2, message
        assert message in done.err
        assert done.err.count("error:") == 1
        assert not out.exists()


def _without_head(model: Path, folder: Path) -> Path:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(model / "model.safetensors", "pt") as f:
        tensors = {k: f.get_tensor(k) for k in f.keys() if not k.startswith("head.")}  # noqa: SIM118
        metadata = {**f.metadata(), "num_classes": "0"}
    save_file(tensors, folder / "model.safetensors", metadata)
    return folder


@pytest.mark.usefixtures("bright")
def test_a_dry_run_writes_nothing(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    scene(tmp_path / "a.png")
    done = gta(*words(tiny_model, tmp_path / "out", tmp_path / "a.png"), "--json", "--dry-run")
    assert done.status == 0
    assert done.lines[0]["mask"] is None
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("bright")
def test_a_file_instead_of_a_folder_fails_its_image(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    scene(tmp_path / "in" / "x" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{}")
    (tmp_path / "out" / "x").write_text("a file")
    done = gta(*words(tiny_model, tmp_path / "out", tmp_path / "in"), "--overwrite")
    assert done.status == 1
    assert "cannot write" in done.err
    assert "x/a.png" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_paths_from_a_pipe(tiny_model: Path, tmp_path: Path, scene: Any) -> None:
    for name in ("a.png", "b c.png"):
        scene(tmp_path / "in" / name)
    gta = [sys.executable, "-m", "gtacli", "segment", "-", "-0", "-m", str(tiny_model)]
    done = subprocess.run(
        [*gta, "--json", "-q", "-o", "out"],
        input=b"in/b c.png\0in/a.png\0",
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [PurePath(x["mask"]).as_posix() for x in lines[:2]] == ["out/in/b c.png", "out/in/a.png"]
    assert all((tmp_path / x["mask"]).is_file() for x in lines[:2])


@pytest.mark.usefixtures("bright")
def test_an_endless_stream_is_read_as_it_is_needed(
    tiny_model: Path, tmp_path: Path, scene: Any
) -> None:
    scene(tmp_path / "a.png")
    model = load_model(str(tiny_model))
    taken = count()
    endless = (InputImage(str(tmp_path / "a.png"), PurePath(f"{next(taken)}.png")) for _ in count())
    output = MaskOptions(tmp_path / "out")
    compute = choose_compute("cpu", "auto")
    finder = Finder(model, make_backend("bright", {}, model), compute)
    results = segment([finder], endless, output, 2)
    first = list(islice(results, 5))
    results.close()  # type: ignore[attr-defined]
    assert [Path(x["mask"]).name for x in first] == [f"{i}.png" for i in range(5)]
    assert next(taken) <= 5 + 4 * 2 + 2


@pytest.mark.usefixtures("own_cache")
def test_layer_and_tau_are_chosen_once_and_recorded(
    gta: Any, tiny_model: Path, tmp_path: Path, scene: Any, words: Any
) -> None:
    scene(tmp_path / "in" / "a.png")
    said = []
    for out in ("one", "two"):
        done = gta(*words(tiny_model, tmp_path / out, tmp_path / "in", backend="tokencut"))
        assert done.status == 0
        said.append(done.err)
    assert "choosing layer and tau" in said[0]
    assert "choosing layer and tau" not in said[1]
    assert "cached" in said[1]
    one, two = (
        json.loads((tmp_path / n / "run.json").read_text())["options"] for n in ("one", "two")
    )
    assert one == two
    (options,) = one.values()
    assert f"layer {options['layer']}, tau {options['tau']:g}" in said[1]


@pytest.mark.usefixtures("bright")
def test_an_interruption_reports_every_mask_and_the_summary(
    gta: Any,
    tiny_model: Path,
    tmp_path: Path,
    scene: Any,
    words: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for i in range(40):
        scene(tmp_path / "in" / f"{i:02}.png")
    find = Finder.find
    presses = iter([signal.SIGINT])  # a second one would stop at once

    def interrupted(self: Finder, views: Any) -> Any:
        for press in presses:
            os.kill(os.getpid(), press)
        return find(self, views)

    monkeypatch.setattr(Finder, "find", interrupted)
    more = ["--json", "--batch-size", "2"]
    done = gta(*words(tiny_model, tmp_path / "out", tmp_path / "in"), *more)
    assert done.status == 130
    assert "interrupted" in done.err
    *lines, summary = done.lines
    assert 2 <= len(lines) < 40
    masks = [str(tmp_path / "out" / f"{i:02}.png") for i in range(len(lines))]
    assert [line["mask"] for line in lines] == masks
    assert sorted(map(str, (tmp_path / "out").glob("*.png"))) == masks
    assert summary["summary"]["images"] == len(lines)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["images"] == len(lines)
