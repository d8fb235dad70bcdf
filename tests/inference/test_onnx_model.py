"""`gta predict` with ONNX files, good and hostile ones."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from gtacli.cli import main
from gtacli.inference.onnx_check import read_metadata

NAMES = ("blue", "green", "red")
WEIGHTS = 4 * np.eye(3, dtype=np.float32)[::-1]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CARD: dict[str, Any] = {
    "outputs": ["probabilities"],
    "image_size": [16, 24],
    "mean": MEAN,
    "std": STD,
    "interpolation": "bicubic",
    "crop_pct": 0.8,
    "classes": NAMES,
}
Change = Callable[[onnx.ModelProto], object]


def write(path: Path, change: Change | None = None, **card: Any) -> Path:
    """Write a classifier by the mean color of an image."""
    pixels = card.get("pixels", False)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["floats"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    kind = TensorProto.UINT8 if pixels else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("images", kind, ["batch", 3, "h", "w"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(WEIGHTS / (255 if pixels else 1), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"gta": json.dumps({**CARD, **card})})
    if change is not None:
        change(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Return images of odd sizes: larger and smaller than the view, gray, and one unreadable."""
    rng = np.random.default_rng(0)
    found = []
    for name, shape in {"a": (40, 50, 3), "b": (9, 31, 3), "c": (21, 20)}.items():
        found.append(tmp_path / f"{name}.png")
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(found[-1])
    return found


