"""Tests of runs in several processes: same metrics, same weights, one report."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import gtacli.finetuning.phases as phases
import gtacli.finetuning.prepare as setup
import gtacli.finetuning.run as module
import gtacli.training.loop as loop
from gtacli.config.finetune import FinetuneConfig
from gtacli.data.loader import make_loader
from gtacli.errors import GtaError, Interrupted, PeerLost, RunError
from gtacli.finetuning.evaluation import Evaluation
from gtacli.finetuning.run import finetune
from gtacli.runtime.distribution import ALONE, Processes, join_processes
from gtacli.runtime.processes import ProcessInfo, claim_report, process_info

Make = Callable[..., FinetuneConfig]
Together = Callable[..., list[Any]]
SGD = {"optimizer": "sgd", "lr": 1e-2, "epochs": 2, "regularizer": ["gta", "l2-sp"]}


class Silent:
    def step(self, *at: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


def run(config: FinetuneConfig) -> Callable[[int], Any]:
    return lambda rank: finetune(config, Silent())


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def farthest(a: Path, b: Path) -> float:
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    return max((one[k] - other[k]).abs().max().item() for k in one)


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (2, {"batch_size": 4}),  # 15 images: the last batch has 3
        (2, {"batch_size": 7}),  # the last batch has 1: nothing for the second process
        pytest.param(  # the last step has one batch
            3, {"batch_size": 4, "accumulate": 3, "clip_grad": 0.1}, marks=pytest.mark.slow
        ),
        pytest.param(2, {"batch_size": 4, "refit": True, "workers": 1}, marks=pytest.mark.slow),
        (2, {"batch_size": 4, "ema": 0.9, "patience": 1, "regularizer": "gta"}),
        pytest.param(
            2,
            {"batch_size": 8, "lam": "auto", "epochs": 5, "regularizer": "gta"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            2,
            {"batch_size": 4, "freeze_epochs": 1, "epochs": 3, "warmup": 0.0},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            2,
            {"batch_size": 4, "average": "trajectory", "hold_out": "none"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            2, {"batch_size": 4, "average": "source", "refit": True}, marks=pytest.mark.slow
        ),
        pytest.param(
            2,
            {"batch_size": 4, "train": "lora:2", "freeze_epochs": 1, "ema": 0.9},
            marks=pytest.mark.slow,
        ),
        pytest.param(2, {"batch_size": 4, "train": "norm+bias"}, marks=pytest.mark.slow),
        pytest.param(2, {"batch_size": 4, "compile": True}, marks=pytest.mark.slow),
    ],
    ids=[
        *("uneven", "empty", "accumulated", "refit", "average", "search", "frozen"),
        *("trajectory", "source", "adapters", "norms", "compiled"),
    ],
)
def test_processes_train_as_one(
    size: int,
    changes: dict[str, Any],
    config: Make,
    together: Together,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **k: original(m, **{**k, "backend": "eager"}))
    changes = {**SGD, **changes}
    # In a child too: after compiled autograd in this process no fork of it could use autograd.
    (one,) = together(run(config(out=tmp_path / "one", **changes)), 1)
    several = together(run(config(out=tmp_path / "several", **changes)), size)
    for summary in several:
        for key in ("n_train", "n_val", "n_test", "test_top1", "test_top5", "best_epoch"):
            assert summary[key] == one[key]
    for mine, theirs in zip(rows(tmp_path / "one"), rows(tmp_path / "several"), strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine.keys() - {"images_per_second"}:
            other = theirs[key]
            near = pytest.approx(other, rel=1e-5, abs=1e-7) if isinstance(other, float) else other
            assert mine[key] == near
    assert farthest(tmp_path / "one", tmp_path / "several") < 1e-6
    assert json.loads((tmp_path / "several" / "run.json").read_text())["processes"] == size


def test_any_number_of_labels(
    config: Make, together: Together, label_table: Path, tmp_path: Path
) -> None:
    """Batches of 7 of 18 images: the last one has nothing for one of five processes."""
    changes = {**SGD, "data": str(label_table), "multi_label": True, "batch_size": 7}
    (one,) = together(run(config(out=tmp_path / "one", **changes)), 1)
    for summary in together(run(config(out=tmp_path / "several", **changes)), 5):
        for key in ("test_map", "test_f1_macro", "val_map", "n_train", "label_results"):
            assert summary[key] == one[key]
    assert farthest(tmp_path / "one", tmp_path / "several") < 1e-6


def test_evaluation_counts_every_image_once(config: Make, together: Together) -> None:
    """Split 12 test images in one batch of 16 among 2 and 5 processes: 3, 3, 2, 2, 2."""

    def measure(rank: int, processes: Processes = ALONE) -> Evaluation:
        job = module.prepare(config(batch_size=8), processes=processes)
        job.target.model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
        job.target.model.blocks[0].attn.qkv.weight.data.mul_(1.01)
        return phases.make_evaluator(job, job.split.test, drift=True)()

    def share(rank: int) -> Evaluation:
        with join_processes() as processes:
            return measure(rank, processes)

    whole = measure(0)
    assert whole.drift is not None
    assert whole.drift > 0
    for size in (2, 5):
        for found in together(share, size):
            assert found.top1 == whole.top1
            assert found.top5 == whole.top5
            assert found.drift == pytest.approx(whole.drift, rel=1e-6)


def test_unreadable_images_of_one_process(
    config: Make, recorder: Any, together: Together, tiny_data: Path, tmp_path: Path
) -> None:
    for image in sorted((tiny_data / "train" / "red").glob("*.png"))[:4]:
        image.write_bytes(b"no image")
    (tiny_data / "test" / "red" / "0.png").write_bytes(b"no image")
    changes = {**SGD, "batch_size": 2, "accumulate": 2, "cache": "none"}
    one = finetune(config(out=tmp_path / "one", **changes), recorder)
    two = together(run(config(out=tmp_path / "two", **changes)))
    assert one["skipped"] == 5
    for summary in two:
        assert [summary[k] for k in ("skipped", "n_train", "n_val", "n_test")] == [
            one[k] for k in ("skipped", "n_train", "n_val", "n_test")
        ]
    assert farthest(tmp_path / "one", tmp_path / "two") < 1e-6


def test_unreadable_image_counts_as_absent(
    config: Make, recorder: Any, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is the mean over readable images; a penalty on the weights keeps its strength."""
    from gtacli.data.augment.transforms import EvalTransform

    monkeypatch.setattr(
        setup, "training_view", lambda config, target, device: EvalTransform(target.image_size)
    )
    changes = {**SGD, "batch_size": 18, "epochs": 3, "lr": 0.1, "regularizer": "l2-sp:10"}
    finetune(config(out=tmp_path / "whole", **changes), recorder)
    split = json.loads((tmp_path / "whole" / "split.json").read_text())
    bad = [next(k for k in split["train"] if name in k) for name in ("red", "green")]
    files = [tiny_data / key for key in bad]
    for file in files:
        file.write_bytes(b"no image")
    finetune(config(out=tmp_path / "broken", **changes), recorder)
    for file in files:
        file.unlink()
    finetune(config(out=tmp_path / "absent", **changes), recorder)
    assert farthest(tmp_path / "absent", tmp_path / "broken") < 1e-6
    assert farthest(tmp_path / "absent", tmp_path / "whole") > 1e-4


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "stop", [pytest.param("after an epoch", marks=pytest.mark.slow), "in an epoch"]
)
def test_resume_with_same_process_count(
    stop: str, config: Make, together: Together, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are bit-equal; mixing and drop path draw other numbers in each process."""
    changes = {"mix": "mixup", "drop_path": 0.3, "batch_size": 4}
    whole = together(run(config(out=tmp_path / "whole", **changes)))
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)

    class Cut(Silent):
        def step(self, *at: float) -> None:
            if stop == "in an epoch" and at[:2] == (1, 2):
                os.kill(os.getpid(), signal.SIGTERM)

        def epoch(self, row: dict[str, Any]) -> None:
            if stop == "after an epoch" and row["epoch"] == 1:
                raise Killed

    cut = together(lambda rank: finetune(config(out=tmp_path / "cut", **changes), Cut()))
    if stop == "in an epoch":  # one was told, both have stopped
        assert all(isinstance(e, Interrupted) and "epoch 2, batch 3" in str(e) for e in cut)
    else:
        assert isinstance(cut[0], Killed)
        assert isinstance(cut[1], PeerLost)
    again = together(run(FinetuneConfig(resume=tmp_path / "cut")))
    assert farthest(tmp_path / "whole", tmp_path / "cut") == 0
    assert [r["train_loss"] for r in rows(tmp_path / "cut")] == [
        r["train_loss"] for r in rows(tmp_path / "whole")
    ]
    assert again[0]["test_top1"] == whole[0]["test_top1"]


@pytest.mark.parametrize(("before", "after"), [(1, 2), pytest.param(3, 1, marks=pytest.mark.slow)])
def test_resume_with_other_process_count(
    before: int, after: int, config: Make, together: Together, tmp_path: Path
) -> None:
    class Cut(Silent):
        def epoch(self, row: dict[str, Any]) -> None:
            raise Killed

    together(run(config(out=tmp_path / "whole", **SGD)), 1)
    together(lambda rank: finetune(config(out=tmp_path / "cut", **SGD), Cut()), before)
    together(run(FinetuneConfig(resume=tmp_path / "cut")), after)
    assert farthest(tmp_path / "whole", tmp_path / "cut") < 1e-6


def test_error_is_reported_once(config: Make, together: Together, tmp_path: Path) -> None:
    """Either all processes raise it, or one does and the others lose it."""

    def fail(rank: int, where: str) -> tuple[str, int | None]:
        try:
            with join_processes() as processes:
                if where == "everywhere" or rank == 1:
                    raise RunError("a full disk")
                while True:
                    processes.combine(1, False)
        except GtaError as error:
            lost = isinstance(error, PeerLost)
            return type(error).__name__, claim_report(error.exit_code, lost)

    everywhere = together(lambda rank: fail(rank, "everywhere"))
    assert sorted(everywhere, key=str) == [("RunError", 3), ("RunError", None)]
    assert together(lambda rank: fail(rank, "here")) == [("PeerLost", 3), ("RunError", None)]


def test_killed_process_ends_the_others(config: Make, together: Together, tmp_path: Path) -> None:
    class Kill(Silent):
        def epoch(self, row: dict[str, Any]) -> None:
            if row["epoch"] == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    first, second = together(lambda rank: finetune(config(), Kill()))
    assert first is None
    assert isinstance(second, PeerLost)
    assert "`resume`" in str(second)
    together(run(FinetuneConfig(resume=tmp_path / "run")))
    together(run(config(out=tmp_path / "whole")))
    assert farthest(tmp_path / "whole", tmp_path / "run") == 0


def test_only_first_process_writes_and_is_observed(
    config: Make, together: Together, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Count(Silent):
        seen = 0

        def epoch(self, row: dict[str, Any]) -> None:
            Count.seen += 1

    def work(rank: int) -> tuple[int, str]:
        summary = finetune(config(out=None, epochs=1), Count())
        return Count.seen, summary["run"]

    monkeypatch.chdir(tmp_path)
    (first, run), (second, same) = together(work)
    assert (first, second) == (1, 0)
    assert run == same
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_bad_input_is_rejected_before_first_step(
    config: Make,
    together: Together,
    tmp_path: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = together(run(config(batch_size=1)))
    assert all("2 processes" in str(e) for e in found)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    found = together(run(config()))
    assert all("not empty" in str(e) for e in found)
    other = tmp_path / "other-data"
    shutil.copytree(tiny_data, other)
    (other / "train" / "red" / "extra.png").write_bytes(b"1")
    load = setup.load_dataset
    monkeypatch.setattr(
        setup,
        "load_dataset",
        lambda spec, several: load(str(other) if process_info().rank else spec, several),
    )
    found = together(run(config(out=tmp_path / "b")))
    assert all("not the same for every process" in str(e) for e in found)
    assert not (tmp_path / "b").exists()


def test_exchanges_between_processes(together: Together) -> None:
    def exchange(rank: int) -> Any:
        with join_processes() as p:
            nan = torch.tensor(math.nan if rank else 2.0)
            sums = p.weighted_sums({"loss": nan, "output": torch.ones(2, 3)}, 0 if rank else 3)
            sums = {name: float(value) for name, value in sums.items()}
            with pytest.raises(GtaError, match="first"):
                p.run_on_main(fail)
            return p.combine(rank + 1, rank == 1), sums, p.gather(rank), p.run_on_main(lambda: rank)

    def fail() -> int:
        raise GtaError("the first one's")

    for agreed, sums, ranks, first in together(exchange):
        assert agreed == (3, True)
        assert sums == {"loss": 6.0}
        assert ranks == [0, 1]
        assert first == 0
    assert ALONE.combine(2, False) == (2, False)


def test_process_info_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_info() == ProcessInfo()
    assert claim_report(2) is None
    monkeypatch.setenv("RANK", "3")
    assert process_info() == ProcessInfo()  # a variable of that name alone is no launcher
    for name, value in {"WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert process_info() == ProcessInfo(3, 8, 1, 2)
    monkeypatch.setenv("RANK", "x")
    assert process_info() == ProcessInfo()


def test_shards_make_up_the_batch(config: Make) -> None:
    job = module.prepare(config())
    store = job.stores.get(job.records, job.transform.load_size)
    whole = list(make_loader(store, job.transform, 4, train=True))
    parts = [list(make_loader(store, job.transform, 4, train=True, shard=(r, 3))) for r in range(3)]
    for number, batch in enumerate(whole):
        for rank, part in enumerate(parts):
            assert torch.equal(part[number].images, batch.images[rank::3])
            assert torch.equal(part[number].labels, batch.labels[rank::3])
