"""Tests of the calibration of TokenCut's layer and tau, and of its cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gtacli.config.parts import TokenCutOptions
from gtacli.discovery import calibration
from gtacli.discovery.build import make_backend
from gtacli.discovery.calibration import (
    MaskedImages,
    MaskMethod,
    Setting,
    cached_calibration,
    calibrate,
    draw_scenes,
    total_iou,
)
from gtacli.discovery.tokencut import TokenCut, is_dino, joint_keys, tokencut_method
from gtacli.errors import UsageError
from gtacli.models import load_model
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import Tap

GRID = (8, 8)
SEED = tokencut_method(1e-5, "seed")
CENTER = tokencut_method(1e-5, "center")


@pytest.fixture
def model(tiny_model: Path) -> LoadedModel:
    return load_model(str(tiny_model))


def truth() -> NDArray[np.bool_]:
    mask = np.zeros((64, 64), bool)
    mask[16:40, 24:56] = True  # 3 x 4 patches
    return mask


def keys(kind: str) -> torch.Tensor:
    """Return keys (1, 64, 16) of an object on a background, or of a failure."""
    g = torch.Generator().manual_seed(0)
    inside = torch.from_numpy(truth()[::8, ::8].copy()).flatten()
    noise = 0.3 * torch.randn(64, 16, generator=g)
    object_, ground = torch.eye(16)[0], torch.eye(16)[1]
    clear = torch.where(inside[:, None], object_, ground) + noise / 4
    if kind == "collapsed":  # all patches are equal
        return (ground + noise / 20)[None]
    if kind == "outliers":  # a few patches without similar ones
        clear = clear.clone()
        clear[[0, 63]] = torch.eye(16)[[5, 5]] * 40
        return torch.where(inside[:, None], ground + noise / 20, clear)[None]
    return clear[None]


class Blocks:
    """Replace the network's attention by blocks with these keys."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
        def attention(_: Any, images: torch.Tensor, layers: Any, rows: str) -> Iterator[Tap]:
            assert rows == "all"
            for layer in layers:
                k = keys(kinds[layer]).expand(len(images), -1, -1)[:, None]
                yield Tap(layer, GRID, 0, 1.0, q=k, k=k)

        monkeypatch.setattr(calibration, "attention", attention)


def batch(images: int) -> MaskedImages:
    return torch.zeros(images, 3, 64, 64), [truth()] * images


def test_clear_object_beats_collapsed_keys_and_outliers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Blocks(monkeypatch, "collapsed", "outliers", "clear")
    pairs: list[Setting] = [((layer,), tau) for layer in range(3) for tau in (0.2, 0.6)]
    sums = total_iou(SimpleNamespace(model=None), pairs, [batch(2), batch(1)], SEED)  # type: ignore[arg-type]
    assert sums[(2,), 0.2] == pytest.approx(3)  # three images with IoU 1
    assert max(sums[pair] for pair in pairs if pair[0][0] < 2) < 1


@pytest.mark.parametrize("wanted", [((0,), 0.3), ((2,), 0.1), ((1,), 0.9)])
def test_best_on_all_scenes_is_chosen(
    monkeypatch: pytest.MonkeyPatch, model: LoadedModel, wanted: Setting
) -> None:
    """The first scenes only select the pairs for the other scenes."""
    seen: list[tuple[int, int]] = []

    def found(
        _: Any, pairs: list[Setting], scenes: range, method: MaskMethod
    ) -> dict[Setting, float]:
        seen.append((len(pairs), len(scenes)))
        late = scenes.start > 0
        return {p: len(scenes) * (0.5 + 0.2 * (p == wanted) * (1 if late else 0.1)) for p in pairs}

    monkeypatch.setattr(calibration, "total_iou", found)
    monkeypatch.setattr(calibration, "draw_scenes", lambda _, scenes: scenes)
    best = calibrate(model, SEED, range(3), calibration.TAUS)
    assert (best.blocks, best.tau) == wanted
    assert best.iou == pytest.approx(0.5 + 0.2 * (8 * 0.1 + 16) / 24)
    assert seen == [(33, 8), (16, 16)]


def test_scenes_have_the_models_size_and_normalization(tiny_model: Path) -> None:
    model = load_model(str(tiny_model), image_size=(32, 64))
    (images, truths), (last, _) = draw_scenes(model, range(5))
    assert images.shape == (4, 3, 32, 64)
    assert last.shape == (1, 3, 32, 64)
    assert [mask.shape for mask in truths] == [(64, 64)] * 4
    image, mask = calibration.draw_trial(2, 64)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    torch.testing.assert_close(images[2:3], model.view(torch.device("cpu"))(pixels))
    assert np.array_equal(truths[2], mask)


