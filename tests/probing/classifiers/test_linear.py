"""The sweep: what it chooses, on what, and that it finds what an optimiser of scipy's finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from gtacli.data.base import Record
from gtacli.models.loading import LoadedModel
from gtacli.probing.classifiers.heads import Heads
from gtacli.probing.classifiers.linear import TIMES, Outcome, Sweep, linear
from gtacli.probing.features.cache import Features
from gtacli.probing.features.columns import Column
from gtacli.probing.features.evaluation import Bench, Parts

CLS = Column(0, "cls")
Make = Callable[..., Bench]


class FakeBench(Bench):
    """A bench whose features are made up instead of seen."""

    made: dict[str, torch.Tensor]

    def see(self, model: Any, records: Any, columns: Any = None) -> Features:
        values = torch.stack([self.made[r.key] for r in records])
        labels = torch.tensor([r.label for r in records])
        return Features({CLS: values}, labels, tuple(r.key for r in records), {})

    def columns(self, model: Any) -> tuple[Column, ...]:
        return (CLS,)


def bench(
    train: int = 200,
    test: int = 400,
    val: int = 0,
    classes: int = 5,
    noise: float = 1.6,
    seed: int = 0,
) -> FakeBench:
    """`classes` clouds in 12 dimensions of very different sizes."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 12, generator=rng)
    sizes = torch.logspace(-2, 2, 12)
    made, parts = {}, {}
    for part, count in (("train", train), ("val", val), ("test", test)):
        records = []
        for i in range(count):
            key = f"{part}/{i}"
            apart = noise * torch.randn(12, generator=rng)
            made[key] = (centres[i % classes] + apart) * sizes
            records.append(Record(key, i % classes, Path(key)))
        parts[part] = tuple(records)
    names = tuple(map(str, range(classes)))
    cache = SimpleNamespace(compute=SimpleNamespace(device=torch.device("cpu")))
    given = Parts(names, parts["train"], parts["val"], parts["test"], "test")
    found = FakeBench(given, cast(Any, cache), "cls")
    found.made = made
    return found


def swept(on: FakeBench, **options: Any) -> Outcome:
    return linear(on, cast(LoadedModel, None), Sweep(**options))


def logistic_regression(on: FakeBench, penalty: float) -> float:
    """Its accuracy on the test part, by scipy's L-BFGS in float64."""
    train, test = (on.see(None, records) for records in (on.parts.train, on.parts.test))
    x, y = train.values.double().numpy(), train.labels.numpy()
    mean, spread = x.mean(0), x.std(0)
    x = (x - mean) / spread
    width, classes = x.shape[1], 5

    def loss(flat: Any) -> tuple[float, Any]:
        w = flat.reshape(width + 1, classes)
        z = x @ w[:-1] + w[-1]
        logs = z - logsumexp(z, axis=1, keepdims=True)
        error = np.exp(logs)
        error[np.arange(len(y)), y] -= 1
        slope = np.vstack([x.T @ error / len(y) + penalty * w[:-1], error.mean(0)])
        value = -logs[np.arange(len(y)), y].mean() + penalty / 2 * (w[:-1] ** 2).sum()
        return float(value), slope.ravel()

    w = minimize(loss, np.zeros((width + 1) * classes), jac=True, method="L-BFGS-B").x
    w = w.reshape(width + 1, classes)
    z = (test.values.double().numpy() - mean) / spread @ w[:-1] + w[-1]
    return float((z.argmax(1) == test.labels.numpy()).mean())


@pytest.mark.parametrize("race", [True, False])
def test_it_is_as_good_as_the_best_logistic_regression(race: bool) -> None:
    on = bench(600, 2000)
    best = max(logistic_regression(on, 10.0**e) for e in range(-5, 1))
    assert swept(on, race=race).figures["top1"] > best - 0.01
    assert best > 0.7


def test_what_was_chosen_is_trained_in_batches_of_the_same_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rate is chosen for a number of steps: with the images held out 5,120 are learnt from, in
    batches of 64, of 6,400 a hundredth would be 128, and only half as many steps follow."""
    sizes, before = [], Heads.train

    def train(self: Heads, features: Any, rows: Any, steps: int, batch: int, *rest: Any) -> None:
        sizes.append((len(rows), steps, batch))
        before(self, features, rows, steps, batch, *rest)

    monkeypatch.setattr(Heads, "train", train)
    figures = swept(bench(6400, 50), epochs=2, race=False).figures
    assert sizes == [(5120, 80, 128), (6400, 100, 128)]
    assert (figures["head_batch"], figures["steps"]) == (128, 100)


def test_the_choice_knows_nothing_of_the_test_images() -> None:
    first = swept(bench()).figures
    other = bench()
    for record in other.parts.test:
        other.made[record.key] = -other.made[record.key]
    second = swept(other).figures
    assert second["top1"] < first["top1"] - 0.2
    for name in ("lr", "chosen_top1", "chosen_on", "steps"):
        assert first[name] == second[name]
    assert (first["chosen_on"], first["n_chosen_on"]) == ("held-out", 40)


def test_chosen_on_the_test_images_it_says_so() -> None:
    on = bench(60, 100, noise=3.0)
    figures = swept(on, on_test=True, race=False).figures
    assert (figures["chosen_on"], figures["n_chosen_on"]) == ("test", 100)
    assert figures["chosen_top1"] == pytest.approx(figures["top1"], abs=0.02)
    assert figures["top1"] >= swept(on, race=False).figures["top1"]


def test_a_validation_part_of_the_datas_own_is_chosen_on() -> None:
    figures = swept(bench(val=50)).figures
    assert (figures["chosen_on"], figures["n_chosen_on"]) == ("val", 50)


def test_rates_that_are_named_are_those_that_are_tried() -> None:
    figures = swept(bench(), rates=(0.25, 0.5)).figures
    assert figures["heads"] == 2
    assert figures["lr"] in (0.25, 0.5)
    assert swept(bench()).figures["heads"] == len(TIMES) == 13


def test_of_one_head_nothing_is_chosen() -> None:
    figures = swept(bench(), rates=(0.25,)).figures
    assert (figures["lr"], figures["chosen_on"], figures["n_chosen_on"]) == (0.25, None, 0)
    assert figures["top1"] > 0.5


def test_nothing_can_be_held_out_of_two_images_a_class(caplog: pytest.LogCaptureFixture) -> None:
    figures = swept(bench(10, 20)).figures
    assert figures["chosen_on"] is None
    assert figures["chosen_top1"] is None
    assert figures["n_chosen_on"] == 0
    assert "no class has 3 training images" in caplog.text


def test_one_class_and_three_test_images() -> None:
    outcome = swept(bench(20, 3, classes=1))
    assert outcome.figures["top1"] == 1.0
    assert outcome.n_test == len(outcome.each["top1"]) == 3


def test_the_same_seed_gives_the_same_figures() -> None:
    assert swept(bench()).figures == swept(bench()).figures


@pytest.mark.parametrize(
    ("images", "batch", "epochs"), [(100, 64, 100), (15000, 256, 100), (1_281_167, 1024, 10)]
)
def test_steps_by_the_number_of_images(images: int, batch: int, epochs: float) -> None:
    assert Sweep().batch_of(images) == batch
    per_epoch = images // batch
    assert Sweep().steps(images) == pytest.approx(epochs * max(1, per_epoch), rel=1e-3)
