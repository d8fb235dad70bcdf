import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from timm.data.readers.reader_wds import ReaderWds
from webdataset.shardlists import expand_urls

from gtacli.data import ImageDataset, load_dataset
from gtacli.data.streams.braces import MAX_NAMES, expand_braces
from gtacli.data.unlabeled import load_images
from gtacli.errors import GtaError
from gtacli.images.decode import decode
from tests.web import Web

Layout = Callable[[str, Path], str]


def write(path: Path, *members: tuple[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def labels(data: ImageDataset, split: str = "train") -> list[str]:
    return [data.classes[record.label] for record in data[split]]


def test_shards_equal_timms_reader(layout: Layout, tmp_path: Path) -> None:
    """Images, labels and order equal those of timm's reader."""
    data = load_dataset(layout("wds", tmp_path))
    assert data.classes == ("Abyssinian", "american_bulldog", "Bengal")
    for split, pattern, count in (("train", "{000..001}", 12), ("test", "{000..000}", 6)):
        theirs = list(ReaderWds(str(tmp_path), split=f"{split}-{pattern}.tar|{count}"))
        assert len(data[split]) == len(theirs) == count
        for record, (image, label) in zip(data[split], theirs, strict=True):
            assert record.label == label
            assert np.array_equal(decode(record.path), image)
    assert data["train"][0].key == "train-000.tar/Abyssinian_0.jpg"


def test_shards_of_webdatasets_writer(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    image = make_image(tmp_path / "x.png").read_bytes()
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"a.b/{i}", "png": image, "cls": i % 2, "json": {"a": 1}})
    data = load_dataset(f"wds/{tmp_path / 'x.tar'}")
    assert [record.key for record in data["train"]] == [f"x.tar/a.b/{i}.png" for i in range(3)]
    assert labels(data) == ["0", "1", "0"]
    assert data["train"][2].open().read() == image


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("s/{train,test}-{000..001}.tar", 4),
        ("s/*.tar", 4),
        ("s/train-{000..001}.tar", 2),
        ("s/{train-000,train-001}.tar", 2),
        ("s/train-000.tar", 1),
        ("s", 4),
    ],
)
def test_patterns(
    pattern: str, count: int, tmp_path: Path, make_image: Callable[..., Path]
) -> None:
    image = make_image(tmp_path / "x.png").read_bytes()
    for part in ("train", "test"):
        for i in range(2):
            write(tmp_path / f"s/{part}-00{i}.tar", ("k.png", image), ("k.cls", b"cat"))
    data = load_dataset(f"wds/{tmp_path / pattern}")
    assert sum(map(len, data.splits.values())) == count
    assert data["train"][0].key == "train-000.tar/k.png"  # independent of the pattern
    assert set(data.splits) == ({"train", "test"} if count == 4 else {"train"})


