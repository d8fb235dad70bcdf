"""The command `gta report` and its page, without a browser."""

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
import torch
from hypothesis import given
from hypothesis import strategies as st

from gtacli.cli import main
from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.run import finetune
from gtacli.report.page import as_json, render_page
from gtacli.report.predictions import Predictions, Predictor
from gtacli.report.sections import TableSection
from gtacli.training.loop import SilentObserver


class PageParser(HTMLParser):
    """A parser that collects elements, attributes, words, and the text of scripts and styles."""

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


def page_of(file: Path) -> PageParser:
    return PageParser(file.read_text(encoding="utf-8"))


def report(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["report", *map(str, words)])
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> PageParser:
    file = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", *map(str, runs), "-o", str(file), "--quiet"]) == 0
    return page_of(file)


def data_of(page: PageParser) -> dict[str, Any]:
    (text,) = (text for _, attrs, text in page.raw if attrs.get("id") == "data")
    data: dict[str, Any] = json.loads(text)
    return data


def test_names_never_become_elements(page: PageParser, classes: tuple[str, ...]) -> None:
    tags = [tag for tag, _ in page.tags]
    assert not {"img", "b", "i"} & {*tags} - {"b"}
    assert tags.count("script") == 3 + sum(
        attrs.get("type") == "text/plain" for tag, attrs in page.tags if tag == "script"
    )
    assert {*data_of(page)["predictions"]["classes"][0]} == {*classes}
    assert any("<i>gta-1" in words for words in page.words)


def test_policy_has_the_hash_of_every_style_and_script(page: PageParser) -> None:
    (policy,) = (
        attrs["content"] or "" for _, attrs in page.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )  # fmt: skip
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    executable = [text for _, attrs, text in page.raw if "type" not in attrs]
    assert len(executable) == 3
    for text in executable:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not any("src" in attrs or "href" in attrs for _, attrs in page.tags)


def test_table_has_means_deviations_and_every_run(runs: list[Path], page: PageParser) -> None:
    def top1(run: Path) -> float:
        return float(json.loads((run / "summary.json").read_text())["test_top1"])

    for pair in (runs[0:2], runs[2:4]):
        a, b = (100 * top1(run) for run in pair)
        assert f"{(a + b) / 2:.1f}" in page.words
        assert f"± {abs(a - b) / 2**0.5:.1f}" in page.words
        assert {f"{a:.1f}", f"{b:.1f}"} <= {*page.words}
    assert "incomplete: 2 of 3 epochs" in page.words


