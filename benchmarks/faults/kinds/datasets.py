"""Kinds of datasets: tables, lists, shards, annotations."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import tarfile
import zipfile
from datetime import datetime, timedelta
from decimal import Decimal

import mutate

from kinds.base import Evil, Kind, pictures


class _Folder(Kind):
    """A small data set whose lists are mutated."""

    def setup(self) -> None:
        self.images = pictures(3, 32)
        self.files: dict[str, bytes] = {}
        self.build()
        for name, data in self.files.items():
            self.write(f"fixed/{name}", data)

    def picture(self, name: str, number: int) -> None:
        file = io.BytesIO()
        self.images[number % len(self.images)].save(file, "JPEG")
        path = self.folder / "fixed" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())

    def build(self) -> None: ...

    lists: tuple[str, ...] = ()
    spec = "{}"

    def run(self, rng):
        from gtacli.data.spec import load_dataset

        for name in self.lists:
            data = self.files[name]
            if rng is not None and rng.random() < 0.7:
                text = mutate.of_text(data.decode(), rng)
                data = mutate.text_bytes(text)
                if rng.random() < 0.2:
                    data = mutate.of_bytes(data, rng, [data])
            self.write(f"fixed/{name}", data)
        dataset = load_dataset(self.spec.format(self.folder / "fixed"))
        classes = len(dataset.classes)
        for _, record in dataset.records():
            if not 0 <= record.label < classes:
                return "a label beyond the classes"
            str(record.key).encode("utf-8", "surrogateescape")


class CsvTable(_Folder):
    lists = ("birds.csv",)
    spec = "{}/birds.csv"

    def build(self) -> None:
        rows = ["path,label,split"]
        for i in range(12):
            self.picture(f"i/{i}.jpg", i)
            rows.append(f"i/{i}.jpg,class {i % 3},{('train', 'val', 'test')[i // 3 % 3]}")
        self.files["birds.csv"] = ("\n".join(rows) + "\n").encode()


class Tables(_Folder):
    """Tables of other formats: .tsv, .jsonl, .parquet, metadata.csv, and workbooks of Excel."""

    def build(self) -> None:
        self.rows = []
        for i in range(12):
            self.picture(f"i/{i}.jpg", i)
            split = ("train", "val", "test")[i // 3 % 3]
            row = {"file_name": f"i/{i}.jpg", "label": i % 3, "split": split}
            self.rows.append(row)
        self.book = io.BytesIO()
        with zipfile.ZipFile(self.book, "w") as archive:
            archive.writestr("[Content_Types].xml", "<Types/>")
            archive.writestr("xl/worksheets/sheet1.xml", "<worksheet/>")

    def run(self, rng):
        kind = "tsv" if rng is None else rng.choice(("tsv", "jsonl", "parquet", "metadata", "xlsx"))
        name = "metadata.csv" if kind == "metadata" else f"table.{kind}"
        data = getattr(self, f"_{kind}")(rng)
        for old in (*self.folder.glob("fixed/table.*"), self.folder / "fixed/metadata.csv"):
            old.unlink(missing_ok=True)
        self.write(f"fixed/{name}", data)
        self.spec = "{}" if kind == "metadata" else "{}/" + name
        return super().run(None)

    def _text(self, rng, separator):
        rows = [self.rows[0].keys(), *(map(str, row.values()) for row in self.rows)]
        text = "\n".join(map(separator.join, rows)) + "\n"
        if rng is not None:
            text = mutate.of_text(text, rng)
        data = mutate.text_bytes(text)
        return data if rng is None or rng.random() < 0.8 else mutate.of_bytes(data, rng, [data])

    def _tsv(self, rng):
        return self._text(rng, "\t")

    def _metadata(self, rng):
        return self._text(rng, ",")

    def _jsonl(self, rng):
        rows = mutate.of_json(self.rows, rng)
        rows = rows if isinstance(rows, list) else [rows]
        data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        return mutate.of_text(data, rng).encode("utf-8", "surrogatepass")

    def _parquet(self, rng):
        import pyarrow as pa
        from pyarrow import parquet

        columns = {key: [row[key] for row in self.rows] for key in self.rows[0]}
        if rng.random() < 0.5:
            columns[rng.choice((*columns, "x"))] = [rng.choice(self.CELLS)] * len(self.rows)
        out = io.BytesIO()
        compression = rng.choice(("snappy", "gzip", "zstd", "none"))
        parquet.write_table(pa.table(columns), out, compression=compression)
        data = out.getvalue()
        return data if rng.random() < 0.2 else mutate.of_bytes(data, rng, [data])

    CELLS = (
        None, b"\xff\x00", 1.5, float("nan"), 1 << 62, [1, 2], {"bytes": b"x", "path": "y"},
        Decimal("1.50"), datetime(2020, 1, 1), timedelta(days=9), True, "\x00", "../x", "a\nb", [],
    )  # fmt: skip

    def _xlsx(self, rng):
        return mutate.of_bytes(self.book.getvalue(), rng, [self.book.getvalue()])


class Cub(_Folder):
    lists = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")

    def build(self) -> None:
        paths, labels, split = [], [], []
        for i in range(1, 13):
            name = f"{i % 3 + 1:03}.bird/{i}.jpg"
            self.picture(f"images/{name}", i)
            paths.append(f"{i} {name}")
            labels.append(f"{i} {i % 3 + 1}")
            split.append(f"{i} {i % 2}")
        texts = (paths, labels, split, [f"{c} {c:03}.bird" for c in (1, 2, 3)])
        self.files = {
            n: ("\n".join(t) + "\n").encode() for n, t in zip(self.lists, texts, strict=True)
        }


class Tar(Kind):
    """WebDataset shards."""

    def setup(self) -> None:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for i, image in enumerate(pictures(3, 32) * 3):
                picture = io.BytesIO()
                image.save(picture, "JPEG")
                for suffix, data in (
                    ("jpg", picture.getvalue()),
                    ("cls", str(i % 3).encode()),
                    ("json", json.dumps({"label": i % 3}).encode()),
                ):
                    info = tarfile.TarInfo(f"{i:05}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        self.data = file.getvalue()

    def run(self, rng):
        from gtacli.data.spec import load_dataset
        from gtacli.images.decode import ImageError, decode

        data = self.data
        if rng is not None:
            data = bytearray(data)
            if rng.random() < 0.6:  # tar headers are aligned
                block = 512 * rng.randrange(len(data) // 512)
                head = mutate.of_bytes(bytes(data[block : block + 512]), rng, [bytes(data[:512])])[
                    :512
                ]
                data[block : block + 512] = head.ljust(512, b"\0")
                if rng.random() < 0.7:  # with a checksum that fits
                    head = data[block : block + 512]
                    head[148:156] = b" " * 8
                    data[block + 148 : block + 156] = b"%06o\0 " % sum(head)
            else:
                data = mutate.of_bytes(bytes(data), rng, [bytes(data)])
        path = self.write("train-000.tar", bytes(data))
        dataset = load_dataset(f"wds/{path}")
        for _, record in dataset.records():
            with contextlib.suppress(ImageError):
                decode(record.source)


class VocXml(Kind):
    TEXT = """<annotation><folder>VOC2007</folder><filename>1.jpg</filename>
