"""End-to-end tests of fine-tuning on a tiny dataset."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import gtacli.finetuning.phases as phases
import gtacli.finetuning.run as module
from gtacli import load_model
from gtacli.config.finetune import FinetuneConfig
from gtacli.data.augment.augmentation import Augmentation
from gtacli.errors import GtaError, RunError, UsageError
from gtacli.finetuning.run import finetune
from gtacli.models.tap import TappedViT
from gtacli.runtime.run_folder import RunFolder

Make = Callable[..., FinetuneConfig]
SUMMARY = {
    "command", "run", "n_train", "n_val", "n_test", "epochs", "test_top1", "test_top5",
    "best_epoch", "attention_drift", "seconds", "images_per_second", "peak_memory_mb",
}  # fmt: skip
ROW = {
    "epoch", "train_loss", "ce", "reg.gta", "val_top1", "attention_drift",
    "images_per_second", "lr",
}  # fmt: skip


def test_files_of_the_run_folder(config: Make, recorder: Any, tmp_path: Path) -> None:
    summary = finetune(config(), recorder)
    run = tmp_path / "run"
    assert set(summary) >= SUMMARY
    assert (summary["n_train"], summary["n_val"], summary["n_test"]) == (15, 3, 12)
    assert summary["test_top1"] > 0.5  # colors are easy
    assert json.loads((run / "summary.json").read_text()) == summary
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows] == [0, 1, 2]
    assert all(set(r) >= ROW for r in rows)
    record = json.loads((run / "run.json").read_text())
    assert record["config"]["epochs"] == 3
    assert record["versions"]["torch"] == torch.__version__
    split = json.loads((run / "split.json").read_text())
    assert not set(split["train"]) & set(split["val"])
    assert torch.load(run / "state.pt", weights_only=True)["progress"]["epoch"] == 3
    assert not list(run.glob(".*"))  # nothing half written is left


@pytest.mark.parametrize("workers", [0, 2])
def test_cpu_time_of_a_run(
    workers: int, config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts what the loading processes use: here a fifth of a second for each image."""
    seen = tmp_path / "seen"
    seen.mkdir()

    def work(self: Any, *args: Any) -> Any:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        (seen / str(time.time_ns())).touch()
        return original(self, *args)

    original = Augmentation.make_view
    monkeypatch.setattr(Augmentation, "make_view", work)
    summary = finetune(config(workers=workers, epochs=1, out=tmp_path / "run"), recorder)
    assert len([*seen.iterdir()]) >= 15
    assert summary["cpu_seconds"] > 0.2 * len([*seen.iterdir()])


def test_saved_model_loads_and_predicts(config: Make, recorder: Any, tmp_path: Path) -> None:
    summary = finetune(config(), recorder)
    loaded = load_model(str(tmp_path / "run"))
    assert loaded.classes == ("blue", "green", "red")
    assert not loaded.report.missing
    assert not loaded.report.unexpected
    hits = 0
    for image in sorted((tmp_path / "tiny-data" / "test").rglob("*.png")):
        with torch.no_grad():
            logits = loaded.model(loaded.preprocess(Image.open(image))[None])
        hits += loaded.classes[int(logits.argmax())] == image.parent.name
    assert hits / 12 == pytest.approx(summary["test_top1"])


def test_val_loss_is_cross_entropy_of_held_out_images(
    config: Make, recorder: Any, tmp_path: Path
) -> None:
    finetune(config(epochs=1), recorder)
    loaded = load_model(str(tmp_path / "run"))
    losses = []
    for key in json.loads((tmp_path / "run" / "split.json").read_text())["val"]:
        path = tmp_path / "tiny-data" / key
        with torch.no_grad():
            logits = loaded.model(loaded.preprocess(Image.open(path))[None])[0]
        losses.append(-logits.log_softmax(-1)[loaded.classes.index(path.parent.name)].item())
    assert recorder.rows[0]["val_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_run_is_reproducible(config: Make, recorder: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        finetune(config(out=tmp_path / name), recorder)
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("a", "b"))
    assert all(torch.equal(first[k], second[k]) for k in first)
    finetune(config(out=tmp_path / "c", seed=1), recorder)
    third = load_file(tmp_path / "c" / "model.safetensors")
    assert not all(torch.equal(first[k], third[k]) for k in first)


