"""Test-time registers: the formula, their place among the tokens, and what they leave unchanged."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn

from gtacli.errors import UsageError
from gtacli.models import positions, timm_blocks
from gtacli.models.feature_columns import PooledFeatures, select_columns
from gtacli.models.fingerprint import fingerprint
from gtacli.models.matching import require_same
from gtacli.models.registers import Registers, add_registers, registers_of, remove_registers
from gtacli.models.rollout import rollout
from gtacli.models.tap import Request, TappedViT, attention

NEURONS = Registers({0: (3, 17), 2: (5,)}, 2)


def vit(**kwargs: Any) -> Any:
    torch.manual_seed(0)
    size = {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **{**size, **kwargs}).eval()


def eva() -> Any:
    torch.manual_seed(0)
    name = "eva02_tiny_patch14_336"  # rotary, with SwiGLU
    return timm.create_model(name, img_size=56, depth=3, num_classes=5).eval()


def images(size: int = 64, count: int = 3) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def plain_formula(model: Any, batch: Tensor, registers: Registers) -> Tensor:
    """Return the final tokens: image by image, the appended tokens last."""
    final = []
    for image in batch:
        x = model._pos_embed(model.patch_embed(image[None]))[0]
        x = torch.cat([x, torch.zeros(registers.tokens, x.shape[1])])
        for layer, block in enumerate(model.blocks):
            x = x + block.attn(block.norm1(x)[None])[0]
            a = block.mlp.act(block.mlp.fc1(block.norm2(x)))
            for neuron in registers.neurons.get(layer, ()):
                largest = max(a[:, neuron].tolist(), key=abs)
                a[1 : -registers.tokens, neuron] = 0
                a[-registers.tokens :, neuron] = largest
            x = x + block.mlp.fc2(a)
        final.append(model.norm(x))
    return torch.stack(final)


@torch.no_grad()
def test_the_tokens_are_those_of_the_plain_formula() -> None:
    model, batch = vit(), images()
    for parameter in model.parameters():
        parameter.mul_(3)  # else the neurons of a random network change next to nothing
    before = model.forward_features(batch)
    wanted = plain_formula(model, batch, NEURONS)
    add_registers(model, NEURONS)
    found = model.forward_features(batch)
    order = [0, *range(17, 19), *range(1, 17)]
    torch.testing.assert_close(found, wanted[:, order], atol=1e-5, rtol=1e-5)
    assert (found[:, 3:] - before[:, 1:]).abs().max() > 1e-3


@pytest.mark.parametrize("make", [vit, eva])
@torch.no_grad()
def test_the_tap_returns_what_the_model_itself_computes(make: Any) -> None:
    model = make()
    batch = images(model.patch_embed.img_size[0])
    add_registers(model, NEURONS)
    tapped = TappedViT(model, Request((0, 2), rows="all", hidden=(2,)))
    outputs = tapped.unpack(tapped(batch), batch.shape)
    torch.testing.assert_close(outputs.logits, model(batch), atol=1e-5, rtol=1e-5)
    tap = outputs.taps[2]
    assert tap.num_prefix_tokens == 3
    assert tap.maps().shape[-2:] == tap.grid
    assert tap.patch_keys().shape[1] == tap.grid[0] * tap.grid[1]
    assert rollout(model, batch).shape[-2:] == tap.grid


@torch.no_grad()
def test_pooled_patches_are_without_the_appended_tokens() -> None:
    model, batch = vit(global_pool="avg"), images()
    add_registers(model, NEURONS)
    tokens = model.forward_features(batch)
    wanted = model.fc_norm(tokens[:, 3:].mean(1))
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), wanted)
    cls = vit()
    add_registers(cls, NEURONS)
    columns = select_columns(cls, "mean")
    (mean,) = PooledFeatures(cls, columns)(batch)
    torch.testing.assert_close(mean, cls.forward_features(batch)[:, 3:].mean(1))


@torch.no_grad()
def test_weights_stay_and_removed_registers_leave_nothing() -> None:
    model, batch = vit(), images()
    before, state, digest = model(batch), deepcopy(model.state_dict()), fingerprint(model)
    kind, names = type(model), [name for name, _ in model.named_modules()]
    add_registers(model, NEURONS)
    assert model.state_dict().keys() == state.keys()
    model.load_state_dict(state)
    assert not torch.equal(model(batch), before)
    with pytest.raises(UsageError, match="has test-time registers"):
        add_registers(model, NEURONS)
    remove_registers(model)
    assert type(model) is kind
    assert [name for name, _ in model.named_modules()] == names
    assert not any(module._forward_hooks for module in model.modules())
    assert fingerprint(model) == digest
    assert torch.equal(model(batch), before)


def test_the_fingerprint_depends_on_neurons_and_tokens() -> None:
    digests = {fingerprint(vit())}
    for registers in (NEURONS, Registers(NEURONS.neurons, 1), Registers({0: (3, 18)}, 2)):
        model = vit()
        add_registers(model, registers)
        digests.add(fingerprint(model))
    assert len(digests) == 4


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch() -> None:
    model, batch = vit(), images()
    add_registers(model, NEURONS)
    alone = torch.cat([model(image[None]) for image in batch])
    torch.testing.assert_close(model(batch), alone)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model(batch)).all()


def test_gradients_pass_through_the_appended_tokens() -> None:
    model, batch = vit(act_layer=nn.ReLU), images()  # its gradient reads its output
    add_registers(model, NEURONS)
    model(batch).sum().backward()
    assert model.blocks[0].mlp.fc1.weight.grad[3].abs().sum() > 0
    assert torch.isfinite(model.blocks[0].mlp.fc1.weight.grad).all()


@pytest.mark.parametrize("method", ["timm", "dino"])
@torch.no_grad()
def test_positions_of_any_size(method: Any) -> None:
    """The appended token has no position, and timm counts only those with one."""
    model, batch = vit(dynamic_img_size=True), images(96)
    positions.set_resize_method(model, method)
    plain, _ = timm_blocks.embed(model, batch)
    add_registers(model, NEURONS)
    tokens, _ = timm_blocks.embed(model, batch)
    assert torch.equal(tokens[:, [0, *range(3, 39)]], plain)
    assert not tokens[:, 1:3].any()
    assert attention(model, batch)[0].maps().shape[-2:] == (6, 6)


@torch.no_grad()
def test_hidden_tokens_are_in_no_value_of_the_tap() -> None:
    """So a source with registers can be compared with a target without them."""
    shown, source, batch = vit(), vit(), images()
    add_registers(shown, NEURONS)
    add_registers(source, NEURONS, hidden=True)
    keep = [0, *range(3, 19)]
    for rows in ("cls", "all"):
        request = Request((1,), cast(Any, rows), msa=(1,), hidden=(1,))
        values = []
        for model in (shown, source):
            tapped = TappedViT(model, request)
            values.append(tapped.unpack(tapped(batch), batch.shape))
        one, other = values[0].taps[1], values[1].taps[1]
        assert other.num_prefix_tokens == 1
        wanted = one.logits[..., keep] if rows == "cls" else one.logits[:, :, keep][..., keep]
        assert torch.equal(other.logits, wanted)
        assert torch.equal(values[1].msa[1], values[0].msa[1][:, keep])
        assert torch.equal(values[1].hidden[1], values[0].hidden[1][:, keep])
    require_same(vit(), source, "this", "prefix tokens")
    with pytest.raises(UsageError):
        require_same(vit(), shown, "this", "prefix tokens")


def test_a_copy_has_its_own_registers() -> None:
    model = vit()
    add_registers(model, NEURONS)
    copy = deepcopy(model)
    remove_registers(copy)
    assert registers_of(model) == NEURONS
    assert registers_of(copy) is None
