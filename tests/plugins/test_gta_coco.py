"""Tests of the plug-in gta-coco: parity with pycocotools and with gtacli's own readers, safety."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_masks

from gta_coco.cvat import RowRuns, parse_cvat
from gta_coco.readers import Coco, Cvat, LabelStudio
from gtacli.data.base import ImageDataset
from gtacli.data.brush_lengths import encode_brush
from gtacli.data.readers.annotation_file import read_annotation_file
from gtacli.data.run_lengths import encode_runs
from gtacli.data.truth import read_record_truth
from gtacli.errors import GtaError
from gtacli.images.decode import decode, read_upright_size
from gtacli.testing import checks

SIZE = 40, 60
BIRD = [[5, 5, 25, 6.5, 20, 30]]
CAT = np.zeros(SIZE, bool)
CAT[20:35, 30:50] = True


def save(path: Path, size: tuple[int, int] = SIZE, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (*size, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def runs(mask: Any) -> dict[str, Any]:
    return {"size": [*SIZE], "counts": encode_runs(mask)}


def coco_content() -> dict[str, Any]:
    height, width = SIZE
    image = {"height": height, "width": width}
    bird = {"bbox": [5, 5, 20, 25], "segmentation": BIRD}
    return {
        "categories": [{"id": 3, "name": "bird"}, {"id": 7, "name": "cat"}],
        "images": [
            {"id": 1, "file_name": "one.png", **image},
            {"id": 2, "file_name": "both.png", **image},
            {"id": 3, "file_name": "none.png", **image},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, **bird},
            {"id": 2, "image_id": 2, "category_id": 3, **bird},
            {"id": 3, "image_id": 2, "category_id": 7, "bbox": [30, 20, 20, 15],
             "segmentation": runs(CAT)},
            {"id": 4, "image_id": 2, "category_id": 7, "bbox": [0, 0, 60, 4], "iscrowd": 1,
             "segmentation": runs(np.arange(2400).reshape(SIZE) < 240)},
        ],
    }  # fmt: skip


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "shapes"
    for name in ("one.png", "both.png", "none.png"):
        save(folder / "train2017" / name)
    (folder / "annotations").mkdir()
    text = json.dumps(coco_content())
    (folder / "annotations" / "instances_train2017.json").write_text(text)
    (folder / "annotations" / "captions_train2017.json").write_text("{}")
    return folder


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><name>birds</name></task></meta>
<image id="0" name="a/one.png" subset="Train" width="60" height="40">
  <polygon label="bird" points="5,5;25,6.5;20,30" z_order="0"><attribute name="x">1</attribute>
  </polygon>
  <points label="eye" points="9,9"/>
</image>
<image id="1" name="both.png" subset="Validation" width="60" height="40">
  <box label="bird" xtl="5" ytl="5" xbr="25" ybr="30" z_order="1"/>
  <mask label="cat" rle="3, 5, 4, 6, 2" left="30" top="20" width="5" height="4"/>
</image>
<image id="2" name="tagged.png" subset="Test" width="60" height="40"><tag label="cat"/></image>
</annotations>
"""


@pytest.fixture
def cvat(tmp_path: Path) -> Path:
    folder = tmp_path / "task"
    for name in ("a/one.png", "both.png", "tagged.png"):
        save(folder / "images" / name)
    (folder / "annotations.xml").write_text(CVAT)
    return folder


def region(kind: str, label: str, **value: Any) -> dict[str, Any]:
    shape = {"original_width": SIZE[1], "original_height": SIZE[0]}
    return {"type": f"{kind}labels", "value": {**value, f"{kind}labels": [label]}, **shape}


