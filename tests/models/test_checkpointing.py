"""Tests of gradient checkpointing of tapped blocks: the same gradients, less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from gtacli.models.tap import Request, TappedViT, TapTensors

ALL = tuple(range(6))
REQUESTS = {
    "nothing": Request(),
    "cls": Request(ALL),
    "some": Request((1, 5), msa=(2,), hidden=(0, 5), features=True),
    "all rows": Request(ALL, "all"),
}
MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"drop_path_rate": 0.5, "proj_drop_rate": 0.1},
    "vit_small_patch16_dinov3": {"drop_path_rate": 0.5},
    "eva02_tiny_patch14_224": {"patch_size": 16},
    "vit_base_patch16_reg4_gap_256": {"qk_norm": True},
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    size = {"embed_dim": 48, "depth": 6, "num_heads": 3, "img_size": 64}
    return timm.create_model(name, num_classes=5, **{**size, **MODELS[name]})


def loss(outputs: TapTensors) -> Tensor:
    parts = (outputs.row, outputs.q, outputs.k, outputs.msa, outputs.hidden)
    assert outputs.logits is not None
    return outputs.logits.square().mean() + sum(v.square().mean() for p in parts for v in p)


class Live(TorchDispatchMode):
    """A counter of bytes of tensors created under it that still exist, without the weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = {p.untyped_storage()._cdata for p in model.parameters()}
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self.weights:
                    self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def bytes(self) -> int:
        return sum(nbytes for ref, nbytes in self.storages.values() if not ref.expired())


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_keeps_values_and_gradients(name: str, request_name: str) -> None:
    model = build(name).train()
    tapped = TappedViT(model, REQUESTS[request_name])
    images = torch.randn(2, 3, 64, 64)
    found = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)  # type: ignore[operator]
        model.zero_grad()
        torch.manual_seed(1)  # the same random draws of drop path and dropout
        outputs = tapped(images)
        loss(outputs).backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((outputs, grads))
    (plain, expected), (checked, grads) = found
    for a, b in zip(plain, checked, strict=True):
        for x, y in zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]:
            assert (x is None and y is None) or torch.equal(x, y)
    assert grads.keys() == expected.keys()
    for key, value in grads.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("request_name", "most"), [("nothing", 0.15), ("cls", 0.25)])
def test_checkpointing_saves_memory(request_name: str, most: float) -> None:
    model = build("vit_tiny_patch16_224").train()
    tapped = TappedViT(model, REQUESTS[request_name])
    images = torch.randn(4, 3, 64, 64)
    kept = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)  # type: ignore[operator]
        with Live(model) as live:
            value = loss(tapped(images))
            kept.append(live.bytes())
        value.backward()
    assert kept[1] < most * kept[0]


@pytest.mark.slow
def test_compiled_as_one_graph() -> None:
    model = build("vit_tiny_patch16_224").eval()
    model.set_grad_checkpointing()  # type: ignore[operator]
    tapped = TappedViT(model, REQUESTS["some"])
    torch._dynamo.reset()
    compiled = torch.compile(tapped, backend="aot_eager", fullgraph=True, dynamic=False)
    images = torch.randn(2, 3, 64, 64)
    grads = []
    for run in (tapped, compiled):
        model.zero_grad()
        loss(run(images)).backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
