"""Families `coco`, `cvat` and `label-studio`: files of annotations as datasets.

    coco:ROOT                 images with a single class (of objects, or a tag)
    coco/largest:ROOT         images with the class of their largest object
    coco/objects:ROOT         a crop of each object; coco/objects+20:ROOT with 20 % around it
    coco/scenes:ROOT          all images without classes, for `gta segment` and probes

and the same with cvat or label-studio in front. ROOT is a folder or files joined by commas.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from gta_coco.annotations import AnnotatedImage, AnnotationFile
from gta_coco.coco import parse_coco_images
from gta_coco.cvat import parse_cvat
from gta_coco.examples import write_coco, write_cvat, write_images, write_label_studio
from gta_coco.label_studio import parse_label_studio
from gta_coco.records import UNITS, Unit, build_dataset
from gtacli.data.base import DatasetFamily, ImageDataset, split_in_name
from gtacli.errors import GtaError
from gtacli.images.find import list_folder, list_subfolders
from gtacli.runtime.paths import user_path
from gtacli.runtime.strict_json import read_json, reason_of

_UNIT = re.compile(r"(\w+)(?:\+(\d{1,3}))?")


class AnnotationFamily(DatasetFamily):
    """Datasets of one format of annotations."""

    spec: ClassVar[str]
    title: ClassVar[str]
    suffix: ClassVar[str] = ".json"

    def open(self, rest: str) -> ImageDataset:
        word, colon, place = rest.partition(":")
        unit = _UNIT.fullmatch(word)
        if unit is None or unit[1] not in UNITS or (unit[2] and unit[1] != "objects"):
            words = ", ".join(f"{self.spec}/{one}" for one in UNITS)
            raise GtaError(
                f"{self.spec}/{word}: write one of {words}, and :FOLDER behind it; "
                f"{self.spec}/objects+20 crops with 20 % around each object"
            )
        root = user_path(place) if colon and place else None
        return self._read(root, Unit(unit[1], int(unit[2] or 0)))

    def read(self, root: Path | None) -> ImageDataset:
        return self._read(root, Unit())

    def _read(self, root: Path | None, unit: Unit) -> ImageDataset:
        if root is None:
            raise GtaError(f"dataset '{self.spec}' needs a folder or a file: {self.usage}")
        paths = self._files(root)
        files = [AnnotationFile(path, _image_folder(path), self._parsed(path)) for path in paths]
        place = root if os.path.isdir(root) else paths[0].absolute().parent
        return build_dataset(place.resolve().name, files, unit)

    def _files(self, root: Path) -> list[Path]:
        if os.path.isdir(root):
            found = self.find(root)
            if not found:
                raise GtaError(f"{root} has no {self.suffix} file of annotations")
            return found
        texts = [str(root)] if os.path.exists(root) else str(root).split(",")
        listed = [user_path(text.strip()) for text in texts]
        for path in listed:
            if not os.path.isfile(path):
                raise GtaError(f"no such folder or file: {path}")
        return listed

    def find(self, folder: Path) -> list[Path]:
        """Return the files of annotations in a folder, sorted."""
        return _named(folder, self.suffix)

    def parse(self, path: Path) -> tuple[AnnotatedImage, ...]:
        """Return the images of a file. Raises as the parsers do."""
        raise NotImplementedError

    def write_example(self, folder: Path) -> str:
        """Write two drawn images and their annotations, of which one image has several classes."""
        write_images(folder)
        self.write_annotations(folder)
        return f"objects+25:{folder}"

    def write_annotations(self, folder: Path) -> None:
        """Write the file of the example's annotations."""
        raise NotImplementedError

    def _parsed(self, path: Path) -> tuple[AnnotatedImage, ...]:
        try:
            return self.parse(path)
        except (OSError, ValueError) as error:
            raise GtaError(f"cannot read annotations {path}: {reason_of(error)}") from error
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else f"it is no {self.title}"
            raise GtaError(f"cannot read annotations {path}: {reason}") from error


class Coco(AnnotationFamily):
    """The reader of COCO's format."""

    spec, title = "coco", "file of COCO's format"
    help = "annotations in COCO's format: coco:FOLDER, coco/objects:train.json,val.json"
    usage = "coco:FOLDER, coco/objects:FOLDER, coco/largest:FOLDER or coco/scenes:FOLDER"

    def find(self, folder: Path) -> list[Path]:
        """Return the files in a folder, in `annotations`, or in folders of splits (Roboflow)."""
        places = [one for one in list_subfolders(folder) if _may_have_files(one)]
        found = [path for place in (folder, *places) for path in _named(place, self.suffix)]
        for sign in ("instances", "coco"):  # published beside captions and key points
            chosen = [path for path in found if sign in path.name.lower()]
            if chosen:
                return chosen
        return found

    def parse(self, path: Path) -> tuple[AnnotatedImage, ...]:
        return parse_coco_images(read_json(path))

    def write_annotations(self, folder: Path) -> None:
        write_coco(folder)


class Cvat(AnnotationFamily):
    """The reader of "CVAT for images 1.1"."""

    spec, title, suffix = "cvat", "export of CVAT", ".xml"
    help = "an export of CVAT for images 1.1, unpacked: cvat:FOLDER, cvat/objects:FOLDER"
    usage = "cvat:FOLDER, cvat/objects:FOLDER, cvat/largest:FOLDER or cvat/scenes:FOLDER"

    def parse(self, path: Path) -> tuple[AnnotatedImage, ...]:
        return parse_cvat(path)

    def write_annotations(self, folder: Path) -> None:
        write_cvat(folder)


class LabelStudio(AnnotationFamily):
    """The reader of Label Studio's exports in JSON."""

    spec, title = "label-studio", "export of Label Studio"
    help = "an export of Label Studio (JSON): label-studio:FOLDER, label-studio/objects:FOLDER"
    usage = (
        "label-studio:FOLDER, label-studio/objects:FOLDER, label-studio/largest:FOLDER or "
        "label-studio/scenes:FOLDER"
    )

    def parse(self, path: Path) -> tuple[AnnotatedImage, ...]:
        return parse_label_studio(read_json(path))

    def write_annotations(self, folder: Path) -> None:
        write_label_studio(folder)


def _named(folder: Path, suffix: str) -> list[Path]:
    names: Sequence[str] = list_folder(folder).others
    return [Path(name) for name in names if name.lower().endswith(suffix)]


def _may_have_files(folder: Path) -> bool:
    return folder.name.lower() == "annotations" or split_in_name(folder.name) is not None


def _image_folder(path: Path) -> Path:
    """Return the folder below which a file's images are: beside it, or beside `annotations`."""
    folder = path.parent
    return folder.parent if folder.absolute().name.lower() == "annotations" else folder
