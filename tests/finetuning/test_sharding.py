"""Tests of `shard_model`: processes that share the weights train as one does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed.fsdp  # before the forks, each of which would import it
from safetensors.torch import load_file
from torch import Tensor

from gtacli.cli import main
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import UsageError
from gtacli.finetuning.job import FinetuneJob
from gtacli.finetuning.phases import make_evaluator
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.run import finetune
from gtacli.runtime.distribution import Processes, join_processes
from gtacli.runtime.tensor_parts import own_part

Make = Callable[..., FinetuneConfig]
Together = Callable[..., list[Any]]
# Steps of SGD follow from the gradient; AdamW's first ones from its sign alone.
CHANGES = {"optimizer": "sgd", "lr": 1e-2, "epochs": 2, "batch_size": 4, "precision": "fp32"}


class Silent:
    def step(self, *at: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


class Killed(Exception):
    pass


class Cut(Silent):
    """Ends the first process after the first epoch, whose state is written."""

    def epoch(self, row: dict[str, Any]) -> None:
        raise Killed


def run(config: FinetuneConfig, observer: type[Silent] = Silent) -> Callable[[int], Any]:
    return lambda rank: finetune(config, observer())


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def approximately(value: Any) -> Any:
    number = isinstance(value, float | list)
    return pytest.approx(value, rel=1e-5, abs=1e-6) if number else value


def assert_same(one: Path, other: Path, limit: float = 1e-6) -> None:
    for mine, theirs in zip(rows(one), rows(other), strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine.keys() - {"images_per_second"}:
            ours, value = mine[key], theirs[key]
            for entry in value if isinstance(value, dict) else [None]:
                near = value if entry is None else value[entry]
                found = ours if entry is None else ours[entry]
                assert found == approximately(near), (key, entry)
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert max((a[k] - b[k]).abs().max().item() for k in a) < limit


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (2, {}),  # 15 images: the last batch has 3
        pytest.param(  # the last batch has 1: nothing for the second process
            2, {"batch_size": 7}, marks=pytest.mark.slow
        ),
        pytest.param(
            3,
            {"accumulate": 3, "clip_grad": 0.1, "grad_checkpointing": True},
            marks=pytest.mark.slow,
        ),
        pytest.param(2, {"ema": 0.9, "refit": True, "source_views": 1}, marks=pytest.mark.slow),
        pytest.param(
            2,
            {"average": "trajectory", "hold_out": "none", "layer_decay": 0.7},
            marks=pytest.mark.slow,
        ),
        pytest.param(2, {"average": "source", "train": "norm+bias"}, marks=pytest.mark.slow),
        pytest.param(2, {"train": "head"}, marks=pytest.mark.slow),
        pytest.param(2, {"lam": "auto", "epochs": 5, "batch_size": 8}, marks=pytest.mark.slow),
        pytest.param(
            2, {"lam": None, "folds": 2, "epochs": 1, "hold_out": None}, marks=pytest.mark.slow
        ),
        pytest.param(
            2,
            {"regularizer": {"gta": {"guide": "block"}}, "track_attention": True},
            marks=pytest.mark.slow,
        ),
    ],
    ids=[
        *("uneven", "empty", "accumulated", "ema", "trajectory", "source", "head"),
        *("search", "folds", "tracked"),
    ],
)
def test_sharded_processes_train_as_one(
    size: int, changes: dict[str, Any], config: Make, together: Together, tmp_path: Path
) -> None:
    changes = {**CHANGES, **changes}
    (one,) = together(run(config(out=tmp_path / "one", **changes)), 1)
    several = together(run(config(out=tmp_path / "several", shard_model=True, **changes)), size)
    for summary in several:
        assert isinstance(summary, dict), summary
        for key in ("n_train", "n_val", "n_test", "test_top1", "test_top5", "best_epoch"):
            assert summary[key] == one[key]
    assert_same(tmp_path / "one", tmp_path / "several")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"optimizer": "adamw"}, marks=pytest.mark.slow),
        {"regularizer": ["gta", "bss:0.01"]},
    ],
)
def test_sharded_processes_train_as_copies_do(
    changes: dict[str, Any], config: Make, together: Together, tmp_path: Path
) -> None:
    """`bss` reads each process's images, and AdamW makes large steps of small gradients."""
    changes = {**CHANGES, "lr": 1e-3, **changes}
    together(run(config(out=tmp_path / "copies", **changes)))
    together(run(config(out=tmp_path / "shared", shard_model=True, **changes)))
    assert_same(tmp_path / "copies", tmp_path / "shared", limit=1e-5)


def cut_and_resume(
    config: Make, together: Together, path: Path, before: int, after: int, **resumed: Any
) -> None:
    """Train an epoch in `before` processes, sharded, and the rest in `after`."""
    changes = {**CHANGES, "ema": 0.9, "clip_grad": 1.0}
    together(run(config(out=path / "whole", **changes)), 1)
    cut = config(out=path / "cut", shard_model=True, **changes)
    together(run(cut, Cut), before)
    found = together(run(FinetuneConfig(resume=path / "cut", **resumed)), after)
    assert all(isinstance(summary, dict) for summary in found), found
    assert_same(path / "whole", path / "cut")


