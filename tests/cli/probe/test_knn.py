"""Tests of `gta probe knn`, and of what all feature probes share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import binomtest

from gtacli.cli import main
from gtacli.executors.base import Executor, ExecutorOptions, Job, ThreadJob
from gtacli.probing.results import KnnResult
from gtacli.registry import EXECUTORS

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}


def saved(folder: Path, seed: int = 0, spoil: float | None = None) -> Path:
    torch.manual_seed(seed)
    arch = "vit_tiny_patch16_224"
    model = timm.create_model(arch, num_classes=7, **TINY)
    if spoil is not None:
        model.state_dict()["patch_embed.proj.weight"].fill_(spoil)
    folder.mkdir()
    metadata = {"architecture": arch, "kwargs": json.dumps(TINY), "num_classes": "7"}
    save_file(model.state_dict(), folder / "model.safetensors", metadata)
    return folder


def photos(root: Path, counts: dict[str, tuple[int, ...]]) -> Path:
    """Write noisy images whose color is their class's; `counts` are by split and class."""
    for part, of in counts.items():
        for label, count in enumerate(of):
            for i in range(count):
                rng = np.random.default_rng((len(part), label, i))
                pixels = rng.integers(0, 226, (36, 44, 3))
                pixels[..., label % 3] += 30
                path = root / part / f"class{label}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return photos(tmp_path / "data", {"train": (8, 8, 8), "val": (6, 6, 6)})


def words(model: Path, data: Path, out: Path, *more: object) -> list[str]:
    start = ["probe", "knn", "-m", str(model), "--data", str(data), "-o", str(out)]
    return [*start, "--device", "cpu", *map(str, more)]


def stored(folder: Path) -> dict[int, tuple[Any, Any]]:
    """Read the features of a cache without our code, by their number of images."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "np") as part:
            values = part.get_tensor("values").astype(np.float64)
            found[len(values)] = (values, part.get_tensor("labels"))
    return found


def votes(
    train: tuple[Any, Any], test: tuple[Any, Any], k: int, temperature: float, classes: int
) -> list[bool]:
    """Run DINO's classifier in float64."""
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x, _ in (train, test))
    right = []
    for query, label in zip(queries, test[1], strict=True):
        cosines = bank @ query
        scores = np.zeros(classes)
        for i in np.argsort(-cosines)[:k]:
            scores[train[1][i]] += np.exp(cosines[i] / temperature)
        right.append(bool(scores.argmax() == label))
    return right


def test_json_has_the_accuracy_of_the_vote(
    gta: Any, check_fields: Any, model: Path, data: Path, tmp_path: Path
) -> None:
    more = ("--k", "5,1,50", "--temperature", "0.07,1", "--json")
    done = gta(*words(model, data, tmp_path / "out", *more))
    assert done.status == 0, done.err
    (line,) = done.lines
    check_fields(KnnResult, line)
    features = stored(tmp_path / "out" / "features")
    train, test = features[24], features[18]
    for temperature in (0.07, 1.0):
        for k in (1, 5, 50):  # 50 is more than there are
            accuracy = np.mean(votes(train, test, k, temperature, 3))
            assert line["temperatures"][f"{temperature:g}"][str(k)] == pytest.approx(accuracy)
    assert line["knn"] == line["temperatures"]["0.07"]
    assert line["top1"] == line["knn"]["5"]  # the first k, as 20 is not among them
    assert (line["k"], line["temperature"], line["top5"]) == (5, 0.07, 1.0)
    right = round(18 * line["top1"])
    interval = binomtest(right, 18).proportion_ci(0.95, "wilson")
    assert (
        line["top1_interval"]
        == line["knn_interval"]["5"]
        == pytest.approx([interval.low, interval.high])
    )
    known = ("task", "features", "layer", "n_train", "n_test", "test_part")
    assert [line[name] for name in known] == ["knn", "cls", [2], 24, 18, "val"]
    assert json.loads((tmp_path / "out/summary.json").read_text())["results"] == [line]
    assert json.loads((tmp_path / "out/run.json").read_text())["command"] == "probe knn"