@pytest.fixture
def label_studio(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in ("one.png", "0123abcd-both.png", "tagged.png"):
        save(folder / name)
    box = {"x": 10, "y": 10, "width": 30, "height": 50}
    cat = region("brush", "cat", format="rle", rle=encode_brush(CAT))
    choice = {"type": "choices", "value": {"choices": ["cat"]}}
    tasks = [
        {"data": {"image": "/data/upload/1/89abcdef-one.png"},
         "annotations": [{"result": [region("rectangle", "bird", **box)]}]},
        {"data": {"image": "/data/upload/1/0123abcd-both.png", "text": "no path"},
         "annotations": [{"result": [region("rectangle", "bird", **box), cat]}]},
        {"data": {"image": "/data/upload/1/tagged.png"}, "annotations": [{"result": [choice]}]},
    ]  # fmt: skip
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder


def named(dataset: ImageDataset) -> dict[str, str]:
    return {record.key: dataset.classes[record.label] for _, record in dataset.records()}


def suites() -> Iterator[Any]:
    for reader, fixture in ((Coco, "coco"), (Cvat, "cvat"), (LabelStudio, "label_studio")):
        for unit in ("images", "largest", "objects+25", "scenes"):
            yield pytest.param(reader, fixture, unit, id=f"{fixture}-{unit}")


@pytest.mark.parametrize(("reader", "fixture", "unit"), [*suites()])
def test_conformance(
    reader: type, fixture: str, unit: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(fixture)
    for check in checks(reader, data=f"{unit}:{folder}"):
        check()
    moved = tmp_path / "elsewhere" / folder.name
    moved.parent.mkdir()
    before = reader().open(f"{unit}:{folder}").fingerprint()
    folder.rename(moved)
    assert reader().open(f"{unit}:{moved}").fingerprint() == before


def test_images_of_coco(coco: Path) -> None:
    dataset = Coco().read(coco)
    assert named(dataset) == {"train2017/one.png": "bird"}
    assert sorted(map(str, dataset.left_out)) == [
        "1 image: no object with a class, first train2017/none.png",
        "1 image: objects of several classes, first train2017/both.png",
    ]
    assert named(Coco().open(f"largest:{coco}")) == {
        "train2017/one.png": "bird",
        "train2017/both.png": "bird",
    }


def test_masks_against_pycocotools(coco: Path) -> None:
    """A polygon of COCO is filled a little wider: border pixels of which it covers a part."""
    scenes = {r.key: r for r in Coco().open(f"scenes:{coco}")["train"]}
    truth = read_record_truth(scenes["train2017/both.png"], SIZE)
    assert truth is not None
    assert truth.labels is not None
    cat = coco_masks.decode({"size": [*SIZE], "counts": encode_runs(CAT).encode()})
    assert ((truth.labels == 2) == cat).all()
    bird = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(BIRD, *SIZE))) > 0
    found = truth.labels == 1
    assert (found & bird).sum() / (found | bird).sum() > 0.9


def test_scenes_are_what_gtacli_reads_as_ground_truth(coco: Path, label_studio: Path) -> None:
    for reader, folder, file in (
        (Coco, coco, coco / "annotations" / "instances_train2017.json"),
        (LabelStudio, label_studio, label_studio / "export.json"),
    ):
        truths = read_annotation_file(file)
        for record in reader().open(f"scenes:{folder}")["train"]:
            expected = truths.read(PurePath(record.key.split("/")[-1].split("-")[-1]), SIZE)
            found = read_record_truth(record, SIZE)
            assert found is not None
            if expected.labels is None or not expected.labels.any():
                assert found.labels is None or not found.labels.any()
            else:
                np.testing.assert_array_equal(found.labels, expected.labels)
            if expected.boxes is not None:
                assert found.boxes == expected.boxes


def test_crops(coco: Path) -> None:
    dataset = Coco().open(f"objects+10:{coco}")
    assert named(dataset) == {
        "train2017/one.png#1": "bird",
        "train2017/both.png#1": "bird",
        "train2017/both.png#2": "cat",
    }
    cat = dataset["train"][2]
    whole = np.asarray(decode(coco / "train2017" / "both.png"))
    np.testing.assert_array_equal(np.asarray(decode(cat.path)), whole[19:36, 28:52])
    truth = read_record_truth(cat, (17, 24))
    assert truth is not None
    np.testing.assert_array_equal(truth.labels, CAT[19:36, 28:52])
    assert truth.boxes == ((2, 1, 22, 16),)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_crops_of_turned_photographs(tmp_path: Path, orientation: int) -> None:
    """The stored pixels are annotated; the crop is that part of the upright photograph."""
    save(tmp_path / "one.png", orientation=orientation)
    content = coco_content()
    content["images"], content["annotations"] = content["images"][:1], content["annotations"][2:3]
    content["annotations"][0]["image_id"] = 1
    upright = read_upright_size(tmp_path / "one.png")
    if orientation < 5:
        content["annotations"][0]["bbox"] = [30, 20, 20, 15]
    (tmp_path / "train.json").write_text(json.dumps(content))
    (record,) = Coco().open(f"objects:{tmp_path}")["train"]
    truth = read_record_truth(record, read_upright_size(record.path))
    assert truth is not None
    assert truth.labels is not None
    assert truth.labels.all()
    (scene,) = Coco().open(f"scenes:{tmp_path}")["train"]
    labels = read_record_truth(scene, upright)
    assert labels is not None
    assert labels.labels is not None
    assert labels.boxes is not None
    (x0, y0, x1, y1), pixels = labels.boxes[0], np.asarray(decode(tmp_path / "one.png"))
    np.testing.assert_array_equal(np.asarray(decode(record.path)), pixels[y0:y1, x0:x1])
    assert labels.labels[y0:y1, x0:x1].all()
    assert labels.labels.sum() == CAT.sum()