def test_source_stays_unchanged(config: Make, recorder: Any, jobs: list[Any]) -> None:
    finetune(config(), recorder)
    job = jobs[0]
    fresh = load_model(job.config.model).model
    for name, _ in fresh.named_parameters():
        if not name.startswith("head"):
            module_name, _, leaf = name.rpartition(".")
            now = getattr(job.source.model.get_submodule(module_name), leaf)
            assert torch.equal(now, fresh.get_parameter(name))
    assert not any(p.requires_grad for p in job.source.model.parameters())
    assert not job.source.model.training
    mine = {id(p) for p in job.task.parameters()}
    assert not any(id(p) in mine for p in job.source.model.parameters())


@pytest.mark.parametrize(
    ("regularizer", "passes"),
    [("none", 0), ("l2-sp", 0), ("bss", 0), ("gta", 1)],
)
def test_source_runs_only_if_needed(
    regularizer: str, passes: int, config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[TappedViT] = []
    forward = TappedViT.forward

    def spy(self: TappedViT, images: torch.Tensor) -> Any:
        if not torch.is_grad_enabled():
            ran.append(self)
        return forward(self, images)

    monkeypatch.setattr(TappedViT, "forward", spy)
    finetune(config(regularizer=regularizer, drift=False, epochs=1), recorder)
    evaluation = 1 + 2  # a batch of validation, two of test
    assert len(ran) == passes * 4 + evaluation


def test_regularizers_are_logged_separately(config: Make, recorder: Any) -> None:
    finetune(config(regularizer=["gta", "bss:0.01", "l2-sp"], epochs=1), recorder)
    row = recorder.rows[0]
    assert {"reg.gta", "reg.bss", "reg.l2-sp"} <= set(row)
    expected = row["ce"] + 0.1 * row["reg.gta"] + 0.01 * row["reg.bss"] + 0.01 * row["reg.l2-sp"]
    assert row["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_zero_strength_is_no_regularizer(config: Make, recorder: Any, tmp_path: Path) -> None:
    finetune(config(regularizer="gta:0", out=tmp_path / "a"), recorder)
    finetune(config(regularizer="none", out=tmp_path / "b"), recorder)
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_drift_is_measured_for_every_method(config: Make, recorder: Any) -> None:
    for regularizer in ("none", "gta:1", "l2-sp"):
        finetune(config(regularizer=regularizer, epochs=2, overwrite=True), recorder)
    none, gta, l2sp = (recorder.rows[i]["attention_drift"] for i in (1, 3, 5))
    assert none > gta > 0
    assert l2sp > 0


def test_drift_is_the_gta_distance_on_validation_images(
    config: Make, recorder: Any, jobs: list[Any]
) -> None:
    """Compare with the formula on full N x N logits of both networks."""
    finetune(config(epochs=1), recorder)
    job = jobs[0]
    (images, *_), *rest = phases.make_evaluator(job, job.split.val, drift=True).batches()
    assert not rest
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (job.target.mean, job.target.std))
    x = (images / 255 - mean) / std

    def rows(model: torch.nn.Module) -> list[torch.Tensor]:
        found = []
        h = model._pos_embed(model.patch_embed(x))
        for block in model.blocks:
            b, n, _ = h.shape
            qkv = block.attn.qkv(block.norm1(h)).reshape(b, n, 3, 3, -1).permute(2, 0, 3, 1, 4)
            found.append((qkv[0] @ qkv[1].mT)[:, :, 0, 1:] / 8**0.5)
            h = block(h)
        return found

    with torch.no_grad():
        pairs = zip(rows(job.target.model), rows(job.source.model), strict=True)
        expected = torch.stack([(t - s).square().sum(-1).mean() for t, s in pairs]).mean()
    assert recorder.rows[0]["attention_drift"] == pytest.approx(float(expected), rel=1e-3)


def test_too_few_shots_to_hold_out(config: Make, recorder: Any) -> None:
    summary = finetune(config(shots=2, epochs=2), recorder)
    assert (summary["n_train"], summary["n_val"]) == (6, 0)
    assert summary["best_epoch"] == 1  # the last one counts
    assert [r["val_top1"] for r in recorder.rows] == [None, None]
    assert summary["attention_drift"] is None


def test_refit_trains_on_all_images(config: Make, recorder: Any) -> None:
    summary = finetune(config(refit=True), recorder)
    assert (summary["n_train"], summary["n_val"]) == (18, 3)
    search = [r for r in recorder.rows if "phase" not in r]
    refit = [r for r in recorder.rows if r.get("phase") == "refit"]
    assert len(search) == 3
    assert len(refit) == summary["best_epoch"] + 1
    assert all(r["val_top1"] is None for r in refit)
    assert summary["val_top1"] == search[summary["best_epoch"]]["val_top1"]


def test_accumulated_batches_match_one_batch(config: Make, recorder: Any, tmp_path: Path) -> None:
    same = {
        "epochs": 2,
        "regularizer": ["gta", "l2-sp"],
        "optimizer": "sgd",
        "lr": 1e-2,
        "shots": 6,
    }
    finetune(config(batch_size=8, out=tmp_path / "a", **same), recorder)
    finetune(config(batch_size=4, accumulate=2, out=tmp_path / "b", **same), recorder)
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in "ab")
    # 15 images: the last step's batches hold 4 and 3.
    assert max((a[k] - b[k]).abs().max().item() for k in a) < 1e-5


