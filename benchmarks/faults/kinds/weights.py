"""Kinds of weights, and of the state of a run."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile

import mutate

from kinds.base import RUN, SMALL, Evil, Kind, main


class Safetensors(Kind):
    """Weights as a run leaves them."""

    def setup(self) -> None:
        self.data = (RUN / "model.safetensors").read_bytes()
        size = int.from_bytes(self.data[:8], "little")
        self.header = json.loads(self.data[8 : 8 + size])
        self.body = self.data[8 + size :]

    def run(self, rng):
        import torch

        from gtacli.models.loading import load_model

        data = self.data
        if rng is not None:
            kind = rng.choice(("bytes", "header", "header", "sizes", "nan", "length", "metadata"))
            header = self.header
            if kind == "bytes":
                data = mutate.of_bytes(self.data, rng, [self.data])
            elif kind == "header":
                data = self._with(mutate.of_json(header, rng), rng)
            elif kind == "sizes":
                header = json.loads(json.dumps(header))
                name = rng.choice([k for k in header if k != "__metadata__"])
                spot = rng.choice(("dtype", "shape", "data_offsets"))
                header[name][spot] = {
                    "dtype": rng.choice(
                        ("F16", "I8", "U8", "F64", "BF16", "BOOL", "F8_E4M3", "x", "I64")
                    ),
                    "shape": rng.choice(
                        ([], [0], [-1], [1 << 40], [1 << 62, 4], [192, 192], [1] * 70)
                    ),
                    "data_offsets": rng.choice(
                        ([0, 0], [0, 1 << 62], [5, 4], [-4, 4], [0, len(self.body)])
                    ),
                }[spot]
                data = self._with(header, rng)
            elif kind == "nan":
                body = bytearray(self.body)
                body[: rng.choice((4, 4000, len(body)))] = b"\xff" * rng.choice((4, 4000))
                data = self.data[: len(self.data) - len(self.body)] + bytes(body[: len(self.body)])
            elif kind == "length":
                data = rng.choice(mutate.INTS).to_bytes(8, "little") + self.data[8:]
            else:
                header = json.loads(json.dumps(header))
                header["__metadata__"] = (
                    {k: str(v) for k, v in mutate.of_json(header["__metadata__"], rng).items()}
                    if rng.random() < 0.5
                    else mutate.of_json(header["__metadata__"], rng)
                )
                meta = header["__metadata__"]
                if isinstance(meta, dict) and rng.random() < 0.7 and meta:
                    key = rng.choice(list(meta))
                    meta[key] = rng.choice(
                        (json.dumps(rng.choice(mutate.VALUES[:20])), rng.choice(mutate.TOKENS))
                    )
                data = self._with(header, rng)
        self.write("run/model.safetensors", data)
        model = load_model(str(self.folder / "run"))
        if any(not p.isfinite().all() for p in model.model.parameters()):
            return "weights that are not finite are taken without a word"
        with torch.inference_mode():
            model.model(torch.zeros(1, 3, *model.image_size))

    def _with(self, header, rng) -> bytes:
        try:
            text = json.dumps(header).encode("utf-8", "surrogatepass")
        except ValueError:
            text = b"{}"
        return len(text).to_bytes(8, "little") + text + self.body


class Pth(Kind):
    """Pickled weights: new zip format, legacy, tar of old, nested checkpoints, code."""

    def setup(self) -> None:
        import torch
        from safetensors.torch import load_file

        tensors = load_file(RUN / "model.safetensors")
        some = dict(list(tensors.items())[:6])
        self.seeds = []
        for payload in (
            some,
            {"teacher": some, "epoch": 3},
            {"state_dict": {"module." + k: v for k, v in some.items()}},
        ):
            for legacy in (False, True):
                file = io.BytesIO()
                torch.save(payload, file, _use_new_zipfile_serialization=not legacy)
                self.seeds.append(file.getvalue())

        self.flag = self.folder / "ran"
        self.evil = [pickle.dumps(Evil(str(self.flag)), protocol=p) for p in (0, 2, 4)]
        file = io.BytesIO(self.seeds[0])
        with zipfile.ZipFile(file) as archive:
            entries = {n: archive.read(n) for n in archive.namelist()}
        for evil in self.evil[1:]:
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w") as archive:
                for name, data in entries.items():
                    archive.writestr(name, evil if name.endswith("data.pkl") else data)
            self.seeds.append(out.getvalue())
        self.seeds += self.evil

    def run(self, rng):
        from gtacli.models.files import read_weights

        data = self.seeds[0] if rng is None else rng.choice(self.seeds)
        if rng is not None and rng.random() < 0.9:
            data = mutate.of_bytes(data, rng, self.seeds)
        path = self.write("case.pth", data)
        try:
            tensors, _ = read_weights(path)
            for value in tensors.values():
                value.sum()
        finally:
            if self.flag.exists():
                self.flag.unlink()
                raise AssertionError("CODE OF A PICKLE RAN")


class State(Kind):
    """state.pt, and what of a run is read to go on."""

    def setup(self) -> None:
        import torch

        self.names = ("state.pt", "run.json", "split.json", "metrics.jsonl")
        self.clean = {n: (SMALL / n).read_bytes() for n in self.names}
        self.state = torch.load(SMALL / "state.pt", weights_only=True)

    def run(self, rng):
        import torch

        for name, data in self.clean.items():
            self.write(f"run/{name}", data)
        shutil.copyfile(SMALL / "model.safetensors", self.folder / "run/model.safetensors")
        if rng is not None:
            kind = rng.choice(("bytes", "bytes", "keys", "progress", "json", "rows"))
            if kind == "bytes":
                self.write(
                    "run/state.pt",
                    mutate.of_bytes(self.clean["state.pt"], rng, [self.clean["state.pt"]]),
                )
            elif kind in ("keys", "progress", "rows"):
                state = dict(self.state)
                if kind == "keys":
                    key = rng.choice(list(state))
                    state[key] = rng.choice((None, {}, [], 3, "x", torch.zeros(2)))
                    if rng.random() < 0.3:
                        del state[key]
                elif kind == "progress":
                    state["progress"] = mutate.of_json(state["progress"], rng)
                else:
                    state["rows"] = json.dumps(
                        mutate.of_json(json.loads(state["rows"]), rng), default=str
                    )
                torch.save(state, self.folder / "run/state.pt")
            else:
                self._record(rng)
        return main(["finetune", "--resume", self.folder / "run", "--json"])

    def _record(self, rng):
        name = rng.choice(("run.json", "split.json"))
        value = mutate.of_json(json.loads(self.clean[name]), rng)
        self.write(f"run/{name}", mutate.json_bytes(value, rng))