def test_the_table(gta: Any, model: Path, data: Path, tmp_path: Path) -> None:
    done = gta(*words(model, data, tmp_path / "out"))
    lines = done.out.splitlines()
    assert lines[0] == "24 training images, 18 to test on (its validation split)"
    assert [line.split("  ")[0] for line in lines[2:]] == [
        *("k 10", "k 20", "k 100", "k 200"), "top 5, k 20"
    ]  # fmt: skip


def test_models_are_compared_image_by_image(
    gta: Any, model: Path, data: Path, tmp_path: Path
) -> None:
    other = saved(tmp_path / "other", seed=1)
    done = gta(*words(model, data, tmp_path / "out", "--k", 5, "--json", "--compare", other, model))
    first, second, third = done.lines
    assert "compared" not in first
    assert third["compared"]["top1"]["difference"] == 0
    assert third["compared"]["top1"]["p"] == 1
    files = {}
    for file in (tmp_path / "out/features").glob("*.safetensors"):
        with safe_open(file, "np") as part:
            spec = json.loads(part.metadata()["kind"])["model"]
            values = part.get_tensor("values").astype(np.float64)
            files[spec, len(values)] = (values, part.get_tensor("labels"))
    right = [
        np.array(votes(files[str(spec), 24], files[str(spec), 18], 5, 0.07, 3))
        for spec in (model, other)
    ]
    gained, lost = (int((a & ~b).sum()) for a, b in (right[::-1], right))
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert second["compared"]["top1"]["p"] == pytest.approx(p)
    assert second["compared"]["knn@5"]["difference"] == pytest.approx((gained - lost) / 18)
    table = gta(*words(model, data, tmp_path / "out", "--k", 5, "--compare", other)).out
    assert table.splitlines()[1].split() == [
        "model",
        "95",
        "%",
        "other",
        *["95", "%", "more", "p", "test"],
    ]


