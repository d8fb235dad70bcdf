"""Reader `pets`: Oxford-IIIT Pets as published (Parkhi et al., 2012), the 37 breeds.

`images/*.jpg`, `annotations/trainval.txt`, `annotations/test.txt` (image class species breed, class
from 1); the masks are the trimaps in `annotations/trimaps/`, if they are there.
"""

from pathlib import Path

from gtacli.data.base import ImageDataset, Publication
from gtacli.data.readers.published import PublishedReader, list_fields
from gtacli.errors import GtaError


class Pets(PublishedReader):
    """The reader of Oxford-IIIT Pets."""

    help = "Oxford-IIIT Pets as published: images/, annotations/trainval.txt, annotations/test.txt"
    name = "pets"
    published = Publication(
        "Oxford-IIIT Pets",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        {"train": 3680, "test": 3669},
        37,
    )
    tops = ("oxford-iiit-pet",)
    layouts = (("images", "annotations/trainval.txt", "annotations/test.txt"),)

    def read_layout(self, root: Path) -> ImageDataset:
        rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
        names: dict[int, str] = {}
        for split, name in (("train", "trainval"), ("test", "test")):
            path = root / f"annotations/{name}.txt"
            for number, (image, breed, *_) in list_fields(path, "image class species breed"):
                if not breed.isdigit():
                    raise GtaError(f"{path}, line {number}: class '{breed}' is not a number")
                rows[split].append((f"{image}.jpg", int(breed)))
                # torchvision's names: american_bulldog_12 is of the class American Bulldog.
                names[int(breed)] = " ".join(w.title() for w in image.split("_")[:-1])
        masks = root / "annotations/trimaps"
        return self.dataset(root, dict(sorted(names.items())), rows, root / "images", masks)
