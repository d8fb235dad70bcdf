"""Tests of batched augmentation against the augmentation of single images."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest, ks_2samp
from torch.nn import functional as F
from torch.utils.data._utils.pin_memory import pin_memory
from torchvision.transforms.v2 import RandomResizedCrop

from gtacli.data import Record
from gtacli.data.augment.augmentation import Augmentation
from gtacli.data.augment.batched import BatchedAugmentation, resampling_weights
from gtacli.data.augment.transforms import TrainTransform
from gtacli.data.loader import Batch, ImageStore, make_loader

CPU = torch.device("cpu")
ALL = {"auto_augment": "rand-m9-n2-mstd0.5", "color_jitter": 0.4, "random_erasing": 0.5}


def picture(height: int, width: int, seed: int) -> torch.Tensor:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def both(
    augmentation: Augmentation, images: list[torch.Tensor], seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the views of the images, computed one by one and as a batch."""
    batched = BatchedAugmentation(augmentation, CPU)
    rngs = [[np.random.default_rng((seed, i)) for i in range(len(images))] for _ in range(2)]
    alone = [augmentation(x, rng) for x, rng in zip(images, rngs[0], strict=True)]
    crops = [batched(x, rng) for x, rng in zip(images, rngs[1], strict=True)]
    return torch.stack(alone), batched.finish(batched.pack(crops))


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 120), st.integers(1, 120)), min_size=1, max_size=5),
    st.sampled_from(["bilinear", "bicubic", "nearest"]),
    st.integers(0, 2**32 - 1),
)
def test_crops_of_mixed_sizes_equal_single_images(
    sizes: list[tuple[int, int]], interpolation: str, seed: int
) -> None:
    crop = TrainTransform((24, 40), interpolation=interpolation)
    images = [picture(*size, seed + i) for i, size in enumerate(sizes)]
    alone, batched = both(Augmentation(crop), images, seed)
    assert batched.shape == (len(sizes), 3, 24, 40)
    assert batched.dtype == torch.uint8
    apart = (alone.float() - batched.float()).abs()
    assert apart.max() <= 2  # torchvision's weights are integers of 8 to 15 bits
    assert apart.mean() < 0.25  # enlarging a few pixels causes many ties


def test_few_pixels_of_a_photograph_differ() -> None:
    images = [picture(90 + i, 140 - i, i) for i in range(40)]
    alone, batched = both(Augmentation(TrainTransform((64, 64))), images, 0)
    assert (alone != batched).float().mean() < 0.01


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("length", "size"), [(37, 24), (24, 37), (100, 7), (1, 5), (5, 5)])
def test_weights_equal_torchs_resize(interpolation: str, length: int, size: int) -> None:
    got = resampling_weights(torch.tensor([length]), size, length + 9, interpolation)[0]
    impulses = torch.eye(length).view(1, length, length, 1).expand(1, length, length, 4)
    want = F.interpolate(impulses, size=(size, 4), mode=interpolation, antialias=True)[0, :, :, 0]
    assert torch.allclose(got[:, :length], want.T, atol=1e-5)
    assert (got[:, length:] == 0).all()


def test_all_operations_together_equal_single_images() -> None:
    """Some operations amplify rounding errors (equalize, solarize at its threshold)."""
    crop = TrainTransform((48, 64))
    images = [picture(60 + i, 100 - i, i) for i in range(40)]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    alone, batched = both(Augmentation(crop, **ALL, mean=mean, std=std), images, 3)  # type: ignore[arg-type]
    apart = (alone.float() - batched.float()).abs()
    assert apart.mean() < 0.5
    assert (apart > 3).float().mean() < 0.01
    plain, _ = both(Augmentation(crop), images, 3)
    assert (alone.float() - plain.float()).abs().mean() > 20  # the augmentation had an effect


def test_erased_pixels_are_equal() -> None:
    crop = TrainTransform((48, 64))
    images = [picture(60, 70, i) for i in range(12)]
    for mode in ("pixel", "const"):
        augmentation = Augmentation(crop, random_erasing=1, erasing_mode=mode)  # type: ignore[arg-type]
        alone, batched = both(augmentation, images, 1)
        assert (alone.int() - batched.int()).abs().max() <= 2
        views = [augmentation.draw(60, 70, np.random.default_rng((1, i))) for i in range(12)]
        for i, view in enumerate(views):
            assert view.erasure is not None
            top, left, h, w, _ = view.erasure
            box = (i, slice(None), slice(top, top + h), slice(left, left + w))
            assert torch.equal(alone[box], batched[box])


