"""Reader `aircraft`: FGVC-Aircraft as published (Maji et al., 2013), the 100 variants.

`data/images/*.jpg`, `data/variants.txt`, `data/images_variant_{train,val,test}.txt` (id variant).
The published train and val splits (3,334 and 3,333 images) are one train split of 6,667, as in the
protocol of fine-grained recognition, whose sampling rates refer to 6,667. So validation images are
held out of the sampled images, as for the other datasets.
"""

from pathlib import Path

from gtacli.data.base import ImageDataset, Publication
from gtacli.data.readers.published import PublishedReader, list_fields, list_lines
from gtacli.errors import GtaError

_LISTS = ("images_variant_trainval.txt", "images_variant_test.txt")


class Aircraft(PublishedReader):
    """The reader of FGVC-Aircraft."""

    help = "FGVC-Aircraft as published: data/images, data/images_variant_trainval.txt"
    name = "aircraft"
    published = Publication(
        "FGVC-Aircraft",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        {"train": 6667, "test": 3333},
        100,
    )
    tops = ("fgvc-aircraft-2013b",)
    # The second one is the archive's data/ by itself.
    layouts = tuple(
        tuple(data + name for name in ("images", "variants.txt", *_LISTS)) for data in ("data/", "")
    )

    def read_layout(self, root: Path) -> ImageDataset:
        data = root / "data" if (root / "data/variants.txt").exists() else root
        names = {name: name for _, name in list_lines(data / "variants.txt")}
        rows: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
        for split, name in zip(rows, _LISTS, strict=True):
            for number, (image, variant) in list_fields(data / name, "image variant"):
                if variant not in names:
                    raise GtaError(
                        f"{data / name}, line {number}: '{variant}' is not in variants.txt"
                    )
                rows[split].append((f"{image}.jpg", variant))
        return self.dataset(root, names, rows, data / "images")
