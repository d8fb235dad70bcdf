"""`make bench`: what it gathers, the table, and what counts as a change. Nothing is timed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path(__file__).parents[2] / "benchmarks"


def value(median: float, low: float, high: float, **other: Any) -> dict[str, Any]:
    same = {"benchmark": "step", "arguments": "--repeats 3", "path": "ratio.gta", "words": "GTA"}
    return {**same, "better": "lower", "median": median, "low": low, "high": high, **other}


def record(*values: dict[str, Any], **other: Any) -> dict[str, Any]:
    machine = {"cpu": "A", "cores": 2, "load": 0.5, "threads": 1, "gpu": None, "commit": "abc"}
    versions = {"python": "3", "torch": "2", "timm": "1", "gta": "0.1"}
    return {**machine, **versions, "values": list(values), **other}


def test_each_benchmark_exists_and_its_values_have_words_of_their_own(bench: ModuleType) -> None:
    missing = [b.script for b in bench.BENCHMARKS if not (FOLDER / f"{b.script}.py").is_file()]
    keys = [(b.script, b.full, v.path) for b in bench.BENCHMARKS for v in b.values]
    words = [v.words for b in bench.BENCHMARKS for v in b.values]
    assert not missing
    assert len(set(keys)) == len(keys)
    assert len(set(words)) == len(words)


def test_options_of_the_table_are_the_scripts(bench: ModuleType) -> None:
    for one in bench.BENCHMARKS:
        source = (FOLDER / f"{one.script}.py").read_text()
        for option in re.findall(r"--[a-z-]+", f"{one.full} {one.quick}"):
            assert f'"{option}"' in source, (one.script, option)


def test_values_are_gathered_by_their_paths(bench: ModuleType) -> None:
    one = bench.Benchmark(
        "step",
        "--full",
        "--quick",
        (
            bench.Value("ratio.gta", "GTA"),
            bench.Value("results.1.mb", "memory"),
            bench.Value("memory.gta", "absent where it is quick", quick=False),
        ),
    )
    line = {
        "ratio": {"gta": {"median": 1.3, "low": 1.2, "high": 1.4}},
        "results": [{}, {"mb": 7}],
    }
    first, second = bench.gather(one, "--quick", line, quick=True)
    assert (first["median"], first["low"], first["high"]) == (1.3, 1.2, 1.4)
    assert (second["median"], second["low"], second["high"]) == (7, 7, 7)
    with pytest.raises(LookupError, match=r"no value at memory\.gta"):
        list(bench.gather(one, "--full", line, quick=False))


def test_rounds_are_combined(bench: ModuleType) -> None:
    other = value(5, 4, 6, path="ratio.kept")
    (one, two) = bench.combine([value(1.3, 1.2, 1.4), other, value(1.1, 1.0, 1.2)])
    assert (one["median"], one["low"], one["high"], one["rounds"]) == (
        pytest.approx(1.2),
        1.0,
        1.4,
        2,
    )
    assert (two["path"], two["median"], two["rounds"]) == ("ratio.kept", 5, 1)


def test_the_table(bench: ModuleType) -> None:
    text = bench.markdown(record(value(1.305, 1.296, 1.31), value(2450, 2400, 2500, words="MB")))
    assert text.splitlines() == [
        "A, 2 cores, load 0.5, 1 thread(s) a benchmark; gta 0.1 (abc), python 3, torch 2, timm 1:",
        "",
        "| | median | interval |",
        "|---|---|---|",
        "| GTA | 1.30 | 1.30 to 1.31 |",
        "| MB | 2450 | 2400 to 2500 |",
    ]
    assert "H100, A, 2 cores, load 0.5, 4 thread(s) a benchmark;" in bench.markdown(
        record(threads=4, gpu="H100")
    )


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ((1.3, 1.2, 1.4), (1.5, 1.35, 1.6), ""),  # the intervals meet
        ((1.3, 1.29, 1.31), (1.34, 1.33, 1.35), ""),  # below the floor
        ((1.3, 1.29, 1.31), (1.4, 1.39, 1.41), "worse: GTA (step): 1.30 before, 1.40 now"),
        ((1.4, 1.39, 1.41), (1.3, 1.29, 1.31), "better: GTA (step): 1.40 before, 1.30 now"),
        ((300, 300, 300), (400, 400, 400), "worse: GTA (step): 300 before, 400 now"),
    ],
)
def test_what_moved(
    bench: ModuleType, old: tuple[float, ...], new: tuple[float, ...], found: str
) -> None:
    lines, worse = bench.compare(record(value(*old)), record(value(*new)), 0.05)
    assert lines == [*([found] if found else []), "1 values compared"]
    assert worse == found.startswith("worse")


def test_higher_may_be_better(bench: ModuleType) -> None:
    old, new = value(2, 1.9, 2.1, better="higher"), value(3, 2.9, 3.1, better="higher")
    assert bench.compare(record(old), record(new), 0.05)[0][0].startswith("better")
    assert bench.compare(record(new), record(old), 0.05)[1]


def test_other_arguments_are_not_compared_and_other_machines_named(bench: ModuleType) -> None:
    other = value(9, 9, 9, arguments="--repeats 99")
    lines, worse = bench.compare(record(value(1, 1, 1)), record(other, torch="3"), 0.05)
    assert lines == ["torch differs: 2 before, 3 now", "0 values compared, 2 in one run alone"]
    assert not worse


intervals = st.tuples(*[st.floats(0.01, 100)] * 3).map(sorted)


@given(intervals, intervals, st.floats(0, 1))
def test_a_change_is_the_same_both_ways(
    bench: ModuleType, one: list[float], other: list[float], floor: float
) -> None:
    a, b = ({"low": low, "median": middle, "high": high} for low, middle, high in (one, other))
    assert bench.moved(a, b, floor) == bench.moved(b, a, floor)
    assert not bench.moved(a, a, floor)


@pytest.fixture
def scripts(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two benchmarks: one prints what it is given, the other fails."""
    monkeypatch.setattr(bench, "HERE", tmp_path)
    (tmp_path / "good.py").write_text(
        "import json, os, sys\nprint('first')\n"
        "print(json.dumps({'x': float(sys.argv[1]), 'y': float(os.environ['OMP_NUM_THREADS'])}))"
    )
    (tmp_path / "bad.py").write_text("raise SystemExit('no luck')")
    values = (bench.Value("x", "number"), bench.Value("y", "threads"))
    table = (
        bench.Benchmark("bad", "", "", values),
        bench.Benchmark("official", "{repos}", "{repos}", values),
        bench.Benchmark("good", "2.5", "1.5", values),
    )
    monkeypatch.setattr(bench, "BENCHMARKS", table)
    return tmp_path


