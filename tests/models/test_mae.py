"""Tests of the masked autoencoders against timm's own passes and the formulas."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.eva import Eva
from torch import Tensor, nn

from gtacli.errors import UsageError
from gtacli.models.mae import MaeMethod, MaskedAutoencoder, initialize_encoder
from gtacli.models.mae_decoders import CrossDecoder, SelfDecoder
from gtacli.models.patches import mask_order, patchify, sincos_positions, take

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {"img_size": 64}),
    "layer-scale": ("vit_tiny_patch16_224", {"img_size": 64, "init_values": 0.1}),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 64}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": 64}),
    "eva02": ("eva02_tiny_patch14_224", {"img_size": 56}),
    "rope-mixed": ("vit_small_patch16_rope_mixed_224", {"img_size": 64}),
    "pre-norm": ("vit_base_patch16_clip_224", {"img_size": 64}),
    "no-cls": ("vit_medium_patch16_gap_256", {"img_size": 64}),
    "not-square": ("vit_tiny_patch16_224", {"img_size": (64, 96)}),
    "dynamic": ("vit_tiny_patch16_224", {"img_size": 64, "dynamic_img_size": True}),
    "dynamic-rope": ("vit_small_patch16_dinov3", {"img_size": 64, "dynamic_img_size": True}),
}
DECODER = {"decoder_dim": 16, "decoder_depth": 3, "decoder_heads": 2}


def make(
    family: str = "plain", method: MaeMethod = "mae", **changes: Any
) -> tuple[MaskedAutoencoder, Tensor, Tensor]:
    """Create a small model with random weights, images and an order of their patches."""
    arch, kwargs = FAMILIES[family]
    torch.manual_seed(0)
    encoder = timm.create_model(arch, **{**SMALL, **kwargs})
    size = kwargs["img_size"]
    h, w = (96, 64) if "dynamic" in family else size if isinstance(size, tuple) else (size, size)
    model = MaskedAutoencoder(encoder, (h, w), method, **{**DECODER, **changes})
    for p in model.parameters():  # initial LayerScales and biases would hide errors
        if p.ndim == 1:
            nn.init.normal_(p, 0.5, 0.3)
    n = model.grid[0] * model.grid[1]
    return model, torch.randn(2, 3, h, w), mask_order(torch.rand(2, n))


class Keep(nn.Module):
    """A replacement of timm's patch dropout that keeps the given patches."""

    def __init__(self, keep: Tensor, prefix: int, with_indices: bool) -> None:
        super().__init__()
        self.keep, self.prefix, self.with_indices = keep, prefix, with_indices

    def forward(self, x: Tensor) -> Any:
        x = torch.cat([x[:, : self.prefix], take(x[:, self.prefix :], self.keep)], dim=1)
        return (x, self.keep) if self.with_indices else x


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_equals_timm_on_the_visible_patches(family: str) -> None:
    model, images, order = make(family)
    encoder, keep = model.encoder, order[:, : model.visible]
    mine = model.features(take(patchify(images, model.patch), keep), keep)
    encoder.patch_drop = Keep(keep, encoder.num_prefix_tokens, isinstance(encoder, Eva))
    expected = encoder.fc_norm(encoder.forward_features(images))
    assert len(mine) == 1
    torch.testing.assert_close(mine[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["mae", "crossmae"])
def test_every_trainable_parameter_gets_a_gradient(family: str, method: MaeMethod) -> None:
    """DDP waits for the gradients of all of them."""
    model, images, order = make(family, method)
    model(images, order).errors.mean().backward()
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in learning.items() if p.grad is None] == []
    assert any(name.startswith("encoder.blocks.0") for name in learning)


