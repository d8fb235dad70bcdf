"""A training that is killed at any of its writes is continued by the same command, without loss."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gtacli.config.finetune import FinetuneConfig
from gtacli.config.pretrain import PretrainConfig
from gtacli.errors import RunError
from gtacli.finetuning.run import finetune
from gtacli.pretraining.run import pretrain
from gtacli.runtime import run_folder
from gtacli.runtime.drafts import LOCK_PREFIX, draft_name
from gtacli.runtime.run_files import DECODER_FILE, STATE_FILE, WEIGHTS_FILE
from tests.shards import write_tar

AUTO = Path("auto")
WEIGHTS = (DECODER_FILE, WEIGHTS_FILE)
Run = Callable[[Path], dict[str, Any]]
MEASURED = {"seconds", "cpu_seconds", "images_per_second", "peak_memory_mb", "run"}
"""What differs between equal runs."""


class Killed(BaseException):
    """The process ends here, without any cleaning up."""


@pytest.fixture
def fine(tiny_model: Path, tiny_data: Path, recorder: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that fine-tunes into a folder, or goes on there, as a queue would."""

    def run(out: Path, **changes: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "model": str(tiny_model), "data": str(tiny_data), "epochs": 2, "batch_size": 8,
            "lr": 1e-3, "hold_out": 20.0, "lam": 0.1, "device": "cpu", "workers": 0,
        }  # fmt: skip
        config = FinetuneConfig(**{**values, **changes}, out=out, resume=AUTO)
        torch.manual_seed(os.getpid())  # a new process starts elsewhere
        return finetune(config, recorder)

    return run


