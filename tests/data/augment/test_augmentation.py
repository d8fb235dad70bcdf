"""Tests of policies, jitter and erasing against timm and torchvision."""

import pickle
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from scipy.stats import ks_2samp
from timm.data.auto_augment import auto_augment_transform, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torchvision.transforms.v2 import ColorJitter

from gtacli.data import Record
from gtacli.data.augment.augmentation import (
    Augmentation,
    Op,
    apply_ops,
    draw_erasure,
    draw_jitter,
    draw_policy,
)
from gtacli.data.augment.transforms import Crop, TrainTransform
from gtacli.data.loader import ImageStore, make_loader
from gtacli.errors import UsageError

CROP = TrainTransform((24, 32))
POLICIES = [
    "rand-m9-mstd0.5-inc1",
    "rand-m7-n3-mstd101-mmax12-p0.9",
    "rand-n2-t3aw",
    "rand-tweights",
]
POLICIES += ["original", "originalr-mstd0.5", "v0", "v0r", "3a"]
FILL = (124, 116, 104)
seeds = st.integers(0, 2**32 - 1)


def picture(height: int = 40, width: int = 50, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
    pixels = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.fixture(scope="module", autouse=True)
def posterize_keeps_one_bit() -> Iterator[None]:
    """Let Pillow keep a bit where timm asks for none, which blackens the image or raises."""
    pillow = ImageOps.posterize
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageOps, "posterize", lambda image, bits: pillow(image, max(1, bits)))
        yield


@given(st.sampled_from(POLICIES), seeds)
def test_policy_equals_timms(policy: str, seed: int) -> None:
    """Draws and pixels equal those of timm's object with the same two seeds."""
    image = picture(seed=seed)
    ops = draw_policy(policy, 40, np.random.default_rng(seed))
    got = apply_ops(image, ops, FILL)
    build = rand_augment_transform if policy.startswith("rand") else auto_augment_transform
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR}
    theirs = build(policy, {"translate_const": 18, **hparams})
    python, legacy = random.getstate(), np.random.get_state()
    first, second = np.random.default_rng(seed).integers(0, 2**32, 2)
    random.seed(int(first))
    np.random.seed(int(second))
    try:
        want = theirs(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
    assert np.array_equal(got.permute(1, 2, 0).numpy(), np.array(want))


@pytest.mark.parametrize("policy", ["rand-m10-n4-p1.0-inc1", "v0"])
def test_posterize_keeps_one_bit(policy: str) -> None:
    """At these magnitudes timm asks Pillow to keep 0 bits."""
    drawn = [draw_policy(policy, 40, np.random.default_rng(seed)) for seed in range(200)]
    assert any(Op("posterize", (1,)) in ops for ops in drawn)
    for ops in drawn:
        apply_ops(picture(), ops, FILL)


def test_policies_use_all_operations() -> None:
    drawn = [
        op.name
        for seed in range(300)
        for op in draw_policy("rand-m9-mstd0.5-inc1", 24, np.random.default_rng(seed))
    ]
    assert len(set(drawn)) == 15
    assert 240 < len(drawn) < 360  # two of them, each with probability 1/2


@pytest.mark.parametrize(
    "policy",
    ["randm9", "rand-magnitude9", "nothing", "rand-mx", "rand-tx", "rand-n20-tweights", ""],
)
def test_unknown_policy_raises_one_line(policy: str) -> None:
    with pytest.raises(UsageError, match=r"auto_augment: .*rand-m9-mstd0\.5-inc1") as error:
        Augmentation(CROP, policy)
    assert "\n" not in str(error.value)


def test_augmix_is_rejected() -> None:
    with pytest.raises(UsageError, match="augmix"):
        Augmentation(CROP, "augmix-m5-w4-d2")


@given(st.floats(0, 2), seeds)
def test_jitter_stays_in_range(strength: float, seed: int) -> None:
    ops = draw_jitter(strength, np.random.default_rng(seed))
    assert sorted(op.name for op in ops) == ["brightness", "color", "contrast"]
    assert all(max(0, 1 - strength) <= op.args[0] <= 1 + strength for op in ops)


def test_jitter_has_torchvisions_distribution() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = ColorJitter(0.4, 0.4, 0.4)
        params = [theirs.make_params([]) for _ in range(2000)]
    ours = [draw_jitter(0.4, np.random.default_rng(seed)) for seed in range(2000)]
    mine = [dict(ops)["contrast"][0] for ops in ours]  # type: ignore[arg-type]
    assert ks_2samp(mine, [float(p["contrast_factor"]) for p in params]).pvalue > 0.01
    orders = [tuple(op.name for op in ops) for ops in ours]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 6
    assert ((counts - 2000 / 6) ** 2 / (2000 / 6)).sum() < 20.5  # chi-square, 5, p = 0.001


def test_jitter_multiplies_brightness() -> None:
    image = picture()
    got = apply_ops(image, (Op("brightness", (0.5,)),), FILL)
    assert (got.float() - image.float() / 2).abs().max() <= 1


@given(st.integers(1, 60), st.integers(1, 60), seeds)
def test_erasure_lies_inside(height: int, width: int, seed: int) -> None:
    drawn = draw_erasure(height, width, np.random.default_rng(seed))
    if drawn is not None:
        top, left, h, w, _ = drawn
        assert 0 <= top <= height - h
        assert 0 <= left <= width - w
        assert 1 <= h < height
        assert 1 <= w < width


def test_erasures_have_timms_distribution() -> None:
    theirs = RandomErasing(1.0, mode="const", device="cpu")
    state = random.getstate()
    random.seed(0)
    boxes = []
    for _ in range(1500):
        rows, columns = torch.where(theirs(torch.ones(1, 64, 80))[0] == 0)
        top, left = rows.min(), columns.min()
        boxes.append(
            [int(top), int(left), int(rows.max() - top) + 1, int(columns.max() - left) + 1]
        )
    random.setstate(state)
    drawn = [draw_erasure(64, 80, np.random.default_rng(seed)) for seed in range(1500)]
    ours = np.array([box[:4] for box in drawn if box is not None])
    want = np.array(boxes)
    assert len(ours) == 1500
    for value in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 0]):
        assert ks_2samp(value(ours), value(want)).pvalue > 0.01


