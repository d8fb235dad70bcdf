"""The datasets that family `torch` reads with torchvision: files, splits and numbers."""

from dataclasses import dataclass

from gtacli.data.base import Publication


@dataclass(frozen=True)
class TorchSet:
    """A class of torchvision: its folder and files below root, and its arguments for the splits."""

    cls: str
    folder: str
    needs: tuple[str, ...]
    published: Publication
    splits: tuple[tuple[str, str], ...] = (("train", "train"), ("test", "test"))
    """(split, torchvision's name)."""
    flag: bool = False
    """Whether the split is chosen by `train=True`."""


_VAL = (("train", "train"), ("val", "val"), ("test", "test"))
_MNIST = tuple(
    f"raw/{part}-{kind}-ubyte"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
SETS = {
    each.cls.lower(): each
    for each in (
        TorchSet(
            "Flowers102",
            "flowers-102",
            ("jpg", "imagelabels.mat", "setid.mat"),
            Publication(
                "Oxford Flowers 102",
                "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
                {"train": 1020, "val": 1020, "test": 6149},
                102,
            ),
            _VAL,
        ),
        TorchSet(
            "Food101",
            "food-101",
            ("images", "meta/train.json", "meta/test.json"),
            Publication(
                "Food-101",
                "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
                {"train": 75750, "test": 25250},
                101,
            ),
        ),
        TorchSet(
            "DTD",
            "dtd",
            ("dtd/images", *(f"dtd/labels/{part}1.txt" for part in ("train", "val", "test"))),
            Publication(
                "Describable Textures (DTD)",
                "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
                {"train": 1880, "val": 1880, "test": 1880},
                47,
            ),
            _VAL,
        ),
        TorchSet(
            "Country211",
            "country211",
            ("train", "valid", "test"),
            Publication(
                "Country211",
                "https://github.com/openai/CLIP (data/country211.md)",
                {"train": 31650, "val": 10550, "test": 21100},
                211,
            ),
            (("train", "train"), ("val", "valid"), ("test", "test")),
        ),
        TorchSet(
            "GTSRB",
            "gtsrb",
            ("GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv"),
            Publication(
                "GTSRB",
                "https://benchmark.ini.rub.de/gtsrb_dataset.html",
                {"train": 26640, "test": 12630},
                43,
            ),
        ),
        TorchSet(
            "CIFAR10",
            "cifar-10-batches-py",
            ("batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
            Publication(
                "CIFAR-10",
                "https://www.cs.toronto.edu/~kriz/cifar.html",
                {"train": 50000, "test": 10000},
                10,
            ),
            flag=True,
        ),
        TorchSet(
            "CIFAR100",
            "cifar-100-python",
            ("meta", "train", "test"),
            Publication(
                "CIFAR-100",
                "https://www.cs.toronto.edu/~kriz/cifar.html",
                {"train": 50000, "test": 10000},
                100,
            ),
            flag=True,
        ),
        TorchSet(
            "STL10",
            "stl10_binary",
            (
                *(f"{part}_{kind}.bin" for part in ("train", "test") for kind in ("X", "y")),
                "unlabeled_X.bin",  # not read, but torchvision requires it
                "class_names.txt",
            ),
            Publication(
                "STL-10",
                "https://cs.stanford.edu/~acoates/stl10/",
                {"train": 5000, "test": 8000},
                10,
            ),
        ),
        TorchSet(
            "SVHN",
            "",
            ("train_32x32.mat", "test_32x32.mat"),
            Publication(
                "SVHN",
                "http://ufldl.stanford.edu/housenumbers/",
                {"train": 73257, "test": 26032},
                10,
            ),
        ),
        TorchSet(
            "MNIST",
            "MNIST",
            _MNIST,
            Publication(
                "MNIST", "http://yann.lecun.com/exdb/mnist/", {"train": 60000, "test": 10000}, 10
            ),
            flag=True,
        ),
        TorchSet(
            "FashionMNIST",
            "FashionMNIST",
            _MNIST,
            Publication(
                "Fashion-MNIST",
                "https://github.com/zalandoresearch/fashion-mnist",
                {"train": 60000, "test": 10000},
                10,
            ),
            flag=True,
        ),
    )
}
