"""Kinds of ground truth in JSON: LabelMe's files, and one of COCO's format for all images."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path, PurePath

import mutate
import numpy as np
from PIL import Image

from kinds.base import Kind

SIZE = (48, 64)
NUMBERS = (-1, 0, 0.5, 63, 64, 1e300, 1 << 20, 1 << 62, -(1 << 62), "3", None, True)


class _Truth(Kind):
    """Ground truth of three images, one of which its EXIF turns."""

    where: Path

    def setup(self) -> None:
        self.images = [self.folder / "images" / f"{name}.jpg" for name in "abc"]
        exif = Image.Exif()
        exif[0x0112] = 6
        for number, path in enumerate(self.images):
            path.parent.mkdir(exist_ok=True)
            size, turn = (SIZE, exif) if number == 2 else (SIZE[::-1], Image.Exif())
            Image.new("RGB", size, (9, 99, 200)).save(path, exif=turn)
        self.where = self.folder / "truth"
        self.build()

    def build(self) -> None: ...

    def change(self, rng) -> None:
        """Write the files of ground truth, changed if `rng` is not None."""

    def run(self, rng):
        from gtacli.data.readers import annotation_file
        from gtacli.data.truth import check_truth, read_truth
        from gtacli.images.decode import ImageError

        # Two inputs of a size can be written in one tick of the time that it is kept by.
        annotation_file._kept.cache_clear()
        self.change(rng)
        check_truth(self.where, "ground_truth")
        refused = []
        for path in self.images:
            try:
                truth = read_truth(self.where, PurePath(path.name), SIZE, source=path)
            except ImageError as error:
                refused.append(error)
                continue
            if truth.labels is not None and truth.labels.shape != SIZE:
                return f"labels of {truth.labels.shape}"
            for x0, y0, x1, y1 in truth.boxes or ():
                if not (0 <= x0 < x1 <= SIZE[1] and 0 <= y0 < y1 <= SIZE[0]):
                    return "a box without area or outside of its image is taken"
        for error in refused:
            raise error


def changed(value, rng) -> bytes:
    """Return JSON of another structure, or with another number in it."""
    if rng.random() < 0.5:
        return mutate.json_bytes(mutate.of_json(value, rng), rng)
    value = json.loads(json.dumps(value))
    numbers = [(p, k) for p, k in mutate._places(value) if isinstance(p[k], int | float)]
    for parent, key in rng.sample(numbers, rng.choice((1, 1, 2, 5))):
        parent[key] = rng.choice(NUMBERS)
    return mutate.json_bytes(value, rng)


class LabelMe(_Truth):
    """LabelMe's annotations: outlines, rectangles, circles, masks, groups, points."""

    def build(self) -> None:
        file = io.BytesIO()
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(file, "PNG")
        mask = base64.b64encode(file.getvalue()).decode()
        corners = [[1.5, 2.0], [20.0, 3.0], [18, 30]]
        kinds = (
            ("polygon", corners, {"group_id": 1}),
            ("polygon", [[x + 20, y] for x, y in corners], {"group_id": 1}),
            ("rectangle", [[3, 4], [30, 20]], {}),
            ("circle", [[30, 20], [35, 20]], {}),
            ("mask", [[5, 6], [12, 13]], {"mask": mask}),
            ("point", [[1, 1]], {}),
            ("linestrip", [[1, 1], [3, 3]], {}),
        )
        self.files = [self._file(kinds), self._file(kinds[2:3]), self._file(kinds[:3])]
        self.files[2] |= {"imageHeight": SIZE[1], "imageWidth": SIZE[0]}  # of the stored pixels

    def _file(self, kinds):
        shapes = [
            {"label": "bird", "shape_type": kind, "points": points, "flags": {}, **more}
            for kind, points, more in kinds
        ]
        size = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        return {
            "version": "5.5.0",
            "shapes": shapes,
            "imagePath": "a.jpg",
            "imageData": None,
        } | size

    def change(self, rng) -> None:
        for path, value in zip(self.images, self.files, strict=True):
            same = rng is None or rng.random() < 0.5
            data = json.dumps(value).encode() if same else changed(value, rng)
            self.write(f"truth/{path.stem}.json", data)


class CocoFile(_Truth):
    """A file of COCO's format: outlines, run lengths of both writings, boxes, crowds."""

    def build(self) -> None:
        self.where = self.folder / "instances.json"
        outline = [[1.0, 2.0, 20.5, 3.0, 18.0, 30.0], [30, 30, 40, 30, 40, 40, 30, 40]]
        runs = [5, 40, SIZE[0] * SIZE[1] - 45]
        some = (
            {"segmentation": outline, "bbox": [1.0, 2.0, 39.0, 38.0], "iscrowd": 0},
            {"segmentation": {"size": [*SIZE], "counts": runs}, "bbox": [0, 5, 1, 40]},
            {"segmentation": {"size": [*SIZE], "counts": "5X1cn2"}, "iscrowd": 1},
            {"segmentation": outline, "bbox": [1.0, 2.0, 39.0, 38.0], "iscrowd": 0},
        )
        sizes = (SIZE, SIZE, SIZE[::-1])
        self.content = {
            "images": [
                {"id": number, "file_name": f"x/{path.name}", "height": h, "width": w}
                for number, (path, (h, w)) in enumerate(zip(self.images, sizes, strict=True))
            ],
            "annotations": [
                {"id": n, "image_id": n % 2 if n < 3 else 2, "category_id": 1, "area": 9.0, **one}
                for n, one in enumerate(some)
            ],
            "categories": [{"id": 1, "name": "bird"}],
        }

    def change(self, rng) -> None:
        data = json.dumps(self.content).encode() if rng is None else changed(self.content, rng)
        self.write("instances.json", data)
