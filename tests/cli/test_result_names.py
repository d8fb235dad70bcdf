"""Tests of where the results of images with equal, long and odd names lie."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Gta = Callable[..., Any]
ENDINGS = {"segment": ".png", "attention-map": ".layer2.max.png"}


@pytest.fixture(params=[*ENDINGS])
def call(
    request: pytest.FixtureRequest,
    gta: Gta,
    tiny_model: Path,
    tmp_path: Path,
    bright: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Gta:
    """Return `call(*words)`, which runs a command from tmp_path and checks its results.

    It returns the result, and the results' files below `out`, without their endings.
    """
    monkeypatch.chdir(tmp_path)
    command, ending = request.param, ENDINGS[request.param]
    own = ["--backend", "bright"] if command == "segment" else []

    def run(*words: str) -> tuple[Any, list[str]]:
        common = ["-m", str(tiny_model), "-o", "out", "--device", "cpu", "--json", "--workers", "0"]
        done = gta(command, *words, *common, *own)
        key = "mask" if command == "segment" else "output"
        files = [line[key] for line in done.lines if key in line]
        assert all(map(os.path.isfile, files))
        assert len({*files}) == len(files)
        assert all(os.path.realpath(file).startswith(f"{tmp_path}/out/") for file in files)
        return done, [file.removeprefix("out/").removesuffix(ending) for file in files]

    return run


def test_images_of_several_folders_keep_their_names_apart(
    call: Gta, scene: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("a/x.png", "a/y.png", "b/deep/z.png", "b/x.png", "c/photos/X.png"):
        scene(tmp_path / name)
    done, files = call("a", "b/")
    assert (done.status, files) == (0, ["a/x", "a/y", "b/deep/z", "b/x"])
    done, files = call("c/photos/*.png", "a", "--overwrite")  # equal up to case
    assert (done.status, files) == (0, ["c/photos/X", "a/x", "a/y"])
    done, files = call("a/x.png", "a", "b/deep", "--overwrite")  # no two are equal
    assert (done.status, files) == (1, ["x", "y", "z"])
    assert "is given twice" in done.lines[1]["error"]


def test_equal_stems_keep_their_suffixes(
    call: Gta, scene: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("x.bmp", "x.png", "y.png"):
        scene(tmp_path / "a" / name)
    done, files = call("a")
    assert (done.status, files) == (0, ["x", "x.png", "y"])
    scene(tmp_path / "x.png.bmp")
    done, files = call("x.png.bmp", "a/x.bmp", "a/x.png", "--overwrite")
    assert (done.status, files) == (0, ["x.png", "a/x", "a/x.png"])


def test_equal_paths_of_a_stream_are_told_apart(
    call: Gta, scene: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene(tmp_path / "in" / "x.png")
    scene(tmp_path / "x.png")
    paths = b"x.png\n../x.png\n../in/x.png\n/\n..\nnul\0.png\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(paths)))
    monkeypatch.chdir(tmp_path / "in")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    (tmp_path / "in" / "out").symlink_to(tmp_path / "out")
    (tmp_path / "out").mkdir()
    done, files = call("-")
    assert done.status == 1
    errors = [line["error"] for line in done.lines if "error" in line]
    assert [files[0], len(files), len(errors)] == ["x", 3, 3]
    assert files[1:] == ["x.png", "in/x"]
    assert "a NUL is in its name" in errors[-1]


def test_a_folder_may_have_the_name_of_a_mask(
    call: Gta, scene: Callable[..., Any], tmp_path: Path
) -> None:
    scene(tmp_path / "in" / "a.bmp")
    scene(tmp_path / "more" / "a.png" / "c.bmp")
    done, files = call("in", "more")
    assert (done.status, len(files)) == (0, 2)


def test_long_names_are_shortened_and_stay_apart(
    call: Gta, scene: Callable[..., Any], tmp_path: Path
) -> None:
    names = ["ü" * 125 + end for end in ("a", "b")]  # of 255 bytes with their suffix
    for name in [*names, "short"]:
        scene(tmp_path / "in" / f"{name}.png")
    done, files = call("in", "--workers", "2")
    assert (done.status, len(files), files[0]) == (0, 3, "short")
    if "mask" in done.lines[0]:  # its suffix is as long as the image's
        assert files[1:] == names
    else:
        assert all("ü" * 100 in file and "~" in file for file in files[1:])


def test_a_name_that_the_system_refuses_costs_one_image(
    call: Gta, scene: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtacli.inference import outputs

    monkeypatch.setattr(outputs, "_name_limit", lambda folder: 10_000)  # it says more than is true
    scene(tmp_path / "in" / f"{'l' * 251}.png")
    scene(tmp_path / "in" / "short.png")
    monkeypatch.setattr(outputs, "_candidates", lambda image: [image.result_stem + "llll"])
    done, files = call(f"{'m' * 300}.png", "in")
    assert (done.status, files) == (1, ["shortllll"])
    assert ["File name too long" in line.get("error", "") for line in done.lines[:3]].count(
        True
    ) == 2


def test_names_of_a_file_system_that_ignores_case(
    scene: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtacli.data.inputs import iter_images
    from gtacli.inference import outputs

    images = [*iter_images(["x.png", "X.png", "é.png", "e\u0301.png"], io.BytesIO())]
    for fold, expected in ((False, 4), (True, 2)):
        monkeypatch.setattr(outputs, "ignores_case", lambda folder, fold=fold: fold)
        placed = [*outputs.place_images(images, tmp_path, [".png"])]
        plain = [image for image in placed if image.stem == Path(image.path).stem]  # type: ignore[union-attr]
        assert (len(plain), len(placed)) == (expected, 4)
    (tmp_path / ".gta-lock").touch()
    monkeypatch.undo()
    assert not outputs.ignores_case(tmp_path)
    (tmp_path / ".GTA-LOCK").touch()
    assert outputs.ignores_case(tmp_path)


ODD = [
    "new\nline",
    "tab\tx",
    "esc\x1b[2Jx",
    "-dash",
    "--out",
    "..dots",
    os.fsdecode(b"b\xffd"),
    " x ",
]


def test_odd_names_stay_in_the_folder_and_leave_the_terminal_alone(
    call: Gta, scene: Callable[..., Any], tmp_path: Path
) -> None:
    scene(tmp_path / "plain.png")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ODD[:5] + ODD[6:]:
        shutil.copy(tmp_path / "plain.png", folder / f"{name}.png")
    (folder / "bad\x1b[2J\n.png").write_bytes(b"no image")
    done, files = call("in", "-v")
    assert done.status == 1
    assert sorted(files) == sorted(ODD[:5] + ODD[6:])
    assert "\x1b" not in done.out + done.err
    assert len([line for line in done.lines if "image" in line]) == len(files) + 1


def test_ground_truth_of_equal_names(
    gta: Gta, tiny_model: Path, scene: Callable[..., Any], tmp_path: Path, bright: None
) -> None:
    for name in ("a", "b"):
        mask = scene(tmp_path / name / "x.png", (64, 64 if name == "a" else 96))
        (tmp_path / "truth" / name).mkdir(parents=True)
        Image.fromarray(mask).save(tmp_path / "truth" / name / "x.png")
    words = [str(tmp_path / "a"), str(tmp_path / "b"), "--ground-truth", str(tmp_path / "truth")]
    model = ["-m", str(tiny_model), "-o", str(tmp_path / "out"), "--backend", "bright"]
    done = gta("segment", *words, *model, "--device", "cpu", "--json")
    assert done.status == 0, done.err
    assert [round(line["iou"], 2) for line in done.lines[:-1]] == [1.0, 1.0]
