"""Tests of `gta attention-map`, in process and as a subprocess."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from gtacli import attention, load_model
from gtacli.cli.lazy import _one_each
from gtacli.demo import defaults as demo
from gtacli.models.specs import ModelProvider, Weights
from gtacli.registry import MODELS
from gtacli.rendering.sheet import BAR, NUMBERS, SIDE

PATCH = 8  # of the tiny model, 32 pixels, three blocks, three heads


def photo(path: Path, size: tuple[int, int] = (32, 32), seed: int = 0) -> Path:
    """Write a picture (height, width) of smooth noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return path


def words(model: Path, out: Path, *more: object) -> list[str]:
    return ["attention-map", *map(str, more), "-m", str(model), "-o", str(out), "--device", "cpu"]


def truth(model: Path, image: Path, layer: int = -1) -> NDArray[np.float32]:
    """(H, gh, gw) of an image of the model's own size."""
    loaded = load_model(str(model))
    with Image.open(image) as picture:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (loaded.mean, loaded.std))
    with torch.no_grad():
        (tap,) = attention(loaded.model, ((pixels - mean) / std)[None], (layer,))
    return tap.maps()[0].numpy()


def test_each_map_has_a_line_and_a_picture(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    photo(tmp_path / "in" / "b" / "two.png", (60, 90))
    photo(tmp_path / "in" / "a.jpg", (32, 32))
    done = gta(*words(tiny_model, tmp_path / "out", tmp_path / "in"), "--json")
    assert done.status == 0
    first, second = done.lines
    assert first == {
        "image": str(tmp_path / "in" / "a.jpg"),
        "output": str(tmp_path / "out" / "a.layer2.max.png"),
        "layer": 2,
        "heads": "max",
        "grid": [4, 4],
        "source_size": [32, 32],
    }
    assert second["output"] == str(tmp_path / "out" / "b" / "two.layer2.max.png")
    assert second["grid"] == [3, 5]  # its own aspect, about as many patches
    assert second["source_size"] == [60, 90]
    with Image.open(second["output"]) as drawn:
        assert drawn.size == (90, 60)
        assert drawn.mode == "RGB"


@pytest.mark.parametrize("layer", [0, 2])
def test_raw_maps_are_the_softmax_of_the_full_row(
    gta: Any, tiny_model: Path, tmp_path: Path, layer: int
) -> None:
    image = photo(tmp_path / "a.png")
    raw = ["--style", "raw", "--layer", str(layer)]
    expected = truth(tiny_model, image, layer)
    for heads, name, value in (
        ("all", "all", expected),
        ("max", "max", expected.max(0)),
        ("mean", "mean", expected.mean(0)),
        ("1", "head1", expected[1]),
        ("2,0", "heads2-0", expected[[2, 0]]),
    ):
        out = tmp_path / heads
        assert gta(*words(tiny_model, out, image), *raw, "--heads", heads).status == 0
        found = np.load(out / f"a.layer{layer}.{name}.npy")
        assert found.dtype == np.float32
        assert found.shape == value.shape
        assert np.allclose(found, value, atol=1e-6)


def test_every_head_has_its_own_picture(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    done = gta(
        *words(tiny_model, tmp_path / "o", image), "--layer", "all", "--heads", "all", "--json"
    )
    assert [(line["layer"], line["heads"]) for line in done.lines] == [
        (layer, head) for layer in range(3) for head in range(3)
    ]
    assert len(list((tmp_path / "o").glob("a.layer*.head*.png"))) == 9


def test_masks_hold_sixty_percent_as_dinos_do(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    assert gta(*words(tiny_model, tmp_path / "o", image), "--style", "mask").status == 0
    attended = truth(tiny_model, image).max(0)
    # visualize_attention.py: sort, cumulate the shares, keep what is above 1 - 0.6 of the mass
    order = np.argsort(attended.ravel())
    shares = np.cumsum(attended.ravel()[order] / attended.sum())
    kept = np.zeros(attended.size, bool)
    kept[order] = shares > 1 - 0.6
    with Image.open(tmp_path / "o" / "a.layer2.max.png") as mask:
        assert mask.mode == "L"
        expected = np.kron(kept.reshape(4, 4), np.ones((PATCH, PATCH))) * 255
        assert np.array_equal(np.asarray(mask), expected)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("kind", ["rollout", "tokencut", "dino", "gradcam"])
def test_other_kinds(gta: Any, tiny_model: Path, tmp_path: Path, kind: str) -> None:
    image = photo(tmp_path / "a.png", (40, 80))
    for style, suffix in (("heat", "png"), ("mask", "png"), ("raw", "npy")):
        out = tmp_path / style
        base = words(tiny_model, out, image, "--kind", kind, "--style", style, "--layer", -1)
        assert gta(*base).status == 0
        assert (out / f"a.layer2.{kind}.{suffix}").is_file()
    assert np.load(tmp_path / "raw" / f"a.layer2.{kind}.npy").shape == (3, 6)


def test_the_class_of_grad_cam_is_chosen(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    for number in ("0", "3"):
        base = words(tiny_model, tmp_path / number, image, "--kind", "gradcam", "--style", "raw")
        assert gta(*base, "--target-class", number).status == 0
    zero, three = (np.load(tmp_path / n / "a.layer2.gradcam.npy") for n in ("0", "3"))
    assert not np.allclose(zero, three)
    wrong = gta(*words(tiny_model, tmp_path / "x", image), "--kind", "gradcam",
                "--target-class", "cat")  # fmt: skip
    assert wrong.status == 2
    assert "no class 'cat'" in wrong.err


@pytest.mark.parametrize("kind", ["attnlrp", "chefer"])
def test_relevance_of_a_class(gta: Any, tiny_model: Path, tmp_path: Path, kind: str) -> None:
    image = photo(tmp_path / "a.png", (40, 80))
    base = [image, "--kind", kind]
    for number in ("0", "3"):
        words_of = words(tiny_model, tmp_path / number, *base, "--style", "raw")
        assert gta(*words_of, "--target-class", number).status == 0
    zero, three = (np.load(tmp_path / n / f"a.layer2.{kind}.npy") for n in ("0", "3"))
    assert zero.shape == (3, 6)
    assert not np.allclose(zero, three)
    assert (zero.min() < 0) == (kind == "attnlrp")
    for style in ("overlay", "mask"):
        assert gta(*words(tiny_model, tmp_path / style, *base, "--style", style)).status == 0
        assert (tmp_path / style / f"a.layer2.{kind}.png").is_file()


def test_gamma_changes_attnlrp(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    base = (image, "--kind", "attnlrp", "--style", "raw", "--gamma")
    for gamma in ("0", "1"):
        assert gta(*words(tiny_model, tmp_path / gamma, *base, gamma)).status == 0
    plain, strong = (np.load(tmp_path / g / "a.layer2.attnlrp.npy") for g in ("0", "1"))
    assert not np.allclose(plain, strong)


def test_threads_change_nothing(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    shapes = [(32, 32), (40, 80), (32, 32), (80, 40)]
    images = [photo(tmp_path / "in" / f"{i:02}.png", shapes[i % 4], i) for i in range(30)]
    outs = {}
    for workers in (0, 4):
        out = tmp_path / str(workers)
        done = gta(
            *words(tiny_model, out, tmp_path / "in", "--workers", workers), "--json",
            "--style", "raw",
        )  # fmt: skip
        assert [line["image"] for line in done.lines] == [str(image) for image in images]
        outs[workers] = [np.load(out / f"{i:02}.layer2.max.npy") for i in range(30)]
    assert all(np.array_equal(a, b) for a, b in zip(outs[0], outs[4], strict=True))


@pytest.mark.parametrize("verb", ["attention-map", "segment"])
def test_what_is_in_the_place_of_a_file_fails_one_image(
    gta: Any, tiny_model: Path, tmp_path: Path, verb: str
) -> None:
    ending = ".layer2.max.png" if verb == "attention-map" else ".png"
    for name in ("a.png", "b.png", "c/d.png", "e.png"):
        photo(tmp_path / "in" / name)
    out = tmp_path / "o"
    (out / f"b{ending}").mkdir(parents=True)
    (out / "c").write_text("a file in the place of a folder")
    (out / "run.json").write_text("{}")  # an earlier run's, which is replaced
    given = [verb, tmp_path / "in", "--model", tiny_model, "-o", out, "--overwrite", "--json"]
    done = gta(*map(str, given))
    assert done.status == 1, done.err
    failed = [Path(line["image"]).name for line in done.lines if "error" in line]
    assert failed == ["b.png", "d.png"]
    assert (out / f"a{ending}").is_file()
    assert (out / f"e{ending}").is_file()


def test_random_weights_are_those_of_the_seed(gta: Any, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    found = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(number)
        more = ["--seed", str(seed), "--style", "raw", "--json"]
        done = gta(*words("test_vit@none", out, tmp_path / "a.png"), *more)
        assert done.status == 0, done.err
        found.append(np.load(done.lines[0]["output"]))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_bad_images_are_reported_and_the_others_processed(
    gta: Any, tiny_model: Path, tmp_path: Path
) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    photo(tmp_path / "c.png")
    photo(tmp_path / "c.jpg")
    names = [tmp_path / name for name in ("a.png", "b.png", "gone.png", "c.png", "c.jpg")]
    done = gta(*words(tiny_model, tmp_path / "o", *names), "--json")
    assert done.status == 1
    assert ["error" in line for line in done.lines] == [False, True, True, False, False]
    assert "not an image" in done.lines[1]["error"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--heads", "7"], "no head 7; this model has 3"),
        (["--layer", "5"], "no block 5; this model has 3"),
        (["--kind", "tokncut"], "did you mean 'tokencut'"),
        (["--kind", "tokencut", "--heads", "max"], "--heads: --kind tokencut has no heads"),
        (["--kind", "dino", "--layer", "0,1"], "reads one block"),
        (["--kind", "rollout", "--heads", "all"], "reduces the heads to one"),
        (["--layer", "auto"], "--layer: must be all, last, or block numbers"),
        (["--style", "foto"], "must be one of overlay, heat, mask, raw"),
        (["--target-class", "1"], "--target-class is of no use: --kind cls shows no class"),
        (["--kind", "attnlrp", "--layer", "0"], "--layer: --kind attnlrp reads all blocks"),
        (["--kind", "chefer", "--heads", "max"], "--heads: --kind chefer has no heads"),
        (["--kind", "chefer", "--target-class", "99"], "no class 99"),
        (["--image-size", "30"], "not a multiple of the patch size"),
    ],
)
def test_wrong_use(
    gta: Any, tiny_model: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    done = gta(*words(tiny_model, tmp_path / "o", photo(tmp_path / "a.png")), *more)
    assert done.status == 2
    assert message in done.err
    assert not (tmp_path / "o").exists()


def test_images_without_a_model_are_refused(gta: Any, tmp_path: Path) -> None:
    done = gta("attn-maps", str(photo(tmp_path / "a.png")))
    assert done.status == 2
    assert "--model" in done.err


def test_models_side_by_side(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    for i in range(3):
        photo(tmp_path / "in" / f"{i}.png", (40, 60), i)
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes())
    more = ["--compare", str(other), str(tiny_model), "--sheet", str(tmp_path / "sheet.png")]
    done = gta(
        *words(tiny_model, tmp_path / "o", tmp_path / "in"), "--sheet-rows", "2", *more, "--json"
    )
    assert done.status == 0
    names = ["tiny-model", "other", "tiny-model-2"]
    assert [line["model"] for line in done.lines] == names * 3
    assert all((tmp_path / "o" / name / "2.layer2.max.png").is_file() for name in names)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    dark = (pixels < 250).any(-1)
    assert dark[:, : pixels.shape[1] // 4].any()
    # Equal models, one scale of colours: equal columns.
    *columns, bars = (pixels[40:, x : x + SIDE] for x in range(SIDE + 16, len(dark.T), SIDE + 8))
    assert len(columns) == 3
    assert np.array_equal(columns[0], columns[1])
    assert np.array_equal(columns[0], columns[2])
    # At the right the scale of each row, brightest at the top; between them white.
    brightness = bars[:, BAR // 2].astype(int).sum(-1)
    colored = np.flatnonzero(brightness < 3 * 255)
    assert len(np.flatnonzero(np.diff(colored) > 1)) == 1
    for bar in np.split(brightness[colored], np.flatnonzero(np.diff(colored) > 1) + 1):
        assert bar[0] > 2 * bar[-1]
    assert (bars[:, BAR + 4 :] < 150).any()  # its numbers


def test_a_sheet_of_masks_has_no_color_bar(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", (40, 40))
    for style, more in (("mask", 0), ("heat", BAR + NUMBERS)):
        sheet, out = tmp_path / f"{style}.png", tmp_path / style
        more_words = ["--sheet", sheet, "--style", style, "--kind", "tokencut"]
        assert gta(*words(tiny_model, out, tmp_path / "a.png", *more_words)).status == 0
        with Image.open(sheet) as drawn:
            assert drawn.width == 2 * SIDE + 3 * 8 + more


def test_a_dry_run_writes_nothing(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    sheet = ["--sheet", str(tmp_path / "s.png")]
    done = gta(*words(tiny_model, tmp_path / "o", image), "--dry-run", "--json", *sheet)
    assert done.status == 0
    assert done.lines[0]["output"] is None
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "s.png").exists()


class TinyDemo(ModelProvider):
    """Stands for the demo's source, which would be trained first."""

    folder: Path

    def weights(self) -> Weights:
        from gtacli.models.specs import resolve

        return resolve(str(self.folder))


def test_without_images_it_draws_the_demo(
    gta: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TinyDemo, "folder", tiny_model, raising=False)
    with MODELS.registered("demo", TinyDemo):
        done = gta("attn-maps", "--json", "-o", str(tmp_path / "o"), "--device", "cpu")
    assert done.status == 0
    assert len(done.lines) == 12
    assert "the built-in demo's images, model demo" in done.err


def test_the_newest_demo_run_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.demo_spec() == "demo"
    for i, data in enumerate(("demo", "demo", "birds/")):
        run = tmp_path / "runs" / str(i)
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"config": {"data": data}}))
        (run / "model.safetensors").touch()
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    assert Path(demo.demo_spec()) == Path("runs/1")


@pytest.mark.slow
def test_a_closed_pipe_ends_it_quietly(tiny_model: Path, tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png")
    code = (
        f"{sys.executable} -m gtacli attn-maps - --json -m {tiny_model} -o {tmp_path}/o "
        "--style raw --device cpu | head -n 3; echo ${PIPESTATUS[0]}"
    )
    for i in range(400):
        (tmp_path / f"{i}.png").hardlink_to(image)
    paths = "".join(f"{tmp_path}/{i}.png\n" for i in range(400))
    done = subprocess.run(
        ["bash", "-c", code], input=paths, capture_output=True, text=True, check=False
    )
    assert len(done.stdout.splitlines()) == 4
    assert done.stdout.splitlines()[-1] == "0"
    assert "error" not in done.stderr.lower()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("--compare a b -o x", "--compare a --compare b -o x"),
        ("p --compare a --compare b", "p --compare a --compare b"),
        ("--compare a b -- p", "--compare a --compare b -- p"),
        ("--layer -1 p q", "--layer -1 p q"),
        ("--compare=a p", "--compare=a p"),
    ],
)
def test_an_option_of_several_words(given: str, read: str) -> None:
    assert list(_one_each(given.split(), ("--compare",))) == read.split()


def test_an_interruption_keeps_what_is_done_and_the_sheet(
    gta: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtacli.cli import attention_map

    for i in range(60):
        photo(tmp_path / "in" / f"{i:02}.png")
    text = attention_map._text
    presses = iter([signal.SIGINT])  # a second one would stop at once

    def interrupted(line: Any) -> str:
        for press in presses:
            signal.raise_signal(press)
        return text(line)

    monkeypatch.setattr(attention_map, "_text", interrupted)
    sheet = tmp_path / "s.png"
    more = ["--sheet", sheet, "--batch-size", "1"]
    done = gta(*words(tiny_model, tmp_path / "out", tmp_path / "in", *more))
    assert done.status == 130
    assert "interrupted" in done.err
    lines = done.out.splitlines()
    assert 1 <= len(lines) < 60
    written = sorted(map(str, (tmp_path / "out").rglob("*.png")))
    assert sorted(line.split("\t")[1] for line in lines) == written
    assert sheet.is_file()


@pytest.mark.parametrize(("sheet", "why"), [("s.pdf", "must end in"), ("s", "must end in")])
def test_a_sheet_must_be_a_picture_file(
    gta: Any, tiny_model: Path, tmp_path: Path, sheet: str, why: str
) -> None:
    image = photo(tmp_path / "a.png")
    done = gta(*words(tiny_model, tmp_path / "out", image, "--sheet", tmp_path / sheet))
    assert (done.status, done.out) == (2, "")
    assert "--sheet" in done.err
    assert why in done.err


def test_a_sheet_that_is_a_folder_is_an_early_error(
    gta: Any, tiny_model: Path, tmp_path: Path
) -> None:
    image = photo(tmp_path / "a.png")
    (tmp_path / "s.png").mkdir()
    done = gta(*words(tiny_model, tmp_path / "out", image, "--sheet", tmp_path / "s.png"))
    assert (done.status, done.out) == (2, "")
    assert "--sheet" in done.err
    assert "is a folder" in done.err


def test_without_a_model_nothing_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from gtacli.cli import main; "
        "status = main(['attention-map', 'a.png']); print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout == "2 False\n"
    assert done.stderr.startswith("error: --model: name")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_precision_of_the_cpu_draws(gta: Any, tmp_path: Path, precision: str) -> None:
    image = tmp_path / "a.png"
    Image.effect_noise((48, 48), 60).convert("RGB").save(image)
    words = ["--model", "demo", "--device", "cpu", "--precision", precision]
    done = gta("attn-maps", str(image), *words, "-o", str(tmp_path / "maps"))
    assert done.status == 0, done.err
