"""Tests of `resume` of the commands that write files for images: segment and attention-map."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gtacli.cli import console
from gtacli.inference.results import SegmentSummary

COMMANDS = {
    "segment": ["--backend", "dino", "--ground-truth", "truth"],
    "attention-map": ["--style", "raw"],
}
Run = Callable[..., Any]


@pytest.fixture(params=COMMANDS)
def run(
    request: pytest.FixtureRequest, gta: Any, tiny_model: Path, tmp_path: Path, scene: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:  # fmt: skip
    """Run the command on 30 images, of which one is broken and one is given twice."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "truth").mkdir()
    for i in range(30):
        mask = scene(tmp_path / "in" / f"{i:02}.png", (64, 64 + i))
        Image.fromarray(mask).save(tmp_path / "truth" / f"{i:02}.png")
    (tmp_path / "in" / "07.png").write_bytes(b"no image")
    common = ["in", "in/03.png", "-m", str(tiny_model), "--device", "cpu", "--batch-size", "4"]

    def call(out: str, *more: str) -> Any:
        words = [request.param, *common, *COMMANDS[request.param], "-o", out, "--json", *more]
        return gta(*words)

    return call


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    emit = console.emit

    def interrupted(result: Any) -> None:
        nonlocal count
        emit(result)
        count -= 1
        if count == 0:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(console, "emit", interrupted)


def files(out: str) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in Path(out).rglob("*")
        if path.suffix in (".png", ".npy")
    }


def results(done: Any) -> list[Any]:
    """The lines of a run, whatever its folder and its speed."""
    lines = [json.loads(json.dumps(line).replace("stopped/", "whole/")) for line in done.lines]
    for line in lines:
        summary: SegmentSummary | dict[str, Any] = line.get("summary", {})
        summary.pop("images_per_second", None)  # type: ignore[misc]
    return lines


def test_a_resumed_run_has_the_files_and_the_output_of_an_undisturbed_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("whole")
    assert whole.status == 1
    with monkeypatch.context() as patch:
        stop_after(10, patch)
        assert run("stopped").status == 130
    journal = Path("stopped/journal.jsonl")
    done = len(journal.read_text().splitlines())
    assert 10 <= done < 31
    journal.write_bytes(journal.read_bytes() + b'{"image": "in/')  # half a line
    before = {path: path.stat().st_mtime_ns for path in Path("stopped").rglob("0*.*")}
    resumed = run("stopped", "--resume")
    assert resumed.status == 1
    assert results(resumed) == results(whole)
    assert files("stopped") == files("whole")
    again = {path: path.stat().st_mtime_ns for path in before}
    assert sum(again[path] == before[path] for path in before) >= 8  # not written again
    finished = run("stopped", "--resume")
    assert results(finished) == results(whole)


def test_what_has_changed_or_is_missing_is_made_again(run: Run, scene: Any) -> None:
    run("whole")
    kept = files("whole")
    first = sorted(kept)[0]
    (Path("whole") / first).unlink()
    scene(Path("in/20.png"), (96, 64))
    done = run("whole", "--resume")
    assert done.status == 1
    now = files("whole")
    assert now[first] == kept[first]
    assert {name for name in now if now[name] != kept[name]} <= {n for n in now if "20" in n}


def test_changed_ground_truth_is_compared_again(run: Run, request: Any) -> None:
    from PIL import Image

    if "segment" not in request.node.name:
        pytest.skip("has no ground truth")
    before = results(run("whole"))
    mask = Path("truth/12.png")
    Image.new("L", Image.open(mask).size, 255).save(mask)
    after = results(run("whole", "--resume"))
    assert [a["image"] for a, b in zip(after, before, strict=True) if a != b and "image" in a] == [
        "in/12.png"
    ]
    assert results(run("other"))[-1]["summary"]["mean_iou"] == after[-1]["summary"]["mean_iou"]


def test_a_model_that_was_trained_again_is_refused(run: Run, tiny_model: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    run("whole")
    file = tiny_model / "model.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({k: v * 1.5 for k, v in load_file(file).items()}, file, metadata)
    done = run("whole", "--resume", "-q")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert f"the weights of {tiny_model.name} have changed since the run in whole began" in done.err
    assert run("whole", "--overwrite").status == 1


def test_other_options_are_refused_in_one_line(run: Run) -> None:
    run("whole")
    done = run("whole", "--resume", "--batch-size", "8", "-q")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "--batch-size" in done.err
    assert "is 8, but the run in whole has 4" in done.err
    assert run("whole").status == 2  # as before: not empty


def test_without_an_earlier_run_it_begins(run: Run) -> None:
    assert len(run("new", "--resume").lines) >= 31
    Path("other").mkdir()
    Path("other/file.txt").touch()
    refused = run("other", "--resume")
    assert refused.status == 2