def test_cvat(cvat: Path) -> None:
    dataset = Cvat().read(cvat)
    assert named(dataset) == {"images/a/one.png": "bird", "images/tagged.png": "cat"}
    assert {split: len(dataset[split]) for split in dataset.splits} == {"train": 1, "test": 1}
    (both,) = Cvat().open(f"scenes:{cvat}")["val"]
    truth = read_record_truth(both, SIZE)
    assert truth is not None
    assert truth.labels is not None
    expected = np.zeros(SIZE, np.int32)
    value, offset = 0, 0
    for count in (3, 5, 4, 6, 2):
        for _ in range(count):
            y, x = divmod(offset, 5)
            expected[20 + y, 30 + x] = value
            offset += 1
        value = 1 - value
    np.testing.assert_array_equal(truth.labels == 1, expected)
    assert (truth.labels[5:30, 5:25] == 2).all()
    assert truth.boxes == ((30, 20, 35, 24), (5, 5, 25, 30))


def test_groups_and_turned_boxes_of_cvat(cvat: Path) -> None:
    shapes = (
        '<box label="bird" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>'
        '<ellipse label="cat" cx="45" cy="20" rx="10" ry="5" group_id="4"/>'
        '<box label="cat" xtl="0" ytl="35" xbr="4" ybr="40" group_id="4"/>'
    )
    head, _, rest = CVAT.partition('<box label="bird"')
    (cvat / "annotations.xml").write_text(f"{head}{shapes}</image>{rest.partition('</image>')[2]}")
    (both,) = Cvat().open(f"scenes:{cvat}")["val"]
    truth = read_record_truth(both, SIZE)
    assert truth is not None
    assert truth.labels is not None
    assert truth.boxes == ((15, 5, 25, 25), (0, 15, 55, 40))
    assert (truth.labels[5:25, 15:25] == 1).all()
    y, x = np.mgrid[:40, :60] + 0.5
    inside = ((x - 45) / 10) ** 2 + ((y - 20) / 5) ** 2 < 1
    inside[35:40, 0:4] = True
    assert ((truth.labels == 2) != inside).mean() < 0.005


def test_label_studio(label_studio: Path) -> None:
    assert named(LabelStudio().read(label_studio)) == {"one.png": "bird", "tagged.png": "cat"}
    crops = LabelStudio().open(f"objects:{label_studio}")
    assert named(crops) == {
        "one.png#1": "bird",
        "0123abcd-both.png#1": "bird",
        "0123abcd-both.png#2": "cat",
    }
    assert read_upright_size(crops["train"][2].path) == (15, 20)


def test_records_can_be_pickled(coco: Path) -> None:
    for record in pickle.loads(pickle.dumps(Coco().open(f"objects:{coco}")["train"])):
        assert record.mask.labels().any()
        assert record.mask.state() == record.mask.state()
        with record.mask.open() as file:
            assert np.asarray(Image.open(file)).shape == record.mask.labels().shape


def test_roboflow_and_two_files(coco: Path, tmp_path: Path) -> None:
    content = coco_content()
    root = tmp_path / "export"
    for split in ("train", "valid"):
        for name in ("one.png", "both.png", "none.png"):
            save(root / split / name)
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))
    dataset = Coco().read(root)
    assert {split: [r.key for r in dataset[split]] for split in dataset.splits} == {
        "train": ["train/one.png"],
        "val": ["valid/one.png"],
    }
    files = ",".join(str(root / s / "_annotations.coco.json") for s in ("train", "valid"))
    assert Coco().read(Path(files)).fingerprint() == dataset.fingerprint()


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/etc/../{root}/secret.png", "..\\secret.png", "C:\\secret.png", "a\0b"],
)
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    save(tmp_path / "secret.png")
    folder = tmp_path / "data"
    save(folder / "inside.png")
    content = coco_content()
    content["images"] = content["images"][:1]
    content["images"][0]["file_name"] = name.format(root=tmp_path)
    (folder / "train.json").write_text(json.dumps(content))
    with pytest.raises(GtaError, match="has no image of use: 1 image: no such image"):
        Coco().read(folder)


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotations>&b;</annotations>'
OUTSIDE = '<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotations/>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "it declares a document type, which no export has"),
        (OUTSIDE, "it declares a document type, which no export has"),
        ("<annotations>&b;</annotations>", "it is not XML: undefined entity"),
        ("<html/>", "its first element is not <annotations>"),
        ("<annotations><track/></annotations>", "export it as CVAT for images"),
        ("<annotations><image name='x'/></annotations>", "line 1: its element has no 'height'"),
        ("<annotations>" + "<a>" * 40, "nested more than 32 deep"),
        (CVAT.replace('points="5,5;', 'points="5,nan;'), "line 4: 'nan' is no number of pixels"),
        (CVAT.replace('points="5,5;25,6.5;', 'points="'), "line 4: a polygon has 1 corners"),
        (CVAT.replace('rle="3,', 'rle="4,'), "line 10: the run lengths of a mask do not fill"),
        (CVAT.replace('rle="3,', 'rle="-3,'), "line 10: '-3' is no whole number"),
        (CVAT.replace('width="60"', 'width="99999999"'), "line 3: its width is 99999999"),
        (CVAT.replace('label="bird"', 'label=" "'), "line 4: a label is empty"),
        ("", "it is not XML: no element found"),
    ],
)  # fmt: skip
def test_bad_exports_of_cvat(cvat: Path, text: str, reason: str) -> None:
    (cvat / "annotations.xml").write_text(text)
    with pytest.raises(GtaError) as error:
        Cvat().read(cvat)
    assert str(error.value).startswith(f"cannot read annotations {cvat}")
    assert reason in str(error.value)


