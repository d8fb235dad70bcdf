"""Kinds of weights in folders: shards with an index, adapters, and what a config.json describes."""

from __future__ import annotations

import json

import mutate

from kinds.base import Kind

ARCH = "vit_tiny_patch16_224"
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 32, "patch_size": 8}


def tiny(**more):
    import timm
    import torch

    torch.manual_seed(0)
    return timm.create_model(ARCH, num_classes=3, **TINY, **more)


class _Weights(Kind):
    """A folder of weights; one of its files is changed."""

    spec = "{}"

    def setup(self) -> None:
        self.files: dict[str, bytes] = {}
        self.build()

    def build(self) -> None: ...

    def add(self, name: str, value) -> None:
        """Add a file of tensors or of JSON."""
        from safetensors.torch import save

        json_file = name.endswith(".json")
        self.files[name] = json.dumps(value).encode() if json_file else save(value)

    def run(self, rng):
        import torch

        from gtacli.models.loading import load_model

        target = None if rng is None else rng.choice((*self.files, *self.texts()))
        for name, data in self.files.items():
            self.write(f"model/{name}", self.changed(data, rng) if name == target else data)
        loaded = load_model(self.spec.format(self.folder / "model"))
        model = loaded.model
        if any(not value.isfinite().all() for value in model.state_dict().values()):
            return "weights that are not finite are taken without a word"
        if sum(value.numel() for value in model.parameters()) > 10_000_000:
            return "a network much larger than its weights is built"
        with torch.inference_mode():
            model(torch.zeros(1, 3, *loaded.image_size))

    def texts(self) -> list[str]:
        return 3 * [name for name in self.files if name.endswith(".json")]

    @staticmethod
    def changed(data: bytes, rng) -> bytes:
        if data.startswith(b"{"):
            return mutate.json_bytes(mutate.of_json(json.loads(data), rng), rng)
        if rng.random() < 0.5:
            return mutate.of_bytes(data, rng, [data])
        size = int.from_bytes(data[:8], "little")
        text = json.dumps(mutate.of_json(json.loads(data[8 : 8 + size]), rng))
        head = text.encode("utf-8", "surrogatepass")
        return len(head).to_bytes(8, "little") + head + data[8 + size :]


class Shards(_Weights):
    """Two files of safetensors with an index, as the hub has large weights."""

    def build(self) -> None:
        tensors = tiny().state_dict()
        names = sorted(tensors)
        places = {n: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, n in enumerate(names)}
        for shard in sorted(set(places.values())):
            self.add(shard, {n: tensors[n] for n in names if places[n] == shard})
        index = {"metadata": {"total_size": 1234}, "weight_map": places}
        self.add("model.safetensors.index.json", index)
        config = {"architecture": ARCH, "num_classes": 3, "model_args": TINY}
        self.add("config.json", config)


class HubFolder(_Weights):
    """A folder of timm on the hub, read by timm (`local-dir:`) or by its path."""

    def build(self) -> None:
        self.add("model.safetensors", tiny().state_dict())
        inner = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 0.9}
        inner |= {"input_size": [3, 32, 32], "classifier": "head", "first_conv": "patch_embed.proj"}
        config = {"architecture": ARCH, "num_classes": 3, "pretrained_cfg": inner}
        self.add("config.json", config | {"model_args": TINY, "label_names": ["a", "b", "c"]})

    def run(self, rng):
        self.spec = "{}" if rng is None or rng.random() < 0.5 else "local-dir:{}"
        return super().run(rng)


class SavePretrained(_Weights):
    """A folder of transformers: its names of tensors, and two configs."""

    NAMES = (
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("cls_token", "embeddings.cls_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("blocks", "encoder.layer"),
        ("norm.", "layernorm."),
    )

    def build(self) -> None:
        import timm
        import torch

        torch.manual_seed(0)
        self.spec = "test_vit@{}"
        self.add("model.safetensors", dict(self._renamed(timm.create_model("test_vit"))))
        config = {"model_type": "vit", "num_attention_heads": 2, "hidden_size": 64}
        names = {"id2label": {str(i): f"class {i}" for i in range(1000)}}
        self.add("config.json", config | names)
        images = {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.4] * 3}
        self.add("preprocessor_config.json", images | {"size": {"height": 160, "width": 160}})

    def _renamed(self, model):
        for name, value in model.state_dict().items():
            for ours, theirs in self.NAMES:
                name = name.replace(ours, theirs)
            if name.startswith("head."):
                yield name.replace("head", "classifier"), value
            elif ".attn.qkv." in name:
                for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    place = name.replace("attn.qkv", f"attention.attention.{part}")
                    yield f"vit.{place}", third.contiguous()
            else:
                yield f"vit.{name}", value


class Adapter(_Weights):
    """Low-rank adapters and their config, on a network that is not changed."""

    def build(self) -> None:
        from safetensors.torch import save_file
        from torch import nn

        from gtacli.models.adapters import adapter_config, adapter_tensors
        from gtacli.models.lora import adapted_layers, add_adapters

        base = tiny()
        header = {"architecture": ARCH, "kwargs": json.dumps(TINY), "num_classes": "3"}
        save_file(base.state_dict(), self.folder / "base.safetensors", header)
        add_adapters(base, 2, 0)
        for _, layer in adapted_layers(base):
            nn.init.normal_(layer.lora_B, std=0.1)
        tensors = {k: v.detach().contiguous() for k, v in adapter_tensors(base).items()}
        self.add("adapter.safetensors", tensors)
        self.add("adapter_config.json", adapter_config(base, "base"))
        self.spec = f"{self.folder / 'base.safetensors'}+{{}}"
