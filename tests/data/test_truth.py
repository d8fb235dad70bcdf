"""Tests of ground-truth masks and boxes."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image, ImageOps

from gtacli.data.base import Record
from gtacli.data.objects import GroundTruth
from gtacli.data.readers.annotations import read_boxes
from gtacli.data.truth import read_mask, read_record_truth, read_truth
from gtacli.images.decode import ImageError
from gtacli.images.sizes import turn_box
from gtacli.measures.segmentation import VOID

OBJECT = np.zeros((6, 9), bool)
OBJECT[2:5, 3:8] = True


def labels(folder: Path, image: str) -> np.ndarray:
    found = read_truth(folder, PurePath(image), (6, 9)).labels
    assert found is not None
    return found


def voc_palette() -> list[int]:
    """Return VOC's palette: the bits of an index, spread over the channels from the top."""
    palette = []
    for index in range(256):
        rest, shift = index, 7
        color = [0, 0, 0]
        while rest:
            for channel in range(3):
                color[channel] |= (rest >> channel & 1) << shift
            rest, shift = rest >> 3, shift - 1
        palette += color
    return palette


def ids(path: Path, numbers: np.ndarray, kind: str = "P") -> None:
    if kind == "I;16":
        Image.fromarray(numbers.astype(np.uint16)).save(path)
        return
    image = Image.fromarray(numbers.astype(np.uint8))
    if kind == "P":
        image.putpalette(voc_palette())
        assert image.mode == "P"
    image.save(path)