def test_dry_run_takes_one_batch_and_writes_nothing(
    config: Make, recorder: Any, tmp_path: Path
) -> None:
    summary = finetune(config(), recorder, dry_run=True)
    assert summary["dry_run"]
    assert len(recorder.rows) == 1
    assert summary["test_top1"] is not None
    assert not (tmp_path / "run").exists()


def test_bf16_on_the_cpu(config: Make, recorder: Any) -> None:
    finetune(config(precision="bf16", epochs=1), recorder)
    assert recorder.rows[0]["ce"] > 0


@pytest.mark.slow
def test_compiled_training_matches(config: Make, recorder: Any, monkeypatch: Any) -> None:
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **k: original(m, **{**k, "backend": "eager"}))
    finetune(config(epochs=1), recorder)
    torch._dynamo.reset()
    finetune(config(epochs=1, compile=True, overwrite=True), recorder)
    plain, compiled = recorder.rows
    assert compiled["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
    assert compiled["attention_drift"] == pytest.approx(plain["attention_drift"], rel=1e-2)


@pytest.mark.slow
def test_inductor_training_matches(config: Make, recorder: Any) -> None:
    """Regression: the source's packed weights could not be traced."""
    finetune(config(epochs=1), recorder)
    finetune(config(epochs=1, compile=True, overwrite=True), recorder)
    torch._dynamo.reset()
    plain, compiled = recorder.rows
    assert compiled["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
    assert compiled["reg.gta"] == pytest.approx(plain["reg.gta"], rel=1e-2)


def test_corrupt_image_is_counted(config: Make, recorder: Any, tiny_data: Path) -> None:
    broken = tiny_data / "train" / "red" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    summary = finetune(config(epochs=1), recorder)
    assert summary["skipped"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_class_folders_whose_names_are_no_text(
    config: Make, recorder: Any, tiny_data: Path, tmp_path: Path
) -> None:
    """Regression: the run's weights could not be read, as no JSON has such names."""
    for split in ("train", "val", "test"):
        for old, new in (("red", b"caf\xe9"), ("blue", "caf\u00e9".encode())):
            if (folder := tiny_data / split / old).is_dir():
                os.rename(os.fsencode(folder), os.fsencode(folder.parent) + b"/" + new)
    finetune(config(epochs=1), recorder)
    assert {*load_model(str(tmp_path / "run")).classes} >= {"caf\\xe9", "caf\u00e9"}


def test_image_without_its_last_bytes_is_counted(
    config: Make, recorder: Any, tiny_data: Path
) -> None:
    whole = tiny_data / "train" / "red" / "0.png"
    with Image.open(whole) as image:
        image.convert("RGB").resize((64, 64)).save(whole.with_suffix(".jpg"))
    whole.unlink()
    cut = whole.with_suffix(".jpg")
    cut.write_bytes(cut.read_bytes()[:-4])
    summary = finetune(config(epochs=1), recorder)
    assert summary["incomplete"] == 1
    assert "skipped" not in summary


def test_used_folder_is_not_overwritten(config: Make, recorder: Any, tmp_path: Path) -> None:
    finetune(config(epochs=1), recorder)
    before = (tmp_path / "run" / "summary.json").read_bytes()
    with pytest.raises(UsageError, match="not empty"):
        finetune(config(), recorder)
    with pytest.raises(UsageError, match="no block 99"):
        finetune(config(regularizer={"gta": {"layers": (99,)}}, overwrite=True), recorder)
    assert (tmp_path / "run" / "summary.json").read_bytes() == before
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="no earlier run"):
        finetune(config(out=other, overwrite=True), recorder)
    assert (other / "thesis.tex").read_text() == "precious"


def test_a_run_that_failed_before_its_first_step_is_begun_anew(
    config: Make, recorder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost: the same folder takes the mended command."""

    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("gtacli.training.loop.Trainer.fit", fail)
        with pytest.raises(RuntimeError):
            finetune(config(epochs=1), recorder)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"run.json", "split.json"} <= names
    finetune(config(epochs=1, batch_size=4), recorder)
    assert (tmp_path / "run" / "summary.json").is_file()


def test_unreadable_batch_and_test_set(config: Make, recorder: Any, tiny_data: Path) -> None:
    """With an unreadable training batch and test set the run ends and reports them."""
    for image in (tiny_data / "test").rglob("*.png"):
        image.write_bytes(b"no image")
    for image in sorted((tiny_data / "train" / "red").glob("*.png"))[:3]:
        image.write_bytes(b"no image")
    summary = finetune(config(batch_size=1, accumulate=4, cache="none"), recorder)
    assert summary["test_top1"] is None
    assert summary["n_test"] == 0
    assert summary["n_train"] + summary["n_val"] == 15
    assert summary["skipped"] == 15


def test_empty_batch_within_accumulation(
    config: Make,
    recorder: Any,
    jobs: list[Any],
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Accumulated gradients are applied, and none is left for the next epoch."""
    left = []
    original = torch.optim.AdamW.zero_grad
    steps = []
    monkeypatch.setattr(
        torch.optim.AdamW,
        "zero_grad",
        lambda self, **k: (steps.append(1), original(self, **k))[1],
    )
    recorder.at_epoch = lambda row: left.append(
        any(p.grad is not None for g in jobs[0].optimizer.param_groups for p in g["params"])
    )
    for image in sorted((tiny_data / "train" / "red").glob("*.png"))[:5]:
        image.write_bytes(b"no image")
    finetune(config(batch_size=1, accumulate=5, epochs=2), recorder)
    assert left == [False, False]
    assert len(steps) == 2 * 3  # 15 images, five to a step


def test_source_that_does_not_fit(config: Make, recorder: Any, tmp_path: Path) -> None:
    deeper = "vit_tiny_patch16_224@none"
    options = {"source": deeper, "regularizer": "l2-sp", "epochs": 1}
    finetune(config(**options), recorder)
    assert recorder.rows[0]["attention_drift"] is None
    with pytest.raises(UsageError, match=r"source: the model has 3 blocks, the source 12"):
        finetune(config(source=deeper, out=tmp_path / "b"), recorder)
    assert not (tmp_path / "b").exists()
    with pytest.raises(GtaError, match=r"source_size: 40x40 is not a multiple .* 16x16"):
        finetune(config(source=deeper, source_size=40, out=tmp_path / "c"), recorder)


def test_source_with_its_own_size(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    forward = TappedViT.forward

    def spy(self: TappedViT, view: torch.Tensor) -> Any:
        if not torch.is_grad_enabled():
            seen.append(tuple(view.shape[-2:]))
        return forward(self, view)

    monkeypatch.setattr(TappedViT, "forward", spy)
    finetune(config(source_size=48, epochs=1), recorder)
    assert seen[:4] == [(48, 48)] * 4  # the steps
    assert recorder.rows[0]["reg.gta"] > 0  # another size, another attention
    assert recorder.rows[0]["attention_drift"] > 0


def test_classifier_of_other_classes_is_not_reused(
    config: Make, recorder: Any, tiny_data: Path, tmp_path: Path
) -> None:
    finetune(config(), recorder)
    run = tmp_path / "run"
    same = module.prepare(config(model=str(run)))
    assert same.target.model.head.weight.abs().sum() > 0
    (tiny_data / "train" / "red").rename(tiny_data / "train" / "crimson")
    (tiny_data / "test" / "red").rename(tiny_data / "test" / "crimson")
    other = module.prepare(config(model=str(run)))
    assert other.target.model.head.weight.abs().sum() == 0


def test_unwritable_state_reports_the_cause(tmp_path: Path) -> None:
    """Simulate a full disk: a write is cut short."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(RunError, match=r"cannot write .*state\.pt \(.*File too large"):
            RunFolder(tmp_path).write_state({"tensor": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [*tmp_path.iterdir()]


def test_full_disk_is_one_line(
    config: Make, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"cannot write .*state\.pt"):
        finetune(config(), recorder)