def test_splits_by_folder_and_keys(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    image = make_image(tmp_path / "x.png").read_bytes()
    for part in ("train", "test"):
        write(tmp_path / f"s/{part}/0.tar", ("./d/k.png", image), ("./d/k.cls", b"7"))
    data = load_dataset(f"wds/{tmp_path / 's'}")
    assert [record.key for _, record in data.records()] == [
        "train/0.tar/d/k.png",
        "test/0.tar/d/k.png",
    ]
    assert data.classes == ("7",)


def test_labels(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    """Labels in .cls precede .json, numbers sort as numbers, and masks are no images."""
    image = make_image(tmp_path / "x.png").read_bytes()
    path = write(
        tmp_path / "s.tar",
        ("1.json", b'{"label": 3}'), ("1.png", image), ("1.cls", b"10\n"),
        ("2.PNG", image), ("2.json", b'{"label": 9}'), ("2.seg.png", b"mask"),
        ("._2.png", b"mac"), ("3.txt", b"no image"),
    )  # fmt: skip
    data = load_dataset(f"wds/{path}")
    assert data.classes == ("9", "10")
    assert labels(data) == ["10", "9"]
    assert [record.path.name for record in data["train"]] == ["1.png", "2.PNG"]


def test_numeric_labels(
    tmp_path: Path, make_image: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """007 is 7, and -1 means that there is no label."""
    image = make_image(tmp_path / "x.png").read_bytes()
    texts = [b"007", b"7", b"-1", b"10"]
    members = [[(f"{i}.png", image), (f"{i}.cls", text)] for i, text in enumerate(texts)]
    path = write(tmp_path / "s.tar", *[member for pair in members for member in pair])
    assert labels(load_dataset(f"wds/{path}")) == ["7", "7", "10"]
    assert "s.tar: 1 samples with a negative label are omitted" in caplog.text


@pytest.mark.parametrize("listed", ["cat\ndog\n", "1\n0\n"])
def test_class_names(listed: str, tmp_path: Path, make_image: Callable[..., Path]) -> None:
    """Numbers are indices of the list, unless they are names in it."""
    image = make_image(tmp_path / "x.png").read_bytes()
    write(
        tmp_path / "s.tar", *[(f"{i}.png", image) for i in (0, 1)], ("0.cls", b"1"), ("1.cls", b"0")
    )
    (tmp_path / "classes.txt").write_text(listed)
    assert labels(load_dataset(f"wds/{tmp_path}")) == (
        ["dog", "cat"] if "cat" in listed else ["1", "0"]
    )
    (tmp_path / "classnames.txt").write_text("only\n")
    with pytest.raises(GtaError, match=r"classnames\.txt lists 1 classes, which do not fit"):
        load_dataset(f"wds/{tmp_path}")
    (tmp_path / "classnames.txt").write_bytes("café\n".encode("latin-1"))
    with pytest.raises(GtaError, match=r"classnames\.txt: it is not UTF-8 text"):
        load_dataset(f"wds/{tmp_path}")


def test_remote_shards_are_downloaded_once(layout: Layout, tmp_path: Path, web: Web) -> None:
    local = load_dataset(layout("wds", tmp_path / "far"))
    for file in (tmp_path / "far").glob("*.tar"):
        web.files[f"https://example.org/{file.name}"] = file.read_bytes()
    spec = "wds/https://example.org/{train-000,train-001,test-000}.tar"
    data = load_dataset(spec)
    assert [(s, r.key) for s, r in data.records()] == [(s, r.key) for s, r in local.records()]
    for (_, one), (_, other) in zip(data.records(), local.records(), strict=True):
        assert one.open().read() == other.open().read()
    web.files.clear()
    assert load_dataset(spec).fingerprint() == data.fingerprint()
    assert len(list((tmp_path / "cache/wds").iterdir())) == 3


def test_failed_download_leaves_no_files(layout: Layout, tmp_path: Path, web: Web) -> None:
    layout("wds", tmp_path)
    web.files["https://example.org/cut.tar"] = (tmp_path / "test-000.tar").read_bytes()[:900]
    for name in ("gone", "cut"):
        with pytest.raises(GtaError, match="cannot download shard https:") as caught:
            load_dataset(f"wds/https://example.org/{name}.tar")
        assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache/wds").iterdir()) == []


@pytest.mark.parametrize("load", [load_dataset, load_images])
@pytest.mark.parametrize(
    "spec",
    [
        "pipe:touch MARK",
        "PIPE:touch MARK",
        " pipe:touch MARK",
        "pipe:touch MARK; cat {000..001}.tar",
        "{pipe:touch MARK,a.tar}",
        "{a.tar,pipe:touch MARK}",
        "{p,q}ipe:touch MARK",
        "{https://example.org/a.tar,pipe:touch MARK}",
        "https://example.org/a.tar::pipe:touch MARK",
        "file:FOLDER/train-000.tar",
        "file://FOLDER/train-000.tar",
        "hdfs:train-000.tar",
        "gs:train-000.tar",
        "ftp://example.org/train-000.tar",
        "data:,x",
        "http://example.org/train-000.tar",
        "https:train-000.tar",
    ],
)
def test_other_schemes_are_refused_and_nothing_is_opened(
    spec: str, load: Callable[[str], ImageDataset], layout: Layout, tmp_path: Path, web: Web
) -> None:
    layout("wds", tmp_path)
    mark = tmp_path / "mark"
    spec = spec.replace("MARK", str(mark)).replace("FOLDER", str(tmp_path))
    with pytest.raises(GtaError) as caught:
        load(f"wds/{spec}")
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    if "::" not in spec:
        assert web.asked == []


def test_invalid_shards_raise_one_line(tmp_path: Path, make_image: Callable[..., Path]) -> None:
    image = make_image(tmp_path / "x.png").read_bytes()
    good = ("k.png", image), ("k.cls", b"1")
    write(tmp_path / "packed.tar", *good, mode="w:gz")
    write(tmp_path / "mixed/train-0.tar", *good)
    write(tmp_path / "mixed/other-0.tar", *good)
    write(tmp_path / "bare.tar", ("k.png", image), ("k.json", b"{}"))
    write(tmp_path / "json.tar", ("k.png", image), ("k.json", b"{"))
    write(tmp_path / "empty.tar")
    (tmp_path / "none").mkdir()
    for name, message in {
        "packed.tar": r"cannot read shard .*packed\.tar as a plain tar",
        "json.tar": r"cannot read shard .*json\.tar",
        "mixed": r"the name of other-0\.tar must contain train, val or test",
        "bare.tar": r"bare\.tar:k\.png has no label: no k\.cls, and no 'label' in k\.json",
        "empty.tar": "it has no image",
        "none": r"no \.tar in that folder",
        "gone/{0..1}.tar": r"no such shard: .*gone/0\.tar",
        "gone/*.tar": r"no such shard",
    }.items():
        with pytest.raises(GtaError, match=message) as caught:
            load_dataset(f"wds/{tmp_path / name}")
        assert "\n" not in str(caught.value)


WORDS = st.lists(
    st.sampled_from(["a", "b/", "-", "c.tar", "{0..3}", "{08..11}", "{x,y}"]), max_size=5
)


@given(WORDS)
def test_braces_expand_like_webdataset(words: list[str]) -> None:
    pattern = "".join(words)
    assert expand_braces(pattern) == expand_urls(pattern)


BOMBS = {
    "{0..999999999999}": f"stands for 1,000,000,000,000 shards; at most {MAX_NAMES:,}",
    "{0..999}" * 5: "stands for 1,000,000,000,000,000 shards",
    "{" + "a," * 400 + "}" + "{" + "b," * 400 + "}.tar": "stands for 160,801 shards",
    "{0.." + "9" * 9000 + "}": "stands for 100,000,000,000,000,000,000 shards",
    "{a,{b,c}}.tar": "braces within braces",
    "{" * 500 + "a" + "}" * 500: "braces within braces",
}


@pytest.mark.parametrize("pattern", BOMBS, ids=lambda pattern: pattern[:20])
def test_a_pattern_is_counted_before_it_is_expanded(pattern: str) -> None:
    for before in ("", "https://127.0.0.1/"):
        with pytest.raises(GtaError, match=BOMBS[pattern]):
            load_dataset(f"wds/{before}{pattern}")


def test_patterns_without_a_name_are_no_shards(tmp_path: Path) -> None:
    assert expand_braces("{5..3}.tar") == []
    with pytest.raises(GtaError, match="stands for no shard"):
        load_dataset(f"wds/{tmp_path}/{{5..3}}.tar")
