"""`gta report` as a command, its page without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.cli import main
from gtacli.report.page import as_json, render


class Reader(HTMLParser):
    """What a browser makes of a page: elements, their attributes, texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            tag, attrs, text = self.raw[-1]
            self.raw[-1] = tag, attrs, text + data
        elif data.strip():
            self.words.append(data.strip())


def page_of(file: Path) -> Reader:
    return Reader(file.read_text(encoding="utf-8"))


def report(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["report", *map(str, words)])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Reader:
    file = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", *map(str, runs), "-o", str(file), "--quiet"]) == 0
    return page_of(file)


def data_of(page: Reader) -> dict[str, Any]:
    (text,) = (text for _, attrs, text in page.raw if attrs.get("id") == "data")
    found: dict[str, Any] = json.loads(text)
    return found


def test_no_name_becomes_an_element(page: Reader, classes: tuple[str, ...]) -> None:
    tags = [tag for tag, _ in page.tags]
    assert not {"img", "b", "i"} & {*tags} - {"b"}
    assert tags.count("script") == 3 + sum(
        attrs.get("type") == "text/plain" for tag, attrs in page.tags if tag == "script"
    )
    assert {*data_of(page)["answers"]["classes"][0]} == {*classes}
    assert any("<i>gta-1" in words for words in page.words)


def test_the_policy_names_every_style_and_script_that_runs(page: Reader) -> None:
    (policy,) = (
        attrs["content"] or "" for _, attrs in page.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )  # fmt: skip
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    running = [text for _, attrs, text in page.raw if "type" not in attrs]
    assert len(running) == 3
    for text in running:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not any("src" in attrs or "href" in attrs for _, attrs in page.tags)


def test_the_table_has_means_deviations_and_every_run(runs: list[Path], page: Reader) -> None:
    def top1(run: Path) -> float:
        return float(json.loads((run / "summary.json").read_text())["test_top1"])

    for pair in (runs[0:2], runs[2:4]):
        a, b = (100 * top1(run) for run in pair)
        assert f"{(a + b) / 2:.1f}" in page.words
        assert f"± {abs(a - b) / 2**0.5:.1f}" in page.words
        assert {f"{a:.1f}", f"{b:.1f}"} <= {*page.words}
    assert "incomplete: 2 of 3 epochs" in page.words


def test_curves_hold_the_metrics_per_cent_where_they_are_shares(
    runs: list[Path], page: Reader
) -> None:
    curves = {curve["title"]: curve for curve in data_of(page)["curves"]}
    rows = [json.loads(line) for line in (runs[2] / "metrics.jsonl").read_text().splitlines()]
    assert curves["cross-entropy"]["epochs"] == [0, 1, 2]
    assert curves["cross-entropy"]["runs"][2] == [row["ce"] for row in rows]
    assert curves["validation top-1"]["runs"][2] == [100 * row["val_top1"] for row in rows]
    assert curves["penalty gta, without lam"]["runs"][0] is None
    assert curves["cross-entropy"]["runs"][4][2] is None  # the stopped one's third epoch


def test_counts_are_those_of_the_summaries(runs: list[Path], page: Reader) -> None:
    entries = data_of(page)["answers"]["runs"]
    assert [entry["run"] for entry in entries] == [0, 1, 2, 3]
    for entry, run in zip(entries, runs, strict=False):
        right = sum(count for truth, answer, count in entry["counts"] if truth == answer)
        all_of = sum(count for *_, count in entry["counts"])
        summary = json.loads((run / "summary.json").read_text())
        assert (right / all_of, all_of) == (pytest.approx(summary["test_top1"]), 12)


