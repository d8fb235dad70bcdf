"""Reader `pets`: Oxford-IIIT Pets as published (Parkhi et al., 2012), the 37 breeds.

`images/*.jpg`, `annotations/trainval.txt`, `annotations/test.txt` (image class species breed, class
from 1). The trimaps are not read as masks: 1, 2, 3 in them mean pet, background, border.
"""

from pathlib import Path

from gtacli.data.base import ImageDataset, Publication, Record
from gtacli.data.readers.published import PublishedReader, list_fields
from gtacli.errors import GtaError


class Pets(PublishedReader):
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
                # As torchvision names it: american_bulldog_12 is of the class American Bulldog.
                names[int(breed)] = " ".join(w.title() for w in image.split("_")[:-1])
        labels = {breed: label for label, breed in enumerate(sorted(names))}
        splits = {
            split: [Record(image, labels[n], root / "images" / image) for image, n in part]
            for split, part in rows.items()
        }
        return self.dataset(root, tuple(names[n] for n in labels), splits)