def test_a_huge_export_of_cvat(cvat: Path) -> None:
    with open(cvat / "annotations.xml", "r+b") as file:
        file.truncate(1 + (1 << 30))  # sparse
    with pytest.raises(GtaError, match="it has 1,073,741,825 bytes, more than 1,073,741,824"):
        Cvat().read(cvat)


def test_a_mask_beyond_its_image_is_an_error_of_that_image(cvat: Path) -> None:
    (cvat / "annotations.xml").write_text(CVAT.replace('left="30"', 'left="58"'))
    (both,) = Cvat().open(f"scenes:{cvat}")["val"]
    with pytest.raises(
        GtaError, match=r"both\.png cannot be drawn: a mask is larger than its image"
    ):
        read_record_truth(both, SIZE)


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("boxes:.", "coco/boxes: write one of coco/images"),
        ("scenes+20:.", "coco/scenes"),
        ("objects", "needs a folder or a file"),
        ("objects:missing", "no such folder or file: missing"),
        ("objects:.", "has no .json file of annotations"),
    ],
)
def test_bad_specs(rest: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GtaError, match=reason):
        Coco().open(rest)


def test_images_that_are_not_the_annotated_ones(coco: Path) -> None:
    save(coco / "train2017" / "one.png", (20, 30))
    with pytest.raises(GtaError, match="it is for 60 x 40 pixels, its image has 30 x 20"):
        Coco().read(coco)


ATTRIBUTES = ("label", "points", "rle", "left", "top", "width", "height", "cx", "cy", "rx", "ry")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["box", "polygon", "mask", "ellipse", "tag", "points"]),
            st.dictionaries(
                st.sampled_from([*ATTRIBUTES, "xtl", "ytl", "xbr", "ybr", "rotation", "z_order"]),
                st.text("0123456789.,;-e naN", max_size=12),
            ),
        ),
        max_size=3,
    )
)
def test_any_attributes_give_images_or_a_line(
    tmp_path_factory: pytest.TempPathFactory, elements: list[tuple[str, dict[str, str]]]
) -> None:
    shapes = "".join(
        f"<{kind} {' '.join(f'{key}={json.dumps(text)}' for key, text in given.items())}/>"
        for kind, given in elements
    )
    path = tmp_path_factory.mktemp("cvat") / "annotations.xml"
    path.write_text(
        f'<annotations><image name="a.png" width="9" height="9">{shapes}</image></annotations>'
    )
    try:
        (image,) = parse_cvat(path)
    except ValueError:
        return
    for one in image.objects:
        for shape in one.shapes:
            labels = np.zeros((9, 9), np.int32)
            try:
                shape.draw(labels, 1)
            except ValueError:
                continue


@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_row_runs(height: int, width: int, data: Any) -> None:
    mask = np.array(
        data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    ).reshape(height, width)
    flat = mask.ravel().astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    counts = np.diff(np.concatenate([[0], edges]))
    labels = np.zeros((10, 12), np.int32)
    RowRuns((3, 1, 3 + width, 1 + height), tuple(counts.tolist())).draw(labels, 5)
    np.testing.assert_array_equal(labels[1 : 1 + height, 3 : 3 + width] == 5, mask)
    assert (labels == 5).sum() == mask.sum()