@pytest.mark.parametrize("kind", ["L", "1", "RGB", "zero-one", "I;16", "bmp", "smooth"])
def test_black_and_white_masks(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(OBJECT.astype(np.uint8) * (1 if kind == "zero-one" else 255))
    if kind in ("1", "RGB"):
        image = image.convert(kind)
    elif kind == "I;16":
        image = Image.fromarray(OBJECT.astype(np.uint16) * 65535)
    elif kind == "smooth":
        image.putpixel((3, 2), 140)
        image.putpixel((2, 2), 90)
    image.save(tmp_path / f"a.{'bmp' if kind == 'bmp' else 'png'}")
    assert (labels(tmp_path, "a.jpg") == OBJECT).all()


def test_mask_is_found_by_path_or_name(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    Image.fromarray(OBJECT).save(tmp_path / "x" / "a.b.png")
    Image.fromarray(~OBJECT).save(tmp_path / "a.b.png")
    assert (labels(tmp_path, "x/a.b.jpg") == OBJECT).all()
    assert (labels(tmp_path, "y/a.b.jpg") == ~OBJECT).all()


def test_invalid_masks_raise(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no ground truth for a\.jpg in "):
        read_truth(tmp_path, PurePath("a.jpg"), (6, 9))
    Image.fromarray(OBJECT).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a.png is 9 x 6 pixels, its image is 6 x 9"):
        read_truth(tmp_path, PurePath("a.jpg"), (9, 6))
    photograph = np.arange(20 * 20, dtype=np.uint16).reshape(20, 20) % 251
    Image.fromarray(photograph.astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="is not black and white"):
        read_truth(tmp_path, PurePath("a.jpg"), (20, 20))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match="cannot read image"):
        read_truth(tmp_path, PurePath("a.jpg"), (6, 9))


@pytest.mark.parametrize("kind", ["P", "L", "I;16"])
@pytest.mark.parametrize("numbers", [(15, 1), (1, 1), (21, 60), (7, 7), (30, 150)])
@pytest.mark.parametrize("void", ["none", "border", "much"])
def test_masks_of_ids(kind: str, numbers: tuple[int, int], void: str, tmp_path: Path) -> None:
    """Includes small objects with a thick void border; 7 is a gray in VOC's palette."""
    drawn = np.zeros((6, 9), int)
    drawn[1:4, 1:4], drawn[3:5, 6:8] = numbers
    if void == "border":
        drawn[1, 1:4] = 255
    elif void == "much" and max(numbers) < 32:
        drawn[drawn > 0] = 255
        drawn[2, 2], drawn[4, 7] = numbers
    ids(tmp_path / "a.png", drawn, kind)
    expected = np.where(drawn == 255, VOID, drawn)
    assert (labels(tmp_path, "a.jpg") == expected).all()


def test_trimaps_of_pets(tmp_path: Path) -> None:
    numbers = np.array([[2, 2, 3], [2, 3, 1]], np.uint8)
    for folder, expected in (
        ("trimaps", [[0, 0, VOID], [0, VOID, 1]]),
        ("ids", numbers.tolist()),
    ):
        (tmp_path / folder).mkdir()
        Image.fromarray(numbers).save(tmp_path / folder / "a.png")
        assert read_mask(tmp_path / folder / "a.png").tolist() == expected
    # With a background of its own it is a mask of ids in any folder.
    Image.fromarray(numbers - 1).save(tmp_path / "trimaps/a.png")
    assert read_mask(tmp_path / "trimaps/a.png").tolist() == (numbers - 1).tolist()


def test_sixteen_bit_ids_above_255(tmp_path: Path) -> None:
    drawn = np.zeros((6, 9), int)
    drawn[1:3, 1:3], drawn[4:, 4:] = 300, 301
    ids(tmp_path / "a.png", drawn, "I;16")
    assert (labels(tmp_path, "a.jpg") == drawn).all()


def test_empty_mask(tmp_path: Path) -> None:
    for kind in ("P", "L", "I;16"):
        ids(tmp_path / "a.png", np.zeros((6, 9)), kind)
        assert not labels(tmp_path, "a.jpg").any()


@pytest.mark.parametrize("white_first", [False, True])
def test_black_and_white_in_a_palette(white_first: bool, tmp_path: Path) -> None:
    image = Image.fromarray((white_first != OBJECT).astype(np.uint8))
    image.putpalette([255] * 3 + [0] * 3 if white_first else [0] * 3 + [255] * 3)
    image.save(tmp_path / "a.png")
    assert (labels(tmp_path, "a.jpg") == OBJECT).all()
    Image.fromarray(OBJECT).convert("RGB").convert("P").save(tmp_path / "a.png")  # color palette
    assert (labels(tmp_path, "a.jpg") == OBJECT).all()


ANNOTATION = """<annotation><folder>VOC2007</folder><filename>a.jpg</filename>
<size><width>9</width><height>6</height><depth>3</depth></size><segmented>0</segmented>
<object><name>dog</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>6</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox>
</part></object>
<object><name>cat</name><difficult>0</difficult>
<bndbox><ymin>2.7</ymin><xmin>3.2</xmin><ymax>4.9</ymax><xmax>5</xmax></bndbox></object>
</annotation>"""


def test_annotation_boxes(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(ANNOTATION)
    truth = read_truth(tmp_path, PurePath("a.jpg"), (6, 9))
    assert truth == GroundTruth(boxes=((0, 1, 9, 6), (2, 1, 5, 4)))
    with pytest.raises(ImageError, match="is for 9 x 6 pixels, its image has 9 x 5"):
        read_truth(tmp_path, PurePath("a.jpg"), (5, 9))
    (tmp_path / "a.xml").write_text("<annotation><size/></annotation>")
    assert read_truth(tmp_path, PurePath("a.jpg"), (6, 9)).boxes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ANNOTATION[:200], "cannot read annotation .*a.xml"),
        (ANNOTATION.replace("<xmax>9</xmax>", ""), "an object has an incomplete bndbox"),
        (ANNOTATION.replace("<xmax>9", "<xmax>wide"), "'wide' is no number of pixels"),
        (ANNOTATION.replace("<xmax>9", "<xmax>1e400"), "'1e400' is no number of pixels"),
        (ANNOTATION.replace("<xmin>3.2", "<xmin>-inf"), "'-inf' is no number of pixels"),
        (ANNOTATION.replace("<ymax>6", "<ymax>nan"), "'nan' is no number of pixels"),
        (ANNOTATION.replace("<width>9", "<width>inf"), "'inf' is no number of pixels"),
        (ANNOTATION.replace("<width>9", "<width>-9"), "its image has -9 x 6 pixels"),
        (ANNOTATION.replace("<xmax>9", "<xmax>0"), "has no area"),
        (ANNOTATION.replace("<ymax>6", "<ymax>1"), "has no area"),
        (ANNOTATION.replace("<xmin>1", "<xmin>10").replace("<xmax>9", "<xmax>20"), "has no area"),
        ("<html></html>", "is not a VOC annotation"),
    ],
)
def test_broken_annotations(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ImageError, match=message):
        read_truth(tmp_path, PurePath("a.jpg"), (6, 9))


