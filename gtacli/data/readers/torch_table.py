"""The datasets that family `torch` reads with torchvision: files, splits and published numbers."""

from dataclasses import dataclass

from gtacli.data.base import Publication


@dataclass(frozen=True)
class TorchSet:
    """A class of torchvision: its folder and files below root, and its arguments for the splits."""

    cls: str
    folder: str
    needs: tuple[str, ...]
    published: Publication
    splits: tuple[tuple[str, str], ...]
    """(split, torchvision's name)."""
    flag: bool
    """Whether the split is chosen by `train=True`."""


# Class, folder, title, home page, images (train, val if it exists, test), number of classes.
_SETS: tuple[tuple[str, str, str, str, tuple[int, ...], int], ...] = (
    ("Flowers102", "flowers-102", "Oxford Flowers 102",
     "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", (1020, 1020, 6149), 102),
    ("Food101", "food-101", "Food-101",
     "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/", (75750, 25250), 101),
    ("DTD", "dtd", "Describable Textures (DTD)",
     "https://www.robots.ox.ac.uk/~vgg/data/dtd/", (1880, 1880, 1880), 47),
    ("Country211", "country211", "Country211",
     "https://github.com/openai/CLIP (data/country211.md)", (31650, 10550, 21100), 211),
    ("GTSRB", "gtsrb", "GTSRB",
     "https://benchmark.ini.rub.de/gtsrb_dataset.html", (26640, 12630), 43),
    ("CIFAR10", "cifar-10-batches-py", "CIFAR-10",
     "https://www.cs.toronto.edu/~kriz/cifar.html", (50000, 10000), 10),
    ("CIFAR100", "cifar-100-python", "CIFAR-100",
     "https://www.cs.toronto.edu/~kriz/cifar.html", (50000, 10000), 100),
    ("STL10", "stl10_binary", "STL-10",
     "https://cs.stanford.edu/~acoates/stl10/", (5000, 8000), 10),
    ("SVHN", "", "SVHN",
     "http://ufldl.stanford.edu/housenumbers/", (73257, 26032), 10),
    ("MNIST", "MNIST", "MNIST",
     "http://yann.lecun.com/exdb/mnist/", (60000, 10000), 10),
    ("FashionMNIST", "FashionMNIST", "Fashion-MNIST",
     "https://github.com/zalandoresearch/fashion-mnist", (60000, 10000), 10),
)  # fmt: skip
_MNIST = tuple(
    f"raw/{split}-{kind}-ubyte"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
_FILES = {
    "Flowers102": ("jpg", "imagelabels.mat", "setid.mat"),
    "Food101": ("images", "meta/train.json", "meta/test.json"),
    "DTD": ("dtd/images", *(f"dtd/labels/{split}1.txt" for split in ("train", "val", "test"))),
    "Country211": ("train", "valid", "test"),
    "GTSRB": ("GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv"),
    "CIFAR10": ("batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
    "CIFAR100": ("meta", "train", "test"),
    "STL10": (
        *(f"{split}_{kind}.bin" for split in ("train", "test") for kind in ("X", "y")),
        "unlabeled_X.bin",  # not read, but torchvision requires it
        "class_names.txt",
    ),
    "SVHN": ("train_32x32.mat", "test_32x32.mat"),
    "MNIST": _MNIST,
    "FashionMNIST": _MNIST,
}


def _torch_set(
    cls: str, folder: str, title: str, home: str, images: tuple[int, ...], classes: int
) -> TorchSet:
    splits = ("train", "val", "test") if len(images) == 3 else ("train", "test")
    names = _FILES[cls] if cls == "Country211" else splits
    published = Publication(title, home, dict(zip(splits, images, strict=True)), classes)
    pairs = tuple(zip(splits, names, strict=True))
    flag = cls in ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")
    return TorchSet(cls, folder, _FILES[cls], published, pairs, flag)


SETS = {row[0].lower(): _torch_set(*row) for row in _SETS}