<size><width>64</width><height>48</height><depth>3</depth></size>
<object><name>dog</name><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>cat</name><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>5.5</xmin><ymin>2</ymin><xmax>60</xmax><ymax>47</ymax></bndbox></object></annotation>
"""
    BOMBS = (
        '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">'
        + "".join(f'<!ENTITY {chr(98 + i)} "{("&" + chr(97 + i) + ";") * 10}">' for i in range(9))
        + "]>\n",
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>\n',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">\n',
    )

    def run(self, rng):
        from gtacli.data.readers.annotations import read_boxes

        text = self.TEXT
        if rng is not None:
            if rng.random() < 0.1:
                entity = rng.choice(("&j;", "&e;", "&c;"))
                text = rng.choice(self.BOMBS) + text.replace("dog", entity).replace(
                    "<xmin>1", f"<xmin>{entity}"
                )
            elif rng.random() < 0.4:
                for tag in rng.sample(("xmin", "ymax", "width", "height", "difficult", "ymin"), 2):
                    before, _, after = text.partition(f"<{tag}>")
                    text = (
                        before + f"<{tag}>" + rng.choice(mutate.TOKENS) + after[after.find("<") :]
                    )
            else:
                text = mutate.of_text(text, rng)
        path = self.write("case.xml", mutate.text_bytes(text))
        boxes = read_boxes(path, (48, 64))
        for x0, y0, x1, y1 in boxes:
            if x1 <= x0 or y1 <= y0:
                return "a box without area is taken"
            if not (x0 >= 0 and y0 >= 0 and x1 <= 64 and y1 <= 48):
                return "a box outside of its image is taken"


class Coco(Kind):
    def setup(self) -> None:
        names = [f"COCO_train2014_{i:012}.jpg" for i in range(4)]
        for name, image in zip(names, pictures(3, 32) * 2, strict=False):
            file = io.BytesIO()
            image.save(file, "JPEG")
            self.write(f"coco/train2014/{name}", file.getvalue())
        self.write(
            "coco/coco_20k_filenames.txt", "\n".join(f"train2014/{n}" for n in names).encode()
        )
        self.content = {
            "images": [{"id": i, "file_name": n} for i, n in enumerate(names)],
            "annotations": [
                {"image_id": i % 4, "bbox": [1.0, 2.0, 10.5, 12.0], "iscrowd": 0} for i in range(9)
            ],
        }

    def run(self, rng):
        from gtacli.data.spec import load_dataset

        value = self.content if rng is None else mutate.of_json(self.content, rng)
        data = json.dumps(value).encode() if rng is None else mutate.json_bytes(value, rng)
        self.write("coco/annotations/instances_train2014.json", data)
        dataset = load_dataset(f"coco20k:{self.folder / 'coco'}")
        for _, record in dataset.records():
            for x0, y0, x1, y1 in record.boxes or ():
                if x1 <= x0 or y1 <= y0:
                    return "a box without area is taken"


class Revisited(Kind):
    """The pickle of revisited Oxford and Paris."""

    def setup(self) -> None:
        import numpy as np

        gnd = {"bbx": [1.0, 2.0, 30.0, 40.0], "easy": np.arange(3), "hard": [3], "junk": []}
        self.content = {
            "imlist": [f"a{i}" for i in range(8)],
            "qimlist": ["q0", "q1"],
            "gnd": [gnd, gnd],
        }
        self.plain = {**self.content, "gnd": [{**gnd, "easy": [0, 1, 2]}] * 2}
        self.flag = self.folder / "ran"
        self.seeds = [pickle.dumps(self.content, protocol=p) for p in (0, 2, 4)]
        self.seeds += [pickle.dumps(Evil(str(self.flag)), protocol=p) for p in (0, 2, 4)]

    def run(self, rng):
        from gtacli.probing.retrieval.revisited import read_ground_truth

        data = self.seeds[0]
        if rng is not None:
            if rng.random() < 0.4:
                data = mutate.json_bytes(mutate.of_json(self.plain, rng), rng)
            else:
                data = mutate.of_bytes(rng.choice(self.seeds), rng, self.seeds)
        path = self.write("gnd.pkl", data)
        try:
            read_ground_truth(path)
        finally:
            if self.flag.exists():
                self.flag.rmdir()
                raise AssertionError("CODE OF A PICKLE RAN")