def test_a_folder_is_shared_by_later_probes_only(
    gta: Any, model: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    gta(*words(model, data, out))
    before = {p: p.stat().st_mtime_ns for p in (out / "features").iterdir()}
    gta(*words(model, data, out, "--k", 3))
    assert {p: p.stat().st_mtime_ns for p in (out / "features").iterdir()} == before
    (result,) = json.loads((out / "summary.json").read_text())["results"]
    assert list(result["knn"]) == ["3"]  # replaced by the same probe
    gta(*words(model, data, out, "--features", "mean"))
    assert len(json.loads((out / "summary.json").read_text())["results"]) == 2
    (tmp_path / "used").mkdir()
    (tmp_path / "used/diary.txt").write_text("")
    refused = gta(*words(model, data, tmp_path / "used"))
    assert refused.status == 2
    assert "is not empty" in refused.err


def test_overwrite_removes_another_commands_run_unless_it_has_weights(
    gta: Any, model: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    run = {"run.json": '{"command": "finetune"}', "summary.json": '{"test_top1": 1}'}
    for name, text in {**run, "model.safetensors": "weights"}.items():
        (out / name).write_text(text)
    for more in ([], ["--overwrite"]):
        refused = gta(*words(model, data, out, *more))
        assert refused.status == 2
        assert "holds a trained model" in refused.err
        assert {p.name: p.read_text() for p in out.iterdir()}.items() >= run.items()
    (out / "model.safetensors").unlink()
    assert gta(*words(model, data, out)).status == 2
    assert gta(*words(model, data, out, "--overwrite", "--dry-run")).status == 0
    assert (out / "summary.json").read_text() == run["summary.json"]
    done = gta(*words(model, data, out, "--overwrite"))
    assert done.status == 0, done.err
    (result,) = json.loads((out / "summary.json").read_text())["results"]
    assert result["task"] == "knn"


def test_an_unreadable_image_is_reported_and_the_status_is_1(
    gta: Any, model: Path, data: Path, tmp_path: Path
) -> None:
    (data / "train/class1/3.png").write_bytes(b"no image")
    for _ in range(2):  # from the cache too
        done = gta(*words(model, data, tmp_path / "out", "--json"))
        assert done.status == 1
        assert done.err.count("class1/3.png") == 1
        error, result = done.lines
        assert error["image"] == "train/class1/3.png"
        assert result["n_train"] == 23


@pytest.mark.parametrize(
    ("train", "test"),
    [((2, 1), (1, 2)), ((9,), (3,)), ((4, 0, 4), (2, 0, 2)), ((3, 3, 3), (2, 0, 0))],
    ids=["three test images", "one class", "a class without images", "classes without test images"],
)
def test_small_and_unbalanced_datasets(
    gta: Any, model: Path, tmp_path: Path, train: tuple[int, ...], test: tuple[int, ...]
) -> None:
    data = photos(tmp_path / "data", {"train": train, "test": test})
    done = gta(*words(model, data, tmp_path / "out", "--json"))
    assert done.status == 0, done.err
    (line,) = done.lines
    assert (line["n_train"], line["n_test"]) == (sum(train), sum(test))
    low, high = line["top1_interval"]
    assert 0 <= low <= line["top1"] <= high <= 1
    if len(train) == 1:
        assert line["top1"] == 1


def test_without_a_test_split_some_images_are_held_out(
    gta: Any, model: Path, tmp_path: Path
) -> None:
    data = photos(tmp_path / "data", {"train": (10, 10)})
    done = gta(*words(model, data, tmp_path / "out"))
    assert done.out.startswith("16 training images, 4 to test on (held out of training)")
    few = photos(tmp_path / "few", {"train": (2, 2)})
    refused = gta(*words(model, few, tmp_path / "few-out"))
    assert refused.status == 2
    assert "has no test split" in refused.err


def test_weights_that_give_nan_end_the_run(gta: Any, data: Path, tmp_path: Path) -> None:
    spoilt = saved(tmp_path / "spoilt", spoil=3e38)  # finite, but no output is
    done = gta(*words(spoilt, data, tmp_path / "out"))
    assert done.status == 3
    assert "not finite" in done.err
    assert not done.out


def test_a_dry_run_writes_nothing(gta: Any, model: Path, data: Path, tmp_path: Path) -> None:
    done = gta(*words(model, data, tmp_path / "out", "--dry-run", "--json", "--batch-size", 4))
    assert done.status == 0
    assert done.lines[0]["n_test"] == 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--k", "0"], "must be at least 1"),
        (["--temperature", "0"], "must be more than 0"),
        (["--k", "many"], "--k"),
        (["--layer", "7"], "there is no block 7"),
        (["--data", "nowhere/at/all"], "no such file or folder"),
    ],
)
def test_errors_are_one_line(
    gta: Any, model: Path, data: Path, tmp_path: Path, given: list[str], said: str
) -> None:
    done = gta(*words(model, data, tmp_path / "out"), *given)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_model_and_data_are_required(gta: Any) -> None:
    assert "--model: name a pre-trained ViT" in gta("probe", "knn").err
    assert "--data: name a labeled" in gta("probe", "knn", "-m", "x").err


def test_features_are_cached_in_a_given_folder(
    gta: Any, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gta(*words(model, data, tmp_path / "out", "--cache", tmp_path / "kept"))
    assert len(list((tmp_path / "kept").iterdir())) == 2
    monkeypatch.chdir(tmp_path)
    gta("probe", "knn", "-m", str(model), "--data", str(data), "--device", "cpu")
    assert len(list((tmp_path / "runs/features").iterdir())) == 2


def test_processes_share_a_dry_run(
    model: Path, data: Path, tmp_path: Path, together: Callable[..., list[Any]]
) -> None:
    command = words(model, data, tmp_path / "out", "--workers", 0, "--dry-run")
    assert together(lambda rank: main(command)) == [0, 0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_processes_share_the_work_and_print_once(
    gta: Any, model: Path, data: Path, tmp_path: Path
) -> None:
    command = words(model, data, tmp_path / "two", "--k", "5", "--json", "--precision", "fp32")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, "-m", "gtacli", *command], check=True, capture_output=True, text=True
    )
    (shared,) = map(json.loads, done.stdout.splitlines())
    (alone,) = gta(*words(model, data, tmp_path / "one", "--k", "5", "--json")).lines
    for name in ("knn", "top1", "top5", "n_train", "n_test"):
        assert shared[name] == alone[name]
    files = [
        {p.name: p.read_bytes() for p in (tmp_path / out / "features").iterdir()}
        for out in ("one", "two")
    ]
    assert files[0].keys() == files[1].keys()
    assert files[0] == files[1]