@pytest.mark.parametrize(
    ("before", "after", "shard"),
    [
        (2, 1, False),
        pytest.param(1, 2, True, marks=pytest.mark.slow),
        pytest.param(2, 1, True, marks=pytest.mark.slow),
        pytest.param(2, 2, False, marks=pytest.mark.slow),
        pytest.param(2, 4, True, marks=pytest.mark.slow),
    ],
)
def test_a_state_fits_any_number_of_processes(
    before: int, after: int, shard: bool, config: Make, together: Together, tmp_path: Path
) -> None:
    cut_and_resume(config, together, tmp_path, before, after, shard_model=shard)


def test_resume_continues_bit_for_bit(config: Make, together: Together, tmp_path: Path) -> None:
    """With AdamW, whose moments are loaded in parts."""
    changes = {**CHANGES, "optimizer": "adamw", "shard_model": True}
    together(run(config(out=tmp_path / "whole", **changes)))
    together(run(config(out=tmp_path / "cut", **changes), Cut))
    together(run(FinetuneConfig(resume=tmp_path / "cut")))
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    losses = [[row["train_loss"] for row in rows(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]


def bytes_of(tensors: list[Tensor]) -> int:
    return sum(own_part(tensor).nbytes for tensor in tensors)


def held(job: FinetuneJob) -> dict[str, int]:
    """Return the bytes that this process holds after a step."""
    parameters = list(job.target.model.parameters())
    batch = torch.randint(0, 256, (4, 3, *job.target.image_size), dtype=torch.uint8)
    images = job.target.view(job.compute.device)(batch)
    job.task.train()
    logits = job.task.tapped(images).logits
    assert logits is not None
    logits.square().sum().backward()
    job.optimizer.step()
    states = [value for state in job.optimizer.state.values() for value in state.values()]
    assert job.source is not None
    return {
        "parameters": bytes_of(parameters),
        "gradients": bytes_of([p.grad for p in parameters if p.grad is not None]),
        "moments": bytes_of([value for value in states if value.ndim]),
        "source": bytes_of(list(job.source.model.parameters())),
    }


@pytest.mark.usefixtures("not_packed")
def test_each_process_holds_its_part(config: Make, together: Together) -> None:
    """Half of the weights, the gradients and AdamW's moments, but for parameters of one row."""

    def work(rank: int) -> tuple[dict[str, int], dict[str, int]]:
        changes = {"optimizer": "adamw", "precision": "fp32"}
        whole = held(prepare(config(**changes)))
        with join_processes() as processes:
            job = prepare(config(shard_model=True, **changes), processes=processes)
            job.task.shard(job.optimizer)
            return whole, held(job)

    (whole, first), (_, second) = together(work)
    for name, size in whole.items():
        assert first[name] + second[name] == size
        assert max(first[name], second[name]) < 0.55 * size


def test_evaluation_runs_on_shared_weights(config: Make, together: Together) -> None:
    """Of 12 images in batches of 10 and 2 the third process gets none of the last batch."""

    def measure(job: FinetuneJob) -> Any:
        job.target.model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
        job.target.model.blocks[0].attn.qkv.weight.data.mul_(1.01)
        if job.sharded:
            job.task.shard(job.optimizer)
        evaluate = make_evaluator(job, job.split.test, drift=True)
        return evaluate(), evaluate()

    def work(rank: int) -> Any:
        with join_processes() as processes:
            changes = {"shard_model": True, "precision": "fp32", "batch_size": 5}
            return measure(prepare(config(**changes), processes=processes))

    # In a child: a process that has computed in threads has no sound fork.
    (whole, _), *_ = together(lambda rank: measure(prepare(config(precision="fp32"))), 1)
    assert whole.drift > 0
    for found in together(work, 3):
        for each in found:
            assert each.top1 == whole.top1
            assert each.drift == pytest.approx(whole.drift, rel=1e-5)


def test_weights_load_in_timm(config: Make, together: Together, tmp_path: Path) -> None:
    together(run(config(epochs=1, shard_model=True)))
    state = weights(tmp_path / "run")
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=state["cls_token"].shape[-1],
        depth=depth,
        num_heads=2,
        num_classes=len(state["head.bias"]),
    )
    model.load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"compile": True}, "`compile`: leave one of them out"),
        ({"fit_memory": True}, "`batch_size=auto`"),
        ({"optimizer": "adafactor"}, "`optimizer=adafactor`: it needs whole parameters; use adamw"),
        ({"train": "lora"}, "`train=lora`"),
        ({"test_size": 64}, "`test_size`: each process would load the whole network"),
        ({"freeze_epochs": 1}, "`freeze_epochs`: start from a fitted classifier"),
        ({"regularizer": ["gta", "l2-sp"]}, "`regularizer=l2-sp`: it reads the weights"),
    ],
)
def test_impossible_combinations(changes: dict[str, Any], text: str, config: Make) -> None:
    with pytest.raises(UsageError, match="cannot be combined with") as caught:
        prepare(config(shard_model=True, **changes), processes=Processes(0, 2))
    assert text in caught.value.message
    assert caught.value.option == "shard_model"
    prepare(config(**{"shard_model": True, "lr": 1e-3, **changes}))  # one process shares nothing


@pytest.mark.slow
def test_the_command_says_so_in_a_line(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["finetune", "-m", str(tiny_model), "--data", str(tiny_data), "--device", "cpu"]
    words += ["-o", str(tmp_path / "run"), "--nproc", "2", "--shard-model", "--compile"]
    assert main(words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert "--shard-model" in line
    assert "--compile" in line
    assert not (tmp_path / "run" / "state.pt").exists()