def test_crops_and_flips_have_torchvisions_distribution() -> None:
    """Areas and aspect ratios are compared with RandomResizedCrop, flips with one half."""
    count, height, width = 3000, 128, 150
    batched = BatchedAugmentation(Augmentation(TrainTransform((8, 8))), CPU)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    crops = [batched(image, np.random.default_rng(seed)) for seed in range(count)]
    ours = batched.pack(crops).boxes.double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = RandomResizedCrop(8)
        drawn = [theirs.make_params([image]) for _ in range(count)]
    want = torch.tensor([(d["height"], d["width"], d["top"], d["left"]) for d in drawn]).double()
    crops = torch.tensor([image.params.crop[:2] for image in crops]).double()
    pairs = [
        (ours[:, 0] * ours[:, 1], want[:, 0] * want[:, 1]),
        (ours[:, 1] / ours[:, 0], want[:, 1] / want[:, 0]),
        (crops[:, 0], want[:, 2]),
        (crops[:, 1], want[:, 3]),
    ]
    for mine, other in pairs:
        assert ks_2samp(mine.numpy(), other.numpy()).pvalue > 0.01
    assert binomtest(int(ours[:, 2].sum()), count).pvalue > 0.01


def batches(records: list[Record], **options: object) -> list[Batch]:
    augmentation = Augmentation(TrainTransform((24, 32)), **ALL)  # type: ignore[arg-type]
    store = ImageStore(records, augmentation.load_size, cache="ram")
    settings = {"train": True, "seed": 5, "epoch": 2, **options}
    return list(make_loader(store, BatchedAugmentation(augmentation, CPU), 4, **settings))  # type: ignore[arg-type]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(
        torch.equal(a, b)
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first[:4], second[:4], strict=True)
    )


def test_workers_and_resume_change_nothing(records: list[Record]) -> None:
    whole = batches(records)
    assert [batch.images.shape[0] for batch in whole] == [4, 4, 3]
    assert same(whole, batches(records, workers=2))
    assert same(whole[1:], batches(records, start_batch=1))
    assert not same(whole, batches(records, epoch=3))


def test_empty_batch_is_not_skipped(records: list[Record]) -> None:
    for record in records:
        record.path.write_bytes(b"no image")
    assert [batch.images.shape for batch in batches(records)] == [(0, 3, 24, 32)] * 3


def test_workers_data_can_be_pickled() -> None:
    batched = BatchedAugmentation(Augmentation(TrainTransform((24, 32)), **ALL), CPU)  # type: ignore[arg-type]
    copy = pickle.loads(pickle.dumps(batched))
    crops = [copy(picture(40, 50, i), np.random.default_rng(i)) for i in range(3)]
    packed = pickle.loads(pickle.dumps(copy.pack(crops)))
    assert torch.equal(batched.finish(packed), copy.finish(copy.pack(crops)))


def test_pinned_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """When pinning, torch's loader converts tuples to lists."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *device: self)
    batched = BatchedAugmentation(Augmentation(TrainTransform((24, 32)), **ALL), CPU)  # type: ignore[arg-type]
    packed = batched.pack([batched(picture(40, 50, i), np.random.default_rng(i)) for i in range(9)])
    want = batched.finish(packed)
    assert torch.equal(batched.finish(pin_memory(packed)), want)


def test_random_generator_is_required() -> None:
    with pytest.raises(ValueError, match="random generator"):
        BatchedAugmentation(Augmentation(TrainTransform((8, 8))), CPU)(picture(9, 9, 0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_on_a_gpu_are_equal() -> None:
    augmentation = Augmentation(TrainTransform((48, 64)), **ALL)  # type: ignore[arg-type]
    batched = BatchedAugmentation(augmentation, torch.device("cuda"))
    images = [picture(60 + i, 100 - i, i) for i in range(16)]
    crops = [batched(x, np.random.default_rng((3, i))) for i, x in enumerate(images)]
    got = batched.finish(batched.pack(crops))
    assert got.device.type == "cuda"
    _, want = both(augmentation, images, 3)
    assert (got.cpu().float() - want.float()).abs().mean() < 0.1