class Here(Executor[ExecutorOptions]):
    """An executor whose commands run in this process, and that counts them."""

    ran: ClassVar[list[list[str]]] = []

    def submit(self, words: Sequence[str], log: Path) -> Job:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.ran.append(list(words))
        status = main(list(words))
        return ThreadJob(lambda: status)


def test_an_executor_extracts_the_same_features_in_parts(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--compare", str(saved(tmp_path / "other", 1)), "--json"]
    assert main(words(model, data, tmp_path / "one", *more)) == 0
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    Here.ran.clear()
    parts = words(model, data, tmp_path / "parts", *more, "--executor", "here", "--jobs", "3")
    with EXECUTORS.registered("here", Here):
        assert main(parts) == 0
        # Two models in three parts, each of the images to train and to test on.
        assert len(Here.ran) == 6
        capsys.readouterr()
        assert main(parts) == 0
        assert len(Here.ran) == 6  # all is cached
    together = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    drop = {"seconds"}
    assert [{k: r[k] for k in r.keys() - drop} for r in together] == [
        {k: r[k] for k in r.keys() - drop} for r in alone
    ]
    files = [
        {path.name: path.read_bytes() for path in folder.glob("features/*.safetensors")}
        for folder in (tmp_path / "one", tmp_path / "parts")
    ]
    assert len(files[0]) == 4
    assert files[0] == files[1]
    assert {path.name for path in (tmp_path / "parts" / "features").iterdir()} == set(files[0])


def test_parts_by_hand_extract_all_features_and_measure_nothing(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They left the images to test on, and later models; of whole features they measured."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    given = words(model, data, out, "--compare", str(saved(tmp_path / "other", 1)))
    given += ["--cache", str(cache)]
    for part in ("0/2", "1/2"):
        assert main([*given, "--shard", part]) == 0
    assert sorted(len(list(folder.iterdir())) for folder in cache.iterdir()) == [18, 18, 24, 24]
    assert main([*given, "--shard", "0/2"]) == 0
    assert capsys.readouterr().out == ""
    assert not out.exists()
    assert main(given) == 0
    assert {path.suffix for path in cache.iterdir()} == {".safetensors"}
    capsys.readouterr()
    assert main([*given, "--shard", "0/2"]) == 0
    assert capsys.readouterr().out == ""


def test_no_part_is_without_images(model: Path, data: Path, tmp_path: Path) -> None:
    """A thousand jobs for 42 images were a thousand processes."""
    Here.ran.clear()
    given = words(model, data, tmp_path / "out", "--executor", "here", "--jobs", "1000")
    with EXECUTORS.registered("here", Here):
        assert main([*given]) == 0
    assert [ran[-1] for ran in Here.ran] == [f"{n}/24" for n in range(24)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--executor", "lokal"], "did you mean 'local'"),
        (
            ["--executor", "slurm", "--cluster", "locl", "--dry-run"],
            "error: cluster: must be one of slurm, local, got 'locl'",
        ),
        (
            ["--executor", "slurm", "--partition", "a b"],
            "error: partition: must be one word of letters, digits",
        ),
        (["--shard", "0/2"], "`shard` needs `cache`"),
        (["--shard", "2/2", "--cache", "c"], "must be I/N"),
        (["--shard", "0/2", "--cache", "c", "--executor", "local"], "is one part"),
    ],
    ids=["name", "choice", "word", "no cache", "range", "both"],
)
def test_wrong_parts_are_refused(
    words: list[str],
    message: str,
    model: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["probe", "knn", "-m", str(model), "--data", str(data), "-o", str(tmp_path / "out")]
    assert main([*given, *words]) == 2
    assert message.replace("`", "") in capsys.readouterr().err.replace("--", "")