def test_a_benchmark_that_fails_is_named_and_the_others_run(
    bench: ModuleType, scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = scripts / "out" / "new.json"
    assert bench.main(["--quick", "--threads", "3", "--out", str(out)]) == 1
    written = json.loads(out.read_text())
    assert [(v["path"], v["median"], v["arguments"]) for v in written["values"]] == [
        ("x", 1.5, "1.5"),
        ("y", 3.0, "1.5"),
    ]
    printed = capsys.readouterr()
    assert "bad failed: no luck" in printed.err
    assert "official: left out, it needs --repos" in printed.err
    assert "| number | 1.50 | 1.50 to 1.50 |" in printed.out


def test_a_worse_result_is_status_one(
    bench: ModuleType, scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = scripts / "old.json", scripts / "new.json"
    assert bench.main(["--only", "good", "--rounds", "2", "--out", str(old)]) == 0
    assert [v["rounds"] for v in json.loads(old.read_text())["values"]] == [2, 2]
    changed = json.loads(old.read_text())
    changed["values"][0].update(median=5, low=5, high=5)
    new.write_text(json.dumps(changed))
    words = ["--results", str(new), "--compare"]
    assert bench.main([*words, str(new)]) == 0
    assert bench.main([*words, str(old)]) == 1
    assert "worse: number (good): 2.50 before, 5.00 now" in capsys.readouterr().out


@pytest.mark.slow
def test_exports_are_measured_without_cold_starts() -> None:
    """As `make bench` asks for it: the median of no process at all was an error."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    script = FOLDER / "export.py"
    words = ["--model", "test_vit@none", "--batch", "1", "--repeats", "1", "--cold", "0"]
    done = subprocess.run(
        [sys.executable, str(script), *words], cwd=FOLDER, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert "cold_start_cpu_s" not in result
    assert result["batch 1"]["cpu_time_of_pytorch"]["onnxruntime"]