def test_cache_key_depends_on_weights_and_size(
    own_cache: Path,
    tiny_model: Path,
    model: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    calls = []
    real = calibration.calibrate
    monkeypatch.setattr(calibration, "SCENES", 9)
    monkeypatch.setattr(calibration, "calibrate", lambda *a: calls.append(1) or real(*a))
    first = cached_calibration(model, SEED, range(3), (0.1, 0.2))
    assert "choosing layer and tau" in caplog.text
    caplog.clear()
    assert cached_calibration(load_model(str(tiny_model)), SEED, range(3), (0.1, 0.2)) == first
    assert len(calls) == 1
    (line,) = caplog.messages[-1:]
    assert f"layer {first.layer}, tau {first.tau:g} at 32x32 px (cached" in line

    cached_calibration(load_model(str(tiny_model), image_size=48), SEED, range(3), (0.1, 0.2))
    assert len(calls) == 2
    with torch.no_grad():
        model.model.blocks[0].attn.qkv.weight[0, 0] += 1e-3  # type: ignore[index, union-attr]
    cached_calibration(model, SEED, range(3), (0.1, 0.2))
    assert len(calls) == 3
    cached_calibration(model, SEED, (1,), (0.1, 0.2))
    cached_calibration(model, SEED, (1,), (0.1, 0.3))
    cached_calibration(model, tokencut_method(1e-4, "seed"), (1,), (0.1, 0.3))
    cached_calibration(model, tokencut_method(1e-4, "center"), (1,), (0.1, 0.3))
    assert len(calls) == 7
    monkeypatch.setattr(calibration, "VERSION", -1)
    cached_calibration(model, SEED, (1,), (0.1, 0.3))
    assert len(calls) == 8
    assert len(list((own_cache / "tokencut").iterdir())) == 8  # and nothing temporary


@pytest.mark.parametrize("text", ["", "{", "[]", '{"blocks": [1]}', "\xff"])
def test_damaged_cache_file_is_ignored(own_cache: Path, model: LoadedModel, text: str) -> None:
    first = cached_calibration(model, SEED, (0, 1), (0.2,))
    (file,) = (own_cache / "tokencut").iterdir()
    file.write_bytes(text.encode("latin-1"))
    assert cached_calibration(model, SEED, (0, 1), (0.2,)) == first
    assert json.loads(file.read_text())["blocks"] == [*first.blocks]


def test_unwritable_cache_is_logged(
    own_cache: Path, model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    own_cache.write_text("a file where the folder should be")
    cached_calibration(model, SEED, (0,), (0.2, 0.3))
    assert "cannot write" in caplog.text


@pytest.mark.parametrize(
    "asked",
    [{"vote": "none"}, {"layer": "auto", "tau": 0.2}, {"layer": -2, "tau": "auto"}, {"layer": 1}],
)
@pytest.mark.usefixtures("own_cache")
def test_backend_options_are_resolved_to_numbers(model: LoadedModel, asked: dict[str, Any]) -> None:
    options = make_backend("tokencut", asked, model).options.model_dump()
    assert type(options["layer"]) is int
    assert type(options["tau"]) is float
    layers = (asked["layer"] % 3,) if isinstance(asked.get("layer"), int) else range(3)
    taus = (asked["tau"],) if isinstance(asked.get("tau"), float) else calibration.TAUS
    assert options["side"] == "center"
    best = calibrate(model, CENTER, layers, taus)
    assert options["vote"] == []
    assert (options["layer"] % 3, options["tau"]) == (best.layer, best.tau)


def test_given_numbers_need_no_calibration(
    own_cache: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "calibrate", lambda *_: pytest.fail("chosen"))
    options = make_backend("tokencut", {"layer": -2, "tau": 0.3}, model).options
    assert (options.layer, options.tau) == (-2, 0.3)
    assert not own_cache.exists()


def two_blocks(*kinds: torch.Tensor) -> list[Tap]:
    return [Tap(i, GRID, 0, 1.0, q=k[:, None], k=k[:, None]) for i, k in enumerate(kinds)]


def test_voting_blocks_connect_by_the_mean_of_their_cosines() -> None:
    one, two = (torch.randn(1, 64, c, generator=torch.Generator().manual_seed(c)) for c in (5, 9))
    f = joint_keys(two_blocks(3 * one, two))[0].numpy()
    f = f / np.linalg.norm(f, axis=1, keepdims=True)
    cosines = []
    for keys_ in (one[0].numpy(), two[0].numpy()):
        unit = keys_ / np.linalg.norm(keys_, axis=1, keepdims=True)
        cosines.append(unit @ unit.T)
    np.testing.assert_allclose(f @ f.T, (cosines[0] + cosines[1]) / 2, atol=1e-5)


def test_votes_beat_the_single_blocks_or_are_not_chosen(
    monkeypatch: pytest.MonkeyPatch, model: LoadedModel
) -> None:
    """The pair of good blocks is tried at their tau and at the mean, on four times the scenes."""
    counts: list[int] = []

    def run(pair_score: float) -> calibration.Calibration:
        def found(
            _: Any, settings: list[Setting], scenes: range, method: MaskMethod
        ) -> dict[Setting, float]:
            counts.append(len(scenes))

            def score(blocks: tuple[int, ...], tau: float) -> float:
                if len(blocks) > 1:
                    return pair_score if (blocks, tau) == ((0, 2), 0.3) else 0.1
                return 0.5 if (blocks, tau) in (((0,), 0.2), ((2,), 0.4)) else 0.2

            return {s: len(scenes) * score(*s) for s in settings}

        monkeypatch.setattr(calibration, "total_iou", found)
        monkeypatch.setattr(calibration, "draw_scenes", lambda _, scenes: scenes)
        return calibrate(model, CENTER, range(3), calibration.TAUS, vote=True)

    voted = run(0.6)
    assert (voted.blocks, voted.tau) == ((0, 2), 0.3)
    assert voted.iou == pytest.approx(0.6)
    assert counts == [8, 16, 24, 72]
    alone = run(0.49)
    assert (alone.blocks, alone.tau) == ((0,), 0.2)
    assert alone.iou == pytest.approx(0.5)


@pytest.mark.usefixtures("own_cache")
def test_given_blocks_vote(model: LoadedModel) -> None:
    backend = make_backend("tokencut", {"vote": "-1,0"}, model)
    options = backend.options
    assert options.vote == (0, 2)
    assert options.layer == 2
    assert options.tau in calibration.TAUS
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = backend.find(images)
    taps = calibration.attention(model.model, images, (0, 2), rows="all")
    assert found.masks is not None
    assert torch.equal(found.masks, CENTER.masks(taps, options.tau))


@pytest.mark.usefixtures("own_cache")
def test_auto_may_choose_a_vote(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    best = calibration.Calibration(blocks=(0, 2), tau=0.3, iou=0.5, scenes=96)
    monkeypatch.setattr(calibration, "calibrate", lambda *_: best)
    options = make_backend("tokencut", {}, model).options
    assert (options.layer, options.tau, options.vote) == (2, 0.3, (0, 2))


def test_dinos_weights_use_the_papers_values(
    own_cache: Path, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "calibrate", lambda *_: pytest.fail("chosen"))
    official = replace(model, report=replace(model.report, layout="DINO"))
    options = make_backend("tokencut", {}, official).options
    assert (options.layer, options.tau, options.side) == (-1, 0.2, "seed")
    assert options.vote == ()
    assert make_backend("tokencut", {"side": "center"}, official).options.side == "center"
    options = make_backend("tokencut", {"layer": -2}, official).options
    assert (options.layer, options.tau) == (-2, 0.2)
    assert not own_cache.exists()


def test_detection_of_dinos_weights(model: LoadedModel, tmp_path: Path) -> None:
    assert not is_dino(model)
    tagged = replace(model, spec="vit_small_patch16_224.dino")
    tagged.model.pretrained_cfg = {**tagged.model.pretrained_cfg, "tag": "dino"}  # type: ignore[dict-item]
    assert is_dino(tagged)
    assert not is_dino(replace(tagged, spec=str(tmp_path)))  # a run that started from DINO
    assert not is_dino(replace(tagged, report=replace(tagged.report, loaded=())))  # @none
    ibot = replace(model, spec="x", report=replace(model.report, layout="iBOT"))
    ibot.model.pretrained_cfg = {"tag": "augreg"}  # type: ignore[assignment]
    assert not is_dino(ibot)


def test_calibration_errors(model: LoadedModel) -> None:
    with pytest.raises(UsageError, match="there is no block 9"):
        make_backend("tokencut", {"layer": 9}, model)
    with pytest.raises(UsageError, match="make_backend chooses them"):
        TokenCut(TokenCutOptions(), model.model)
    with pytest.raises(UsageError, match="layer: must be a whole number"):
        make_backend("gradcam", {"layer": "auto"}, model)