@pytest.fixture
def pre(tiny_model: Path, tiny_data: Path, recorder: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that pre-trains into a folder, or goes on there."""

    def run(out: Path, **changes: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "model": str(tiny_model), "data": str(tiny_data), "epochs": 2, "batch_size": 8,
            "lr": 1e-3, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2,
            "device": "cpu", "workers": 0,
        }  # fmt: skip
        config = PretrainConfig(**{**values, **changes}, out=out, resume=AUTO)
        torch.manual_seed(os.getpid())
        return pretrain(config, recorder)

    return run


@pytest.fixture
def streamed(tiny_data: Path, tmp_path: Path, pre: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that pre-trains on a stream of four shards, or goes on there."""
    images = [path.read_bytes() for path in sorted(tiny_data.rglob("*.png"))]
    (tmp_path / "shards").mkdir()
    for number in range(4):
        own = {f"{i}.png": data for i, data in enumerate(images[number::4])}
        write_tar(tmp_path / f"shards/{number}.tar", own)

    def run(out: Path, **changes: Any) -> dict[str, Any]:
        data = {"data": f"wds/{tmp_path}/shards", "epoch_images": 20, "previews_every": 0}
        return pre(out, **data, batch_size=4, **changes)  # type: ignore[no-any-return]

    return run


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """Return a function that lets the n-th write from now on end the process.

    "half": half of the draft is written. "renamed": the file is in place.
    """
    real = run_folder.replace_atomic
    left = [0, ""]

    def replace(path: Path, write: Any, **options: Any) -> None:
        left[0] -= 1  # type: ignore[operator]
        if left[0] == 0 and left[1] == "half":
            draft = path.with_name(draft_name(path.suffix))
            path.parent.mkdir(parents=True, exist_ok=True)
            write(draft)
            os.truncate(draft, draft.stat().st_size // 2)
            raise Killed
        real(path, write, **options)
        if left[0] == 0:
            raise Killed

    def arm(number: int, when: str) -> None:
        left[:] = [number, when]

    monkeypatch.setattr(run_folder, "replace_atomic", replace)
    return arm


def kills(
    run: Run,
    work: Path,
    when: str,
    kill_at: Callable[[int, str], None],
    new_life: Callable[[], None],
) -> Iterator[Path]:
    """Kill a run at every write and go on with the same command; yield the folders."""
    for number in range(1, 100):
        out = work / f"{when}-{number}"
        kill_at(number, when)
        try:
            run(out)
        except Killed:
            (out / LOCK_PREFIX).write_text("{}")  # as a killed process leaves it
            new_life()
            kill_at(0, "")
            run(out)
            yield out
        else:
            break


def rows(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


def assert_same(whole: Path, out: Path) -> None:
    """Assert that two folders hold the same files with the same results, and no draft."""
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())
    for file in whole.glob("*.safetensors"):
        wanted, found = load_file(file), load_file(out / file.name)
        assert wanted.keys() == found.keys()
        assert all(torch.equal(wanted[k], found[k]) for k in wanted), (file.name, out.name)
    assert rows(out) == rows(whole)
    before, after = (json.loads((p / "summary.json").read_text()) for p in (whole, out))
    assert {k: v for k, v in after.items() if k not in MEASURED} == {
        k: v for k, v in before.items() if k not in MEASURED
    }


@pytest.mark.parametrize(
    ("kind", "when"),
    [
        ("fine", "half"),
        pytest.param("pre", "half", marks=pytest.mark.slow),  # its files: test_full_disk
        # After a rename things are as before the next file.
        pytest.param("fine", "renamed", marks=pytest.mark.slow),
        pytest.param("pre", "renamed", marks=pytest.mark.slow),
        pytest.param("streamed", "half", marks=pytest.mark.slow),
        pytest.param("streamed", "renamed", marks=pytest.mark.slow),
    ],
)
def test_killed_at_every_write(
    kind: str,
    when: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kill_at: Any,
    new_life: Any,
) -> None:
    run: Run = request.getfixturevalue(kind)
    run(tmp_path / "whole")
    count = 0
    for out in kills(run, tmp_path, when, kill_at, new_life):
        assert_same(tmp_path / "whole", out)
        count += 1
    assert count >= 8


@pytest.mark.parametrize("when", ["half", "renamed"])
def test_a_stream_goes_on_after_a_kill_at_a_state(
    when: str, streamed: Any, tmp_path: Path, kill_at: Any, new_life: Any
) -> None:
    """The state of the first epoch is the third file; what follows from it is written again."""
    streamed(tmp_path / "whole")
    kill_at(3, when)
    with pytest.raises(Killed):
        streamed(tmp_path / "run")
    assert (tmp_path / "run" / STATE_FILE).exists() == (when == "renamed")
    new_life()
    kill_at(0, "")
    streamed(tmp_path / "run", workers=2)
    assert_same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    "name", [STATE_FILE, *(pytest.param(n, marks=pytest.mark.slow) for n in WEIGHTS)]
)
def test_full_disk(name: str, pre: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last epoch's files are complete or they are made again."""
    real, written = run_folder.replace_atomic, list[str]()

    def replace(path: Path, write: Any, **options: Any) -> None:
        def full(draft: Path) -> None:
            write(draft)
            raise OSError(28, "No space left on device")

        written.append(path.name)
        real(path, full if written.count(name) == 2 else write, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "replace_atomic", replace)
        with pytest.raises(RunError, match="No space left"):
            pre(tmp_path / "run")
    pre(tmp_path / "run")
    pre(tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_two_jobs_of_a_queue(fine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one waits for the first one's end, and must not decide before."""
    real, summaries = run_folder.RunFolder.owned, []

    def owned(self: Any, *given: Any, **named: Any) -> Any:
        monkeypatch.setattr(run_folder.RunFolder, "owned", real)
        summaries.append(fine(tmp_path / "run"))
        return real(self, *given, **named)

    monkeypatch.setattr(run_folder.RunFolder, "owned", owned)
    assert fine(tmp_path / "run") == json.loads(json.dumps(summaries[0]))


def test_finished_run_is_said_to_be_finished(
    fine: Any, tmp_path: Path, tiny_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = fine(tmp_path / "run")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
    tiny_data.rename(tmp_path / "gone")
    with caplog.at_level("INFO"):
        assert fine(tmp_path / "run") == json.loads(json.dumps(summary))
    assert "is finished" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()} == times