def test_run_without_test_images_shows_its_held_out_ones(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = runs[0].parent
    lines = (root / "images.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    table = root / "train-only.csv"
    table.write_text("".join(line for line in lines if ",test" not in line), encoding="utf-8")
    options = {"model": str(root / "source"), "data": str(table), "hold_out": 40.0, "epochs": 1}
    folders = [tmp_path / "plain", tmp_path / "refit"]
    for out in folders:
        config = FinetuneConfig(
            **options, out=out, refit=out.name == "refit", device="cpu", workers=0
        )
        finetune(config, SilentObserver())
    status, _, err = report(capsys, *folders, "-o", tmp_path / "report.html")
    assert status == 0, err
    held_out = json.loads((folders[0] / "split.json").read_text())["val"]
    found = json.loads((folders[0] / "predictions.json").read_text())["top1"]
    assert len(held_out) == 6
    assert {*found} == {*held_out}
    assert not (folders[1] / "predictions.json").exists()  # a refit has learned them
    shown = data_of(page_of(tmp_path / "report.html"))["predictions"]
    assert sum(count for _, _, count in shown["runs"][0]["counts"]) == 6
    assert "held-out images are correct" not in err


def test_curves_contain_the_metrics_fractions_in_percent(
    runs: list[Path], page: PageParser
) -> None:
    curves = {curve["title"]: curve for curve in data_of(page)["curves"]}
    rows = [json.loads(line) for line in (runs[2] / "metrics.jsonl").read_text().splitlines()]
    assert curves["cross-entropy"]["epochs"] == [1, 2, 3]  # as the log counts
    assert curves["cross-entropy"]["runs"][2] == [row["ce"] for row in rows]
    assert curves["validation top-1"]["runs"][2] == [100 * row["val_top1"] for row in rows]
    assert curves["penalty gta, before lam"]["runs"][0] is None
    assert curves["cross-entropy"]["runs"][4][2] is None  # the third epoch of the stopped run


def test_counts_agree_with_the_summaries(runs: list[Path], page: PageParser) -> None:
    entries = data_of(page)["predictions"]["runs"]
    assert [entry["run"] for entry in entries] == [0, 1, 2, 3]
    for entry, run in zip(entries, runs, strict=False):
        correct = sum(count for truth, label, count in entry["counts"] if truth == label)
        total = sum(count for *_, count in entry["counts"])
        summary = json.loads((run / "summary.json").read_text())
        assert (correct / total, total) == (pytest.approx(summary["test_top1"]), 12)


def test_predictions_are_cached_until_the_weights_change(
    copies: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other, out = copies[0], copies[2], tmp_path / "r.html"
    report(capsys, run, "-o", out)
    cache = run / "predictions.json"
    content = json.loads(cache.read_text())
    key = next(k for k, (label, _) in content["top1"].items() if f"test-{label}-" in k)
    content["top1"][key] = [(content["top1"][key][0] + 1) % 3, 0.99]
    cache.write_text(json.dumps(content))
    _, _, err = report(capsys, run, "-o", out)
    assert "correct here, but" in err  # the forged prediction was used; the summary disagrees
    shutil.copy(other / "model.safetensors", run)
    shutil.copy(other / "summary.json", run)
    _, _, err = report(capsys, run, "-o", out)
    assert "correct here" not in err


def test_no_images_does_not_import_torch(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "r.html"
    code = (
        "import sys; from gtacli.cli import main; status = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    words = ["report", *map(str, runs), "--no-images", "-o", str(out)]
    process = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, f"{out}\n", "")
    data = data_of(page_of(out))
    assert data["maps"] is None
    assert data["curves"]


def test_json_result(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.html"
    status, stdout, _ = report(capsys, *runs, "--json", "--mistakes", 2, "-o", out)
    result = json.loads(stdout)
    assert status == 0
    assert result.pop("seconds") > 0
    assert result == {
        "report": str(out),
        "runs": 5,
        "complete": 4,
        "images": 5,
        "missing": [],
        "failed": {},
        "confusion": [],
        "bytes": out.stat().st_size,
    }


def test_predictions_are_made_at_the_precision_of_the_run(
    capsys: pytest.CaptureFixture[str],
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: runs trained in bf16 were predicted in fp32, and a difference was warned of."""
    dtypes: list[torch.dtype] = []

    def predict(self: Predictor, *args: Any) -> Predictions:
        dtypes.append(args[-1].dtype)
        return original(self, *args)

    original = Predictor.predict
    monkeypatch.setattr(Predictor, "predict", predict)
    copies = []
    for precision in ("fp32", "bf16", "fp16"):  # the last one no CPU has
        copies.append(Path(shutil.copytree(runs[0], tmp_path / precision)))
        (copies[-1] / "predictions.json").unlink(missing_ok=True)
        record = json.loads((copies[-1] / "run.json").read_text())
        assert record["precision"] == "fp32"
        (copies[-1] / "run.json").write_text(json.dumps(record | {"precision": precision}))
    words = ["--quiet", "--device", "cpu", "-o", tmp_path / "r.html"]
    for more in ([], ["--precision", "fp32"]):
        assert report(capsys, *copies, *words, *more)[0] == 0
    bf16, fp32 = torch.bfloat16, torch.float32
    assert dtypes == [fp32, bf16, fp32, fp32]  # the second report has the first one's, where it can


def test_a_page_that_cannot_be_written_fails_before_anything_is_computed(
    capsys: pytest.CaptureFixture[str], runs: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    (run / "predictions.json").unlink(missing_ok=True)
    status, _, err = report(capsys, run, "-o", tmp_path / "file" / "r.html")
    assert (status, err.count("\n")) == (3, 1)
    assert "cannot write" in err
    assert not (run / "predictions.json").exists()


def test_report_of_runs_without_their_dataset(
    copies: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in copies:
        record = json.loads((run / "run.json").read_text())
        record["config"]["data"] = "/nowhere/<b>"
        (run / "run.json").write_text(json.dumps(record))
    out = tmp_path / "r.html"
    status, _, err = report(capsys, *copies, "-o", out)
    assert status == 0
    assert "the dataset /nowhere/<b> cannot be read" in err
    page = page_of(out)
    assert any("/nowhere/<b> cannot be read" in words for words in page.words)
    assert data_of(page)["predictions"] is None
    assert data_of(page)["curves"]


def test_missing_weights_and_missing_source_are_noted(
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


def test_named_images_are_shown_and_an_unreadable_one_is_reported(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = next(runs[0].parent.glob("*test-0-0.png"))
    bad = tmp_path / "bad.png"
    bad.write_text("not an image")
    out = tmp_path / "r.html"
    words = [runs[0], "--images", good, bad, "--mistakes", 0, "-o", out, "--json"]
    status, stdout, err = report(capsys, *words)
    assert status == 1
    assert [*json.loads(stdout)["failed"]] == [str(bad)]
    assert "bad.png" in err
    assert [i["name"] for i in data_of(page_of(out))["maps"]["images"]] == [str(good)]


def test_max_images_limits_the_test_images(
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
        (["."], "is not a run folder (it has no run.json)"),
        (["parent"], "its subfolders are runs: parent/*"),
        (["parent/damaged"], "run.json cannot be read"),
        (["parent/list"], "is not a JSON object"),
        (["parent/rows"], "metrics.jsonl cannot be read"),
        (["parent/fine", "-o", "parent"], "--out: parent is a folder"),
    ],
)
def test_wrong_folders_end_with_status_2_and_one_line(
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


def test_run_without_any_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    out = tmp_path / "r.html"
    status, _, _ = report(capsys, tmp_path / "run", "-o", out)
    assert status == 0
    assert "incomplete: 0 of ? epochs" in page_of(out).words


@given(st.recursive(st.text() | st.none() | st.integers(), lambda inner: st.lists(inner)))
def test_embedded_json_stays_in_its_element_and_is_unchanged(value: Any) -> None:
    text = as_json(value)
    assert not re.search("[<>&]", text)
    assert json.loads(text) == value


@given(st.text())
def test_titles_and_notes_are_escaped(text: str) -> None:
    empty: dict[str, Any] = dict.fromkeys(("results", "probes", "shared", "runs"), ())

    def parse(word: str, note: str) -> PageParser:
        section = TableSection(word, [word, word], [[word, word]], [note], word.encode() or b"x")
        texts = {"title": word, "subtitle": word, "notes": [note], "footer": word}
        texts["sections"] = [section]
        texts["calibration"] = texts["labels"] = section
        return PageParser(render_page(empty | texts, {}, {}))

    page, plain = parse(text, text), parse("", "x")
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]


def test_tracked_attention_of_the_last_block_is_a_curve(
    copies: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (copies[0] / "metrics.jsonl").read_text().splitlines()
    tracked = {"inside": [0.1, 0.2, 0.3], "entropy": [1.0, 2.0, 3.0], "kl": None, "area": 0.4}
    changed = [json.dumps(json.loads(row) | {"attention": tracked}) for row in rows]
    (copies[0] / "metrics.jsonl").write_text("\n".join(changed))
    out = tmp_path / "r.html"
    report(capsys, copies[0], "--no-images", "-o", out)
    curves = {curve["title"]: curve["runs"][0] for curve in data_of(page_of(out))["curves"]}
    assert curves["attention on object"] == [30.0] * 3
    assert curves["attention entropy"] == [3.0] * 3