def test_boxes_that_count_from_zero_are_clipped(tmp_path: Path) -> None:
    text = ANNOTATION.replace("<xmin>1", "<xmin>0").replace("<xmax>9", "<xmax>10")
    (tmp_path / "a.xml").write_text(text)
    assert read_boxes(tmp_path / "a.xml") == ((0, 1, 9, 6), (2, 1, 5, 4))
    (tmp_path / "a.xml").write_text(text.replace("<size>", "<none>").replace("</size>", "</none>"))
    assert read_boxes(tmp_path / "a.xml") == ((0, 1, 10, 6), (2, 1, 5, 4))


def test_record_truth(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(OBJECT).save(path)
    assert read_record_truth(Record("a", 0, path), (6, 9)) is None
    assert read_record_truth(Record("a", 0, path, boxes=()), (6, 9)) == GroundTruth(boxes=())
    both = read_record_truth(Record("a", 0, path, path, ((1, 2, 3, 4),)), (6, 9))
    assert both is not None
    assert both.boxes == ((1, 2, 3, 4),)
    assert (both.labels == OBJECT).all()
    with pytest.raises(ImageError, match="is 9 x 6 pixels"):
        read_record_truth(Record("a", 0, path, path), (5, 9))
    with pytest.raises(ImageError, match="no such image"):
        read_mask(tmp_path / "none.png")


@pytest.mark.parametrize(
    "name", ["a.PNG", "a_mask.png", "a_segmentation.png", "a-gt.PNG", "a.mask.png"]
)
def test_mask_is_found_by_the_names_of_tools(name: str, tmp_path: Path) -> None:
    Image.fromarray(OBJECT).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / name)
    assert (labels(tmp_path, "deep/a.jpg") == OBJECT).all()
    Image.fromarray(~OBJECT).save(tmp_path / "a.png")  # its own name counts first
    assert (labels(tmp_path, "a.jpg") == ~OBJECT).all()
    with pytest.raises(ImageError, match=r"no ground truth for b\.jpg"):
        labels(tmp_path, "b.jpg")


def test_boxes_are_clipped_to_the_image(tmp_path: Path) -> None:
    outside = ANNOTATION.replace("<xmin>1<", "<xmin>-4<").replace("<xmax>9<", "<xmax>30<")
    (tmp_path / "a.XML").write_text(outside)
    truth = read_truth(tmp_path, PurePath("a.jpg"), (6, 9))
    assert truth == GroundTruth(boxes=((0, 1, 9, 6), (2, 1, 5, 4)))
    record = Record("a", 0, tmp_path / "a.jpg", boxes=((-5, 2, 4, 99), (20, 0, 30, 5)))
    assert read_record_truth(record, (6, 9)) == GroundTruth(boxes=((0, 2, 4, 6),))
    (tmp_path / "a.XML").write_text(ANNOTATION.replace("<xmax>9<", "<xmax>1e999<"))
    with pytest.raises(ImageError, match="cannot read annotation"):
        read_truth(tmp_path, PurePath("a.jpg"), (6, 9))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_the_photograph(orientation: int, tmp_path: Path) -> None:
    """As Pillow turns a picture of the box."""
    box, stored = (2, 1, 5, 3), (6, 9)
    drawn = np.zeros(stored, np.uint8)
    drawn[box[1] : box[3], box[0] : box[2]] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(drawn).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    ys, xs = np.nonzero(upright)
    expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert turn_box(box, stored, orientation) == expected
    if orientation >= 5:  # the size of the others tells nothing
        text = ANNOTATION[: ANNOTATION.index("<object>")]
        text += "<object><name>dog</name><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>5</xmax>"
        (tmp_path / "a.xml").write_text(text + "<ymax>3</ymax></bndbox></object></annotation>")
        (tmp_path / "m").mkdir()
        (tmp_path / "a.xml").rename(tmp_path / "m" / "a.xml")
        image_path = tmp_path / "a.png"
        truth = read_truth(tmp_path / "m", PurePath("a.png"), upright.shape, source=image_path)
        assert truth == GroundTruth(boxes=(expected,))
        with pytest.raises(ImageError, match="is for 9 x 6 pixels"):
            read_truth(tmp_path / "m", PurePath("a.png"), upright.shape)