@pytest.mark.parametrize("family", ["plain", "registers", "no-cls", "not-square"])
@pytest.mark.parametrize("norm_pix", [True, False])
def test_mae_equals_its_formula(family: str, norm_pix: bool) -> None:
    """The published form: tokens in the grid, all patches predicted, the loss masked."""
    model, images, order = make(family, norm_pix=norm_pix)
    model, images = model.double(), images.double()
    decoder, prefix = model.decoder, model.encoder.num_prefix_tokens
    assert isinstance(decoder, SelfDecoder)
    n, k = order.shape[1], model.visible
    patches = patchify(images, model.patch)
    seen = decoder.embed(model.features(take(patches, order[:, :k]), order[:, :k])[0])
    x = torch.empty(2, prefix + n, 16, dtype=torch.float64)
    mask = torch.ones(2, n, dtype=torch.float64)
    for b in range(2):
        x[b, :prefix] = seen[b, :prefix]
        x[b, prefix:] = decoder.mask_token
        for i, place in enumerate(order[b, :k]):
            x[b, prefix + place] = seen[b, prefix + i]
            mask[b, place] = 0
        x[b, prefix:] += sincos_positions(model.grid, 16)
    for block in decoder.blocks:
        x = block(x)
    pixels = decoder.pixels(decoder.norm(x))[:, prefix:]
    target = patches
    if norm_pix:
        target = (patches - patches.mean(-1, keepdim=True)) / (
            patches.var(-1, keepdim=True) + 1e-6
        ) ** 0.5
    loss = ((((pixels - target) ** 2).mean(-1)) * mask).sum() / mask.sum()
    result = model(images, order)
    assert result.errors.dtype == torch.float32
    torch.testing.assert_close(result.errors.mean().double(), loss, atol=1e-6, rtol=1e-6)
    masked = order[:, k:]
    torch.testing.assert_close(result.pixels, take(pixels, masked), atol=1e-6, rtol=0)
    weights = dict(model.named_parameters())
    learning = [p for p in weights.values() if p.requires_grad]
    expected = torch.autograd.grad(loss, learning)
    for mine, theirs in zip(
        torch.autograd.grad(result.errors.mean(), learning), expected, strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_crossmae_equals_its_formula() -> None:
    model, images, order = make(method="crossmae")
    model, images = model.double(), images.double()
    decoder, keep = model.decoder, order[:, : model.visible]
    assert isinstance(decoder, CrossDecoder)
    layers = model.features(take(patchify(images, model.patch), keep), keep)
    assert len(layers) == 4  # the input of the first block and the outputs of three
    places = order[:, -decoder.predicted :]
    x = decoder.mask_token + decoder.positions[places]
    for j, (block, norm) in enumerate(zip(decoder.blocks, decoder.mix_norms, strict=True)):
        memory: Any = norm(sum(decoder.mix[j, i] * layer for i, layer in enumerate(layers)))
        heads = []
        k, v = block.kv(memory).chunk(2, -1)
        for q_h, k_h, v_h in zip(
            block.q(block.norm1(x)).chunk(2, -1), k.chunk(2, -1), v.chunk(2, -1), strict=True
        ):
            heads.append((q_h @ k_h.mT / 8**0.5).softmax(-1) @ v_h)
        x = x + block.proj(torch.cat(heads, -1))
        x = x + block.mlp(block.norm2(x))
    pixels = decoder.pixels(decoder.norm(x))
    torch.testing.assert_close(model(images, order).pixels, pixels, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("ratio", "predicted"), [(0.25, 4), (0.5, 8), (0.75, 12), (1.0, 12)])
def test_crossmae_predicts_subsets_independently(ratio: float, predicted: int) -> None:
    model, images, order = make(method="crossmae", predict_ratio=ratio)
    part = model(images, order)
    assert part.errors.shape == (2, predicted)
    model.decoder.predicted = 12
    torch.testing.assert_close(part.pixels, model(images, order).pixels[:, -predicted:])


@pytest.mark.parametrize("method", ["mae", "crossmae"])
def test_masked_pixels_have_no_effect(method: MaeMethod) -> None:
    model, images, order = make(method=method)
    before = model(images, order).pixels
    patches = patchify(images, model.patch)
    for b in range(2):
        patches[b, order[b, model.visible :]] = 9.0
    gh, gw = model.grid
    changed = patches.unflatten(-1, (16, 16, 3)).unflatten(1, (gh, gw))
    changed = changed.permute(0, 5, 1, 3, 2, 4).reshape_as(images)
    assert torch.equal(model(changed, order).pixels, before)


@pytest.mark.parametrize("method", ["mae", "crossmae"])
def test_checkpointing_changes_no_gradient(method: MaeMethod) -> None:
    model, images, order = make("dinov3", method)
    gradients = []
    for on in (False, True):
        model.encoder.set_grad_checkpointing(on)
        model.zero_grad()
        model(images, order).errors.mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-6, rtol=1e-5)