def test_erased_pixels_are_noise_around_the_mean_color() -> None:
    mean, std = (0.5, 0.45, 0.4), (0.1, 0.12, 0.08)
    view = Augmentation(CROP, random_erasing=1, mean=mean, std=std)
    erasure = draw_erasure(500, 500, np.random.default_rng(0))
    assert erasure is not None
    noise = view.noise(erasure).double() / 255
    assert noise.shape == (3, erasure.height, erasure.width)
    got = noise.mean((1, 2)), noise.std((1, 2))
    assert torch.allclose(got[0], torch.tensor(mean).double(), atol=2e-3)
    assert torch.allclose(got[1], torch.tensor(std).double(), atol=2e-3)
    flat = Augmentation(CROP, random_erasing=1, erasing_mode="const", mean=mean, std=std)
    assert flat.noise(erasure).unique().tolist() == [102, 115, 128]  # 0.4, 0.45, 0.5 of 255


def test_only_the_rectangle_is_erased() -> None:
    image = picture(24, 32)
    kept = image.clone()
    view = Augmentation(CROP, random_erasing=1, mean=(0, 0, 0), erasing_mode="const")
    drawn = view.draw(24, 32, np.random.default_rng(1))._replace(crop=Crop(0, 0, 24, 32, False))
    assert drawn.erasure is not None
    got = view.apply(image, drawn)
    assert torch.equal(image, kept)  # it is in the cache
    top, left, height, width, _ = drawn.erasure
    kept[:, top : top + height, left : left + width] = 0
    assert torch.equal(got, kept)


def test_fraction_of_erased_images() -> None:
    view = Augmentation(CROP, random_erasing=0.25)
    drawn = [view.draw(40, 50, np.random.default_rng(seed)).erasure for seed in range(2000)]
    assert 0.22 < np.mean([erasure is not None for erasure in drawn]) < 0.28


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), seeds)
def test_crop_is_independent_of_the_options(height: int, width: int, seed: int) -> None:
    image = picture(height, width)
    off = Augmentation(CROP)
    assert torch.equal(
        off(image, np.random.default_rng(seed)), CROP(image, np.random.default_rng(seed))
    )
    on = Augmentation(CROP, "3a", 0.4, 1.0)
    rng = np.random.default_rng(seed)
    assert on.draw(height, width, rng).crop == CROP.draw(height, width, np.random.default_rng(seed))
    out = on(image, np.random.default_rng(seed))
    assert out.shape == (3, 24, 32)
    assert out.dtype == torch.uint8


def batches(records: list[Record], **options: object) -> list[torch.Tensor]:
    transform = Augmentation(CROP, "rand-m9-n4-mstd0.5-p1.0", 0.4, 0.5)
    store = ImageStore(records, transform.load_size, cache="ram")
    loader = make_loader(store, transform, 4, **{"train": True, "seed": 5, "epoch": 2, **options})  # type: ignore[arg-type]
    return [batch.images for batch in loader]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_workers_and_resume_change_nothing(records: list[Record]) -> None:
    whole = batches(records)
    assert same(whole, batches(records, workers=2))
    assert same(whole[1:], batches(records, start_batch=1))
    assert not same(whole, batches(records, epoch=3))


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_state_is_unchanged(records: list[Record], workers: int) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = batches(records, workers=workers)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    random.seed(2)
    np.random.seed(2)
    torch.manual_seed(2)
    assert same(first, batches(records, workers=workers))


def test_failing_policy_restores_the_global_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(policy: str, side: int) -> object:
        raise RuntimeError

    monkeypatch.setattr("gtacli.data.augment.augmentation._policy", broken)
    before = random.getstate()
    with pytest.raises(RuntimeError):
        draw_policy("v0", 24, np.random.default_rng(0))
    assert random.getstate() == before


def test_augmentation_can_be_pickled() -> None:
    transform = Augmentation(CROP, "original", 0.4, 0.5)
    copy = pickle.loads(pickle.dumps(transform))
    image = picture()
    assert torch.equal(
        copy(image, np.random.default_rng(3)), transform(image, np.random.default_rng(3))
    )


def test_random_generator_is_required() -> None:
    with pytest.raises(ValueError, match="random generator"):
        Augmentation(CROP)(picture())
