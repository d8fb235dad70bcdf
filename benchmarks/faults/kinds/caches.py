"""Kinds of cached maps, journals, features and settings."""

from __future__ import annotations

import json
import shutil

import mutate

from kinds.base import MAPS, Kind, main


class MapCache(Kind):
    """A cache of discover: manifest, maps, sightings, journal."""

    def run(self, rng):
        place = self.folder / "maps"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(MAPS, place)
        if rng is not None:
            files = sorted(p for p in place.rglob("*") if p.is_file())
            path = rng.choice(files)
            data = path.read_bytes()
            if path.name == "manifest.json" and rng.random() < 0.8:
                path.write_bytes(mutate.json_bytes(mutate.of_json(json.loads(data), rng), rng))
            else:
                data = mutate.of_bytes(data, rng, [data])
                path.write_bytes(data)
                if rng.random() < 0.6 and path.suffix == ".npy":  # a name that fits the damage
                    from gtacli.discovery.maps.digests import digest

                    path.rename(path.with_name(f"{digest(data).hex()}.npy"))
        return main(["maps", rng.choice(("stats", "verify")) if rng else "stats", place])


class Journal(Kind):
    """The journal of a killed discover."""

    def run(self, rng):
        import numpy as np

        from gtacli.discovery.maps.files import maps_type
        from gtacli.discovery.maps.journal import Journal as Real

        kind = maps_type((7, 7))
        path = self.folder / "journal-0-of-1"
        path.unlink(missing_ok=True)
        journal = Real(path, kind)
        generator = np.random.default_rng(0)
        for count in (3, 5, 1):
            rows = np.zeros(count, kind)
            rows["map"] = generator.integers(0, 255, (count, 7, 7))
            journal.append(rows)
        journal.close(remove=False)
        data = path.read_bytes()
        if rng is not None:
            path.write_bytes(mutate.of_bytes(data, rng, [data]))
        journal = Real(path, kind)
        read = b"".join(b.tobytes() for b in journal.replay())
        journal.close(remove=False)
        return None if len(read) <= 4 * len(data) else "more rows than the file holds"


class Calibration(Kind):
    """The kept choice of TokenCut's block and tau."""

    def run(self, rng):
        from gtacli.discovery import calibration

        value = {"blocks": [6], "tau": 0.4, "iou": 0.59}
        data = (
            json.dumps(value).encode()
            if rng is None
            else mutate.json_bytes(mutate.of_json(value, rng), rng)
        )
        file = self.write("choice.json", data)
        choice = calibration.read_calibration(file, range(12), calibration.TAUS)
        if choice is None:
            return None
        if (
            not isinstance(choice.layer, int)
            or isinstance(choice.layer, bool)
            or not 0 <= choice.layer < 12
        ):
            return "a damaged choice is taken (layer)"
        if not isinstance(choice.tau, float) or not 0 < choice.tau < 1:
            return "a damaged choice is taken (tau)"


class Features(Kind):
    """Kept features of a probe."""

    def setup(self) -> None:
        import torch

        from gtacli.probing.features.cache import FeatureCache
        from gtacli.probing.features.files import FeatureKey
        from gtacli.runtime.devices import choose_compute
        from gtacli.runtime.tensor_file import write_tensor_file

        self.kind = FeatureKey(
            model="demo",
            fingerprint="f",
            image_size=(96, 96),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            precision="float32",
            layer=3,
            pool="cls",
            data="d",
        )
        tensors = {
            "values": torch.randn(20, 8, generator=torch.Generator().manual_seed(0)),
            "rows": torch.arange(20),
            "labels": torch.zeros(20, dtype=torch.int64),
            "keys": torch.zeros(4, dtype=torch.uint8),
        }
        metadata = {"kind": self.kind.model_dump_json(), "skipped": "{}"}
        path = self.folder / "clean"
        write_tensor_file(path, tensors, metadata, seal=True)
        self.data = path.read_bytes()
        size = int.from_bytes(self.data[:8], "little")
        self.header, self.body = json.loads(self.data[8 : 8 + size]), self.data[8 + size :]
        self.cache = FeatureCache(self.folder, choose_compute("cpu", "fp32"))

    def run(self, rng):
        data = self.data
        if rng is not None:
            if rng.random() < 0.5:
                data = mutate.of_bytes(data, rng, [data])
            else:
                header = mutate.of_json(self.header, rng)
                if rng.random() < 0.5 and isinstance(header, dict):
                    header["__metadata__"] = rng.choice(
                        (
                            None,
                            {},
                            {"kind": "{}", "skipped": "[]"},
                            {
                                "kind": self.kind.model_dump_json(),
                                "skipped": rng.choice(("[]", '{"a": 1}', "3")),
                            },
                        )
                    )
                text = json.dumps(header).encode("utf-8", "surrogatepass")
                data = len(text).to_bytes(8, "little") + text + self.body
        self.write(f"{self.kind.digest}.safetensors", data)
        stored = self.cache._open(self.kind)
        if stored is None:
            return None
        if len(stored.values) != len(stored.rows):
            return "features whose rows do not fit are taken"
        if not stored.values.isfinite().all():
            return "features that are not finite are taken"
        if (
            rng is not None
            and data != self.data
            and (stored.values.numpy().tobytes() not in self.data)
        ):
            return "changed features are taken (no checksum)"