def test_errors_are_fp32_under_autocast() -> None:
    model, images, order = make()
    with torch.autocast("cpu", torch.bfloat16):
        result = model(images, order)
    assert result.errors.dtype == torch.float32
    torch.testing.assert_close(result.errors, model(images, order).errors, atol=0.1, rtol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"), [("plain", "mae"), ("dinov3", "mae"), ("plain", "crossmae")]
)
def test_forward_compiles_to_one_graph(family: str, method: MaeMethod) -> None:
    model, images, order = make(family, method)
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    torch.testing.assert_close(
        compiled(images, order).errors, model(images, order).errors, atol=1e-5, rtol=1e-4
    )


def test_initialized_encoder_has_fixed_positions() -> None:
    encoder = timm.create_model("vit_tiny_patch16_224", **SMALL, img_size=(64, 96))
    initialize_encoder(encoder)
    assert not encoder.pos_embed.requires_grad
    assert encoder.pos_embed[:, 0].abs().max() == 0
    torch.testing.assert_close(encoder.pos_embed[0, 1:].data, sincos_positions((4, 6), 24))
    assert encoder.blocks[0].attn.qkv.bias.abs().max() == 0
    bound = (6 / (24 + 72)) ** 0.5  # Xavier's bound for queries, keys and values as one matrix
    assert 0.95 * bound < encoder.blocks[0].attn.qkv.weight.abs().max() <= bound
    bound = (6 / (24 + 768)) ** 0.5
    assert 0.95 * bound < encoder.patch_embed.proj.weight.abs().max() <= bound


def test_saved_encoder_loads_in_timm() -> None:
    model, images, _ = make()
    other = timm.create_model("vit_tiny_patch16_224", **SMALL, img_size=64)
    other.load_state_dict(model.encoder.state_dict())
    assert torch.equal(other(images), model.encoder(images))


@pytest.mark.parametrize(
    ("arch", "options", "changes", "message"),
    [
        ("vit_tiny_patch16_224", {"pos_embed": "none"}, {}, "model: .*without position embeddings"),
        ("vit_tiny_patch16_224", {"patch_drop_rate": 0.5}, {}, "patch_drop"),
        ("vit_tiny_patch16_224", {"pos_drop_rate": 0.5}, {}, "pos_drop"),
        ("vit_tiny_r_s16_p8_224", {}, {}, "HybridEmbed"),
        ("swin_tiny_patch4_window7_224", {}, {}, "SwinTransformer"),
        ("vit_tiny_patch16_224", {}, {"image_size": (64, 70)}, "image_size: 64x70"),
        ("vit_tiny_patch16_224", {}, {"decoder_dim": 20, "decoder_heads": 3}, "decoder_dim: "),
        ("vit_tiny_patch16_224", {}, {"decoder_dim": 18, "decoder_heads": 2}, "decoder_dim: "),
    ],
)
def test_unsupported_encoders_and_sizes_are_rejected(
    arch: str, options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    encoder = timm.create_model(arch, num_classes=0, **options)
    with pytest.raises(UsageError, match=message):
        MaskedAutoencoder(encoder, **{"image_size": (224, 224), **changes})


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("method", ["mae", "crossmae"])
def test_reconstruction_has_the_scale_of_the_images(
    norm_pix: bool, method: MaeMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, order = make("not-square", method, norm_pix=norm_pix)
    patches = patchify(images, model.patch)

    def perfect(features: list[Tensor], order: Tensor, predicted: int) -> Tensor:
        target = take(patches, order[:, -predicted:])
        if norm_pix:
            target = (target - target.mean(-1, keepdim=True)) / (
                target.var(-1, keepdim=True) + 1e-6
            ).sqrt()
        return target

    torch.testing.assert_close(
        patchify(model.reconstruct(images, order), model.patch)[
            torch.arange(2)[:, None], order[:, : model.visible]
        ],
        take(patches, order[:, : model.visible]),
    )
    assert not torch.allclose(model.reconstruct(images, order), images, atol=0.1)
    monkeypatch.setattr(model.decoder, "forward", perfect)
    torch.testing.assert_close(model.reconstruct(images, order), images, atol=1e-4, rtol=1e-4)
