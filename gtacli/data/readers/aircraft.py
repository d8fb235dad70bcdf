"""Reader `aircraft`: FGVC-Aircraft as published (Maji et al., 2013), the 100 variants.

`data/images/*.jpg`, `data/variants.txt`, `data/images_variant_{train,val,test}.txt` (id variant).
The published train and val parts (3,334 and 3,333) are one training part of 6,667 here, as in the
fine-grained field's protocol, whose sampling rates count from 6,667; so validation images are held
out of what the rate keeps, as for the other sets.
"""

from pathlib import Path

from gtacli.data.base import ImageDataset, Publication, Record
from gtacli.data.readers.published import PublishedReader, list_fields, list_lines
from gtacli.errors import GtaError

_LISTS = ("images_variant_trainval.txt", "images_variant_test.txt")


class Aircraft(PublishedReader):
    help = "FGVC-Aircraft as published: data/images, data/images_variant_trainval.txt"
    name = "aircraft"
    published = Publication(
        "FGVC-Aircraft",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        {"train": 6667, "test": 3333},
        100,
    )
    tops = ("fgvc-aircraft-2013b",)
    # Also the archive's data/ by itself.
    layouts = tuple(
        tuple(data + name for name in ("images", "variants.txt", *_LISTS)) for data in ("data/", "")
    )

    def read_layout(self, root: Path) -> ImageDataset:
        data = root / "data" if (root / "data/variants.txt").exists() else root
        classes = tuple(name for _, name in list_lines(data / "variants.txt"))
        labels = {name: label for label, name in enumerate(classes)}
        splits: dict[str, list[Record]] = {}
        for split, name in zip(("train", "test"), _LISTS, strict=True):
            for number, (image, variant) in list_fields(data / name, "image variant"):
                if variant not in labels:
                    raise GtaError(
                        f"{data / name}, line {number}: '{variant}' is not in variants.txt"
                    )
                record = Record(f"{image}.jpg", labels[variant], data / "images" / f"{image}.jpg")
                splits.setdefault(split, []).append(record)
        return self.dataset(root, classes, splits)
