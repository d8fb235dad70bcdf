"""Reader `dogs`: Stanford Dogs as published (Khosla et al., 2011).

`Images/n02085620-Chihuahua/*.jpg`, and `train_list.mat`, `test_list.mat` (`file_list`, `labels`
from 1), beside `Images` or in `lists/`. The boxes in `Annotation/` are not used.
"""

from pathlib import Path

from gtacli.data.base import ImageDataset, Publication
from gtacli.data.readers.published import PublishedReader, read_mat
from gtacli.errors import GtaError


class Dogs(PublishedReader):
    """The reader of Stanford Dogs."""

    help = "Stanford Dogs as published: Images/, train_list.mat, test_list.mat"
    name = "dogs"
    published = Publication(
        "Stanford Dogs",
        "http://vision.stanford.edu/aditya86/ImageNetDogs/",
        {"train": 12000, "test": 8580},
        120,
    )
    layouts = tuple(
        ("Images", f"{lists}train_list.mat", f"{lists}test_list.mat") for lists in ("", "lists/")
    )

    def read_layout(self, root: Path) -> ImageDataset:
        lists = root if (root / "train_list.mat").exists() else root / "lists"
        names: dict[int, str] = {}
        rows = {}
        for split in ("train", "test"):
            path = lists / f"{split}_list.mat"
            files, numbers = read_mat(path, "file_list", "labels")
            if len(files) != len(numbers):
                raise GtaError(f"{path} has {len(files)} files and {len(numbers)} labels")
            rows[split] = [(str(f), int(n)) for f, n in zip(files, numbers, strict=True)]
            names.update({number: file.split("/")[0] for file, number in rows[split]})
        return self.dataset(root, dict(sorted(names.items())), rows, root / "Images")