def test_answers_are_kept_until_the_weights_change(
    copies: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other, out = copies[0], copies[2], tmp_path / "r.html"
    report(capsys, run, "-o", out)
    kept = run / "predictions.json"
    told = json.loads(kept.read_text())
    key = next(k for k, (label, _) in told["top1"].items() if f"test-{label}-" in k)
    told["top1"][key] = [(told["top1"][key][0] + 1) % 3, 0.99]
    kept.write_text(json.dumps(told))
    _, _, err = report(capsys, run, "-o", out)
    assert "right here, but" in err  # the forged answer was taken, and the summary disagrees
    shutil.copy(other / "model.safetensors", run)
    shutil.copy(other / "summary.json", run)
    _, _, err = report(capsys, run, "-o", out)
    assert "right here" not in err


def test_without_images_torch_is_not_loaded(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "r.html"
    code = (
        "import sys; from gtacli.cli import main; status = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    words = ["report", *map(str, runs), "--no-images", "-o", str(out)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    found = data_of(page_of(out))
    assert found["maps"] is None
    assert found["curves"]


def test_json_tells_what_was_written(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.html"
    status, said, _ = report(capsys, *runs, "--json", "--mistakes", 2, "-o", out)
    told = json.loads(said)
    assert status == 0
    assert told.pop("seconds") > 0
    assert told == {
        "report": str(out),
        "runs": 5,
        "complete": 4,
        "images": 5,
        "missing": [],
        "failed": {},
        "bytes": out.stat().st_size,
    }


def test_without_its_data_the_rest_is_shown(
    copies: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in copies:
        record = json.loads((run / "run.json").read_text())
        record["config"]["data"] = "/nowhere/<b>"
        (run / "run.json").write_text(json.dumps(record))
    out = tmp_path / "r.html"
    status, _, err = report(capsys, *copies, "-o", out)
    assert status == 0
    assert "the data set /nowhere/<b> cannot be read" in err
    page = page_of(out)
    assert any("/nowhere/<b> cannot be read" in words for words in page.words)
    assert data_of(page)["answers"] is None
    assert data_of(page)["curves"]


def test_a_run_without_weights_and_a_source_that_is_gone_are_told(
    copies: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copies[0] / "model.safetensors").unlink()
    record = json.loads((copies[1] / "run.json").read_text())
    record["config"]["model"] = "/nowhere/source"
    (copies[1] / "run.json").write_text(json.dumps(record))
    out = tmp_path / "r.html"
    status, _, err = report(capsys, *copies[:3], "-o", out)
    assert status == 0
    assert "no attention maps" in err
    assert [c["run"] for c in data_of(page_of(out))["maps"]["columns"]] == [None, 1, 2]


def test_named_images_are_looked_at_and_a_bad_one_is_told(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = next(runs[0].parent.glob("*test-0-0.png"))
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    out = tmp_path / "r.html"
    words = [runs[0], "--images", good, bad, "--mistakes", 0, "-o", out, "--json"]
    status, said, err = report(capsys, *words)
    assert status == 1
    assert [*json.loads(said)["failed"]] == [str(bad)]
    assert "bad.png" in err
    assert [i["name"] for i in data_of(page_of(out))["maps"]["images"]] == [str(good)]


def test_max_images_takes_them_evenly(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: tuple[str, ...]
) -> None:
    out = tmp_path / "r.html"
    report(capsys, runs[0], "--max-images", 2, "--mistakes", 0, "-o", out)
    shown = [i["label"] for i in data_of(page_of(out))["maps"]["images"]]
    assert len({*shown}) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name the folders"),
        (["nowhere"], "no such folder: nowhere"),
        (["."], "is no run folder (it has no run.json)"),
        (["parent"], "the runs are in it: parent/*"),
        (["parent/damaged"], "run.json cannot be read"),
        (["parent/list"], "holds no JSON object"),
        (["parent/rows"], "metrics.jsonl cannot be read"),
        (["parent/fine", "-o", "parent"], "--out: parent is a folder"),
    ],
)
def test_what_is_no_run_is_one_line_and_status_2(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("damaged", "{"), ("list", "[]"), ("rows", "{}"), ("fine", "{}")):
        (tmp_path / "parent" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "parent" / name / "run.json").write_text(text)
    (tmp_path / "parent/rows/metrics.jsonl").write_text("{\n")
    status, out, err = report(capsys, *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_a_run_that_has_hardly_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    out = tmp_path / "r.html"
    status, _, _ = report(capsys, tmp_path / "run", "-o", out)
    assert status == 0
    assert "incomplete: 0 of ? epochs" in page_of(out).words


@given(st.recursive(st.text() | st.none() | st.integers(), lambda inner: st.lists(inner)))
def test_json_stays_in_its_element_and_is_read_as_it_was(value: Any) -> None:
    text = as_json(value)
    assert not re.search("[<>&]", text)
    assert json.loads(text) == value


@given(st.text())
def test_titles_and_notes_are_text(text: str) -> None:
    places = dict.fromkeys(("results", "probes", "common", "provenance", "footer"), "")
    page = Reader(render(text, text, [text], places, {}, {}))
    plain = Reader(render("", "", ["x"], places, {}, {}))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]


def test_tracked_attention_is_a_curve_of_the_last_block(
    copies: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (copies[0] / "metrics.jsonl").read_text().splitlines()
    tracked = {"inside": [0.1, 0.2, 0.3], "entropy": [1.0, 2.0, 3.0], "kl": None, "area": 0.4}
    told = [json.dumps(json.loads(row) | {"attention": tracked}) for row in rows]
    (copies[0] / "metrics.jsonl").write_text("\n".join(told))
    out = tmp_path / "r.html"
    report(capsys, copies[0], "--no-images", "-o", out)
    curves = {curve["title"]: curve["runs"][0] for curve in data_of(page_of(out))["curves"]}
    assert curves["attention on object"] == [30.0] * 3
    assert curves["attention entropy"] == [3.0] * 3