def run(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> list[str]:
    capsys.readouterr()
    assert main(["predict", *map(str, words)]) == status
    return capsys.readouterr().out.splitlines()


def expected(path: Path, pixels: bool = False) -> np.ndarray[Any, Any]:
    """Return the probabilities of an image by the plain formula."""
    image = Image.open(path).convert("RGB")
    if not pixels:
        scale = max(20 / image.height, 30 / image.width)
        size = max(30, round(image.width * scale)), max(20, round(image.height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = round((size[0] - 24) / 2), round((size[1] - 16) / 2)
        image = image.crop((left, top, left + 24, top + 16))
    values = np.asarray(image) / 255
    values = values if pixels else (values - MEAN) / STD
    exponent = np.exp(values.mean((0, 1)) @ WEIGHTS)
    return np.asarray(exponent / exponent.sum())


def test_lines_and_tables_are_those_of_a_run(
    tmp_path: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write(tmp_path / "x.ONNX", threshold=0.99)
    (tmp_path / "d.png").write_text("no image")
    rows = run(capsys, tmp_path, "-m", model, "--json", "--unsure", "auto", "--top", "2", status=1)
    found = [json.loads(row) for row in rows]
    assert [Path(row["image"]).name for row in found] == ["a.png", "b.png", "c.png", "d.png"]
    assert "not an image" in found[3]["error"]
    for path, row in zip(images, found, strict=False):
        p = expected(path)
        best = np.argsort(-p)[:2]
        assert [each["class"] for each in row["top"]] == [NAMES[i] for i in best]
        values = [each["probability"] for each in row["top"]]
        assert values == pytest.approx(p[best], abs=1e-5)
        assert row["entropy"] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-5)
        assert row["unsure"] is bool(p.max() < 0.99)
    text = run(capsys, images[0], "-m", model)[0]
    assert text.startswith(f"{images[0]}\t{found[0]['top'][0]['class']} ")
    table = [*csv.reader(run(capsys, images[0], "-m", model, "--csv", "-", "--top", "9"))]
    assert len(table[0]) == 7
    assert table[1][1] == found[0]["top"][0]["class"]


def test_a_graph_that_takes_pixels_gets_them(
    tmp_path: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write(tmp_path / "x.onnx", pixels=True)
    [row] = map(json.loads, run(capsys, images[1], "-m", model, "--json"))
    best = expected(images[1], pixels=True).max()
    assert row["top"][0]["probability"] == pytest.approx(best, abs=1e-4)
    said = run(capsys, images[1], "-m", model, "--tta", "crops", status=2)
    assert not said


@pytest.mark.parametrize(("tta", "views"), [("flip", 2), ("crops", 5)])
def test_several_views(
    tmp_path: Path, images: list[Path], capsys: pytest.CaptureFixture[str], tta: str, views: int
) -> None:
    from gtacli.inference.onnx_model import OnnxModel

    model = OnnxModel(write(tmp_path / "x.onnx"))
    made = model.read(images[0], tta)  # type: ignore[arg-type]
    assert made.shape == (views, 16, 24, 3)
    [row] = map(json.loads, run(capsys, images[0], "-m", tmp_path / "x.onnx", "--json",
                                "--tta", tta))  # fmt: skip
    mean = model.probabilities(made).mean(0)
    assert row["top"][0]["probability"] == pytest.approx(mean.max(), abs=1e-6)


def test_without_torch(tmp_path: Path, images: list[Path]) -> None:
    write(tmp_path / "x.onnx")
    code = (
        "import sys; from gtacli.cli import main; status = main(sys.argv[1:]); "
        "print(status, sorted({'torch', 'timm', 'torchvision', 'kornia', 'scipy', 'onnx'} "
        "& {*sys.modules}))"
    )
    words = ["predict", *map(str, images), "-m", str(tmp_path / "x.onnx"), "--unsure", "0.5"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def external(path: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": path, "length": "36"}.items():
            tensor.external_data.add(key=key, value=value)

    return change


def node(*args: Any, **keywords: Any) -> Change:
    return lambda model: model.graph.node.append(helper.make_node(*args, **keywords))


def constant(model: onnx.ModelProto) -> None:
    """Hide an external tensor in the attribute of a node."""
    tensor = TensorProto(dims=[1], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def big(model: onnx.ModelProto) -> None:
    """Let the logits be sums of so many numbers that no memory holds them."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 21] * 2), "shape"))
    model.graph.node[3].output[0] = "small"
    more = [
        helper.make_node("ConstantOfShape", ["shape"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
        helper.make_node("Add", ["small", "sum"], ["logits"]),
    ]
    for each in reversed(more):
        model.graph.node.insert(4, each)


def branch(model: onnx.ModelProto) -> None:
    empty = helper.make_graph([], "empty", [], [])
    model.graph.node.append(
        helper.make_node("If", ["c"], ["d"], then_branch=empty, else_branch=empty)
    )


def function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function("own", "F", ["x"], ["y"], [], [helper.make_opsetid("", 18)])
    )


def three_to_two(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHTS[:, :2], "weights"))


def without_card(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def named(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "x"
    model.graph.node[0].input[0] = "x"


HOSTILE: list[tuple[str, Change, int, str]] = [
    ("above", external("../../../../etc/hostname"), 2, "in other files"),
    ("absolute", external("/etc/hostname"), 2, "in other files"),
    ("beside", external("weights.bin"), 2, "in other files"),
    ("constant", constant, 2, "in other files"),
    ("domain", node("Run", [], ["z"], domain="com.evil"), 2, "not ONNX's own"),
    ("contrib", node("Inverse", ["w"], ["z"], domain="com.microsoft"), 2, "not ONNX's own"),
    ("unknown operator", node("NoSuch", [], ["z"]), 2, "NoSuch"),
    ("branch", branch, 2, "loops or branches"),
    ("function", function, 2, "functions"),
    ("no card", without_card, 2, "has no card"),
    ("other input", named, 2, "other inputs"),
    ("other classes", three_to_two, 3, "no probabilities of 3 classes"),
    ("memory", big, 3, "more memory than is free"),
]


@pytest.mark.parametrize(
    ("change", "status", "message"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_a_hostile_file_is_one_line(
    tmp_path: Path,
    images: list[Path],
    capsys: pytest.CaptureFixture[str],
    change: Change,
    status: int,
    message: str,
) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(36))
    model = write(tmp_path / "x.onnx", change)
    assert main(["predict", str(images[0]), "-m", str(model)]) == status
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("error:")
    assert message in said[0]
    assert "ONNXRuntimeError" not in said[0]


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"image_size": [10**7, 10**7]}, "image_size"),
        ({"classes": []}, "has no probabilities"),
        ({"outputs": ["attention"]}, "has no probabilities, only attention"),
        ({"layout": 7}, "layout"),
    ],
)
def test_a_hostile_card_is_one_line(
    tmp_path: Path,
    images: list[Path],
    capsys: pytest.CaptureFixture[str],
    card: dict[str, Any],
    message: str,
) -> None:
    model = write(tmp_path / "x.onnx", **card)
    assert main(["predict", str(images[0]), "-m", str(model)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_any_bytes_are_one_line(
    tmp_path: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "x.onnx").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"\x00", b"\xff" * 50, b"\x89PNG\r\n", b"{}", good[:100], good[:-1], good * 2]
    damaged += [rng.bytes(200) for _ in range(20)]
    for position in rng.integers(0, len(good), 40):
        flipped = bytearray(good)
        flipped[position] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for data in damaged:
        (tmp_path / "x.onnx").write_bytes(data)
        capsys.readouterr()
        status = main(["predict", str(images[0]), "-m", str(tmp_path / "x.onnx")])
        said = capsys.readouterr().err
        assert status in (0, 2, 3)
        assert said.count("\n") == (status != 0), said
        assert "Error:" not in said.replace("error:", "")


def test_wrong_words(
    tmp_path: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write(tmp_path / "x.onnx")
    for words, message in (
        (["--device", "cuda"], "--device"),
        (["--precision", "bf16"], "fp32"),
        (["--unsure", "auto"], "calibrated before its export"),
    ):
        assert main(["predict", str(images[0]), "-m", str(model), *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", str(images[0]), "-m", str(tmp_path / "no.onnx")]) == 2
    assert "no.onnx cannot be run: no such file" in capsys.readouterr().err.lower()


def test_the_metadata_are_read_without_a_library(tmp_path: Path) -> None:
    data = write(tmp_path / "x.onnx").read_bytes()
    assert json.loads(read_metadata(data)["gta"])["classes"] == [*NAMES]
