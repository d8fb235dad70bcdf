"""Functions that create small datasets in their published layouts, for the fixture `layout`."""

import hashlib
import io
import json
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets as tv

Patch = pytest.MonkeyPatch
CLASSES = ("Abyssinian", "american_bulldog", "Bengal")
COUNTS = {"train": 4, "val": 1, "test": 2}


def photos(root: Path, names: Iterable[str]) -> None:
    for name in names:
        seed = zlib.crc32(name.encode())
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((36 + seed % 5, 40), Image.Resampling.BICUBIC)
        image.save(path)


def numbered(split: str, stems: Iterable[str] = CLASSES) -> list[tuple[str, int]]:
    """Return (name, label) of a split: COUNTS of each class, interleaved to test the order."""
    first = {"train": 0, "val": 4, "test": 5}[split]
    return [
        (f"{stem}_{first + i}", label)
        for i in range(COUNTS[split])
        for label, stem in enumerate(stems)
    ]


def lines(path: Path, text: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in text))


def cells(values: Iterable[str]) -> np.ndarray:
    """Return a MATLAB cell array of strings, N x 1."""
    listed = list(values)
    array = np.empty((len(listed), 1), dtype=object)
    array[:, 0] = listed
    return array


def structs(rows: list[dict[str, object]]) -> np.ndarray:
    """Return a MATLAB struct array, 1 x N."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row.values())
    return array


def mat(path: Path, **content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content)


def pets(root: Path, _: Patch) -> str:
    base = root / "oxford-iiit-pet"
    for split, file in (("train", "trainval"), ("test", "test")):
        names = numbered(split)
        photos(base / "images", (f"{name}.jpg" for name, _ in names))
        lines(base / f"annotations/{file}.txt", (f"{n} {label + 1} 1 1" for n, label in names))
    return f"torch/pets:{root}"


def aircraft(root: Path, _: Patch) -> str:
    data = root / "fgvc-aircraft-2013b/data"
    variants = ("707-320", "F/A-18", "Boeing 717")  # a slash, a space, not in order
    lines(data / "variants.txt", variants)
    for split in ("train", "val", "test"):
        names = numbered(split, ("100", "200", "300"))
        photos(data / "images", (f"{name}.jpg" for name, _ in names))
        rows = [f"{name} {variants[label]}" for name, label in names]
        lines(data / f"images_variant_{split}.txt", rows)
        if split != "test":
            with (data / "images_variant_trainval.txt").open("a") as file:
                file.writelines(f"{row}\n" for row in rows)
    return f"torch/aircraft:{root}"


def cars(root: Path, _: Patch) -> str:
    base = root / "stanford_cars"
    for split in ("train", "test"):
        rows: list[dict[str, object]] = []
        for i, (_, label) in enumerate(numbered(split), start=1):
            rows.append({"bbox_x1": 1, "class": label + 1, "fname": f"{i:05d}.jpg"})
        photos(base / f"cars_{split}", (str(row["fname"]) for row in rows))
        place = "devkit/cars_train_annos" if split == "train" else "cars_test_annos_withlabels"
        mat(base / f"{place}.mat", annotations=structs(rows))
    mat(base / "devkit/cars_meta.mat", class_names=cells(CLASSES).T)
    return f"torch/cars:{root}"


def cars_whole(root: Path, _: Patch) -> str:
    rows: list[dict[str, object]] = [
        {"relative_im_path": f"car_ims/{s}{i}.jpg", "class": c + 1, "test": int(s == "test")}
        for s in ("train", "test")
        for i, (_, c) in enumerate(numbered(s))
    ]
    photos(root, (str(row["relative_im_path"]) for row in rows))
    mat(root / "cars_annos.mat", annotations=structs(rows), class_names=cells(CLASSES).T)
    return str(root)


def dogs(root: Path, _: Patch) -> str:
    names = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02085936-Maltese_dog")
    for split in ("train", "test"):
        rows = [(f"{names[c]}/{n}.jpg", c) for n, c in numbered(split)]
        photos(root / "Images", (name for name, _ in rows))
        numbers = np.array([[label + 1] for _, label in rows], dtype=np.uint8)
        files = cells(name for name, _ in rows)
        mat(root / f"{split}_list.mat", file_list=files, annotation_list=files, labels=numbers)
    return str(root)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def arrays(split: str, size: int) -> tuple[np.ndarray, list[int]]:
    """Return uint8 (N, size, size, 3) and labels."""
    labels = [label for _, label in numbered(split)]
    seed = {"train": 1, "test": 2}[split]
    shape = (len(labels), size, size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), labels


def flowers(root: Path, patch: Patch) -> str:
    base = root / "flowers-102"
    ids: dict[str, list[int]] = {}
    labels: list[int] = []
    for split in ("test", "train", "val"):  # the published ids are in no order either
        part = numbered(split)
        ids[split] = [len(labels) + i for i in range(1, len(part) + 1)]
        labels += [label + 1 for _, label in part]
    photos(base / "jpg", (f"image_{i:05d}.jpg" for i in range(1, len(labels) + 1)))
    mat(base / "imagelabels.mat", labels=np.array([labels]))
    words = {"trnid": "train", "valid": "val", "tstid": "test"}
    mat(base / "setid.mat", **{word: np.array([ids[s]]) for word, s in words.items()})
    files = {"label": "imagelabels.mat", "setid": "setid.mat"}
    sums = {what: (name, md5(base / name)) for what, name in files.items()}
    patch.setattr(tv.Flowers102, "_file_dict", {**tv.Flowers102._file_dict, **sums})
    return f"torch/flowers:{root}"


def food(root: Path, patch: Patch) -> str:
    base = root / "food-101"
    for split in ("train", "test"):
        names = [(f"{CLASSES[label]}/{n}", label) for n, label in numbered(split)]
        photos(base / "images", (f"{n}.jpg" for n, _ in names))
        listed = {c: [n for n, label in names if CLASSES[label] == c] for c in CLASSES}
        lines(base / f"meta/{split}.json", [json.dumps(listed)])
    return f"torch/Food101:{root}"


def dtd(root: Path, patch: Patch) -> str:
    base = root / "dtd/dtd"
    for split in ("train", "val", "test"):
        names = [f"{CLASSES[label]}/{n}.jpg" for n, label in numbered(split)]
        photos(base / "images", names)
        lines(base / f"labels/{split}1.txt", names)
    return f"torch/dtd:{root}"


def country(root: Path, patch: Patch) -> str:
    for split, word in (("train", "train"), ("val", "valid"), ("test", "test")):
        names = (f"{CLASSES[label]}/{n}.jpg" for n, label in numbered(split))
        photos(root / "country211" / word, names)
    return f"torch/country211:{root}"


def gtsrb(root: Path, patch: Patch) -> str:
    base = root / "gtsrb"
    names = (f"{label:05d}/{n}.ppm" for n, label in numbered("train"))
    photos(base / "GTSRB/Training", names)
    rows = [(f"{i:05d}.ppm", label) for i, (_, label) in enumerate(numbered("test"))]
    photos(base / "GTSRB/Final_Test/Images", (name for name, _ in rows))
    head = "Filename;Width;Height;ClassId"
    lines(base / "GT-final_test.csv", [head, *(f"{name};40;40;{c}" for name, c in rows)])
    return f"torch/gtsrb:{root}"


def cifar(cls: Any, key: str) -> Callable[[Path, Patch], str]:
    def make(root: Path, patch: Patch) -> str:
        base = root / cls.base_folder
        base.mkdir(parents=True)
        for split, listed in (("train", cls.train_list), ("test", cls.test_list)):
            images, labels = arrays(split, 32)
            rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            parts = np.array_split(np.arange(len(rows)), len(listed))
            for (name, _), part in zip(listed, parts, strict=True):
                content = {"data": rows[part], key: [labels[i] for i in part]}
                (base / name).write_bytes(pickle.dumps(content))
            sums = [[name, md5(base / name)] for name, _ in listed]
            patch.setattr(cls, f"{split}_list", sums)
        meta = base / cls.meta["filename"]
        meta.write_bytes(pickle.dumps({cls.meta["key"]: list(CLASSES)}))
        patch.setattr(cls, "meta", {**cls.meta, "md5": md5(meta)})
        return f"torch/{cls.__name__.lower()}:{root}"

    return make


def stl(root: Path, patch: Patch) -> str:
    base = root / "stl10_binary"
    base.mkdir(parents=True)
    lines(base / "class_names.txt", CLASSES)
    (base / "unlabeled_X.bin").write_bytes(b"")
    for split in ("train", "test"):
        images, labels = arrays(split, 96)
        (base / f"{split}_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
        (base / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in labels))
        listed = getattr(tv.STL10, f"{split}_list")
        sums = [[name, md5(base / name)] for name, _ in listed]
        patch.setattr(tv.STL10, f"{split}_list", sums)
    return f"torch/STL-10:{root}"


def svhn(root: Path, patch: Patch) -> str:
    listed = {}
    for split in ("train", "test"):
        images, labels = arrays(split, 32)
        numbers = np.array([[label or 10] for label in labels], dtype=np.uint8)  # 10 is the digit 0
        path = root / f"{split}_32x32.mat"
        mat(path, X=images.transpose(1, 2, 3, 0), y=numbers)
        listed[split] = ["", path.name, md5(path)]
    patch.setattr(tv.SVHN, "split_list", listed)
    return f"torch/svhn:{root}"


def mnist(name: str) -> Callable[[Path, Patch], str]:
    def make(root: Path, patch: Patch) -> str:
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for split, word in (("train", "train"), ("test", "t10k")):
            images, labels = arrays(split, 28)
            head = np.array([2051, len(images), 28, 28], dtype=">i4").tobytes()
            gray = np.ascontiguousarray(images[..., 0])
            (raw / f"{word}-images-idx3-ubyte").write_bytes(head + gray.tobytes())
            head = np.array([2049, len(labels)], dtype=">i4").tobytes()
            (raw / f"{word}-labels-idx1-ubyte").write_bytes(head + bytes(labels))
        return f"torch/{name}:{root}"

    return make


def encoded(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((40, 36), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


def hfds(root: Path, patch: Patch) -> str:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    parts = {}
    for offset, (split, word) in enumerate(
        (("train", "train"), ("val", "validation"), ("test", "test"))
    ):
        labels = [label for _, label in numbered(split)]
        images = [{"bytes": encoded(100 * offset + i), "path": None} for i in range(len(labels))]
        table = {"image": images, "label": labels}
        parts[word] = datasets.Dataset.from_dict(table, features=features)
    datasets.DatasetDict(parts).save_to_disk(root / "saved")
    return f"hfds/{root / 'saved'}"


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def wds(root: Path, patch: Patch) -> str:
    """Write two shards for training and one for testing with WebDataset's writer."""
    lines(root / "classnames.txt", CLASSES)
    parts = {"train-000": numbered("train")[:5], "train-001": numbered("train")[5:]}
    seed = 0
    for name, part in {**parts, "test-000": numbered("test")}.items():
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            for stem, label in part:
                add(tar, f"{stem}.cls", str(label).encode())
                add(tar, f"{stem}.jpg", encoded(seed))
                add(tar, f"{stem}.json", b"{}")
                seed += 1
    return f"wds/{root}"


def tables(root: Path, patch: Patch) -> str:
    for split in ("train", "test"):
        rows = [(f"photos/{n}.png", CLASSES[label]) for n, label in numbered(split)]
        photos(root, (name for name, _ in rows))
        lines(root / f"{split}.csv", ["path,label", *(f"{a},{b}" for a, b in rows)])
    return f"{root / 'train.csv'},{root / 'test.csv'}"


LAYOUTS: dict[str, Callable[[Path, Patch], str]] = {
    "pets": pets,
    "aircraft": aircraft,
    "cars": cars,
    "cars-whole": cars_whole,
    "dogs": dogs,
    "flowers": flowers,
    "food101": food,
    "dtd": dtd,
    "country211": country,
    "gtsrb": gtsrb,
    "cifar10": cifar(tv.CIFAR10, "labels"),
    "cifar100": cifar(tv.CIFAR100, "fine_labels"),
    "stl10": stl,
    "svhn": svhn,
    "mnist": mnist("MNIST"),
    "fashionmnist": mnist("FashionMNIST"),
    "hfds": hfds,
    "wds": wds,
    "tables": tables,
}
