"""Kinds of run folders, and recipes."""

from __future__ import annotations

import json
import shutil

import mutate

from kinds.base import PRERUN, RUN, SMALL, Kind, main


class Toml(Kind):
    """Recipes and studies."""

    def setup(self) -> None:
        from gtacli.config import recipes

        self.texts = [recipe.text for recipe in recipes.shipped().values()]

    def run(self, rng):
        text = self.texts[0] if rng is None else rng.choice(self.texts)
        command = "pretrain" if 'command = "pretrain"' in text else "finetune"
        study = text.startswith("# gta study ")
        data = text.encode()
        if rng is not None:
            text = mutate.of_text(text, rng)
            data = mutate.text_bytes(text)
            if rng.random() < 0.2:
                data = mutate.of_bytes(data, rng, [data])
        file = self.write("case.toml", data)
        if study:
            return main(["study", "run", file, "--dry-run"])
        return main([command, "--recipe", file, "--print-config"])


class RunFolder(Kind):
    """run.json, split.json, metrics.jsonl, summary.json, predictions.json of a run in a report."""

    names = ("run.json", "split.json", "metrics.jsonl", "summary.json")
    source = RUN

    def setup(self) -> None:
        self.clean = {
            n: (self.source / n).read_bytes() for n in self.names if (self.source / n).is_file()
        }

    def run(self, rng):
        place = self.folder / "run"
        for name, data in self.clean.items():
            if rng is not None and rng.random() < 0.6:
                if name.endswith("l"):
                    rows = [json.loads(x) for x in data.decode().splitlines()]
                    value = mutate.of_json(rows, rng)
                    rows = value if isinstance(value, list) else [value]
                    data = mutate.text_bytes(
                        "\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
                    )
                    if rng.random() < 0.2:
                        data = mutate.of_bytes(data, rng, [data])
                else:
                    data = mutate.json_bytes(mutate.of_json(json.loads(data), rng), rng)
            self.write(f"run/{name}", data)
        status = main(["report", place, "--no-images", "-o", self.folder / "report.html"])
        if status == 0 and (self.folder / "report.html").is_file():
            text = (self.folder / "report.html").read_text("utf-8", "surrogateescape")
            for bad in ("<img src=x onerror", "<script>alert(1)"):
                if bad in text:
                    return "HTML of a run gets into the page: " + bad
        return status


class PreRunFolder(RunFolder):
    source = PRERUN


class Probe(RunFolder):
    """A folder of probes."""

    def setup(self) -> None:
        share = {"10": 0.5, "20": 0.6}
        result = {
            "task": "knn",
            "model": "demo",
            "reference": None,
            "data": "demo",
            "features": "cls",
            "layer": [11],
            "image_size": [96, 96],
            "knn": share,
            "knn_interval": {k: [0.4, 0.7] for k in share},
            "top5": 0.9,
            "top5_interval": [0.8, 0.95],
            "n_train": 10,
            "n_test": 10,
            "test_part": "test",
            "seconds": 1.0,
        }
        other = {
            **result,
            "model": "b",
            "reference": "demo",
            "compared": {
                "top5": {"difference": 0.1, "interval": [0, 0.2], "p": 0.5},
                "knn@10": {"difference": 0.1, "interval": [0, 0.2], "p": 0.5},
            },
        }
        self.clean = {
            "run.json": json.dumps(
                {"command": "probe knn", "config": {}, "argv": ["gta"]}
            ).encode(),
            "summary.json": json.dumps({"results": [result, other]}).encode(),
        }


class Split(Kind):
    """split.json and predictions.json, in a report with images."""

    def setup(self) -> None:
        self.clean = {
            n: (SMALL / n).read_bytes()
            for n in ("run.json", "split.json", "metrics.jsonl", "summary.json")
        }

    def run(self, rng):
        for name, data in self.clean.items():
            if rng is not None and name == "split.json":
                data = mutate.json_bytes(mutate.of_json(json.loads(data), rng), rng)
            if rng is not None and name == "run.json" and rng.random() < 0.5:
                data = mutate.json_bytes(mutate.of_json(json.loads(data), rng), rng)
            self.write(f"run/{name}", data)
        shutil.copyfile(SMALL / "model.safetensors", self.folder / "run/model.safetensors")
        if rng is not None:
            value = {"of": "x", "top1": {"a": [1, 0.5]}}
            self.write("run/predictions.json", mutate.json_bytes(mutate.of_json(value, rng), rng))
        return main(["report", self.folder / "run", "-o", self.folder / "report.html"])
