"""End-to-end tests of pre-training: files, resuming, invalid input."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import gtacli.training.loop as loop
from gtacli.config.finetune import FinetuneConfig
from gtacli.config.pretrain import PretrainConfig
from gtacli.errors import GtaError, Interrupted
from gtacli.finetuning.run import finetune
from gtacli.images.depth import reading
from gtacli.models.loading import load_model
from gtacli.pretraining.run import pretrain
from gtacli.pretraining.task import PretrainTask

Together = Callable[..., list[Any]]
Make = Callable[..., PretrainConfig]
Tensors = dict[str, torch.Tensor]


def weights(run: Path, name: str = "model") -> Tensors:
    return load_file(run / f"{name}.safetensors")


def rows(run: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl without times."""
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in read]


def assert_same(a: Path, b: Path) -> None:
    for name in ("model", "decoder"):
        one, other = weights(a, name), weights(b, name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one)
    assert rows(a) == rows(b)


def test_files_of_a_guided_run(config: Make, maps: Path, recorder: Any, tmp_path: Path) -> None:
    summary = pretrain(config(maps=maps), recorder)
    run = tmp_path / "run"
    for name in ("run.json", "split.json", "state.pt", "model.safetensors", "decoder.safetensors"):
        assert (run / name).is_file()
    first, last = rows(run)
    keys = {"epoch", "train_loss", "recon", "recon_fg", "recon_bg", "tau", "knn_top1", "lr"}
    assert first.keys() == last.keys() == keys
    assert 1 > first["tau"] > last["tau"] > 0.5
    assert last["train_loss"] < first["train_loss"]
    low, high = sorted([last["recon_fg"], last["recon_bg"]])
    assert low < last["recon"] < high
    assert summary["final_loss"] == last["train_loss"]
    assert summary["knn_top1"] == last["knn_top1"]
    assert (summary["n_train"], summary["n_val"]) == (18, 3)  # a fifth of each class's six
    assert json.loads((run / "summary.json").read_text()) == summary
    assert json.loads((run / "run.json").read_text())["maps"]["fingerprint"]
    sizes = {Image.open(run / "previews" / f"epoch-000{n}.png").size for n in (1, 2)}
    assert len(sizes) == 1
    for name in ("model", "decoder"):
        with safe_open(run / f"{name}.safetensors", "pt") as file:
            assert json.loads(file.metadata()["pretraining"])["norm_pix"] is True


def test_timm_and_the_other_commands_load_the_encoder(
    config: Make, recorder: Any, tmp_path: Path
) -> None:
    pretrain(config(epochs=1), recorder)
    run = tmp_path / "run"
    with safe_open(run / "model.safetensors", "pt") as file:
        said = file.metadata()
    plain = timm.create_model(
        said["architecture"], num_classes=0, **json.loads(said["kwargs"])
    ).eval()
    plain.load_state_dict(weights(run))
    loaded = load_model(str(run))
    assert not loaded.report.missing
    assert not loaded.report.unexpected
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(images), loaded.model(images))
    values = {"model": str(run), "data": config().data, "out": tmp_path / "tuned", "epochs": 1}
    tuned = finetune(FinetuneConfig(**values, device="cpu", workers=0), recorder)
    assert tuned["attention_drift"] > 0


@pytest.mark.parametrize("how", ["maps", "teacher"])
def test_resume_is_bit_equal(
    how: str,
    config: Make,
    maps: Path,
    tiny_model: Path,
    recorder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guided: dict[str, Any] = (
        {"maps": maps, "shuffle_maps": True, "repeats": 2, "accumulate": 3}
        if how == "maps"
        else {"teacher": str(tiny_model), "guide": "dino", "method": "crossmae"}
    )
    pretrain(config(out=tmp_path / "whole", **guided), recorder)

    def stop(epoch: int, batch: int) -> None:
        if (epoch, batch) == (1, 3):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    recorder.at_step = stop
    with pytest.raises(Interrupted):
        pretrain(config(out=tmp_path / "cut", **guided), recorder)
    recorder.at_step = lambda epoch, batch: None
    torch.manual_seed(99)
    pretrain(PretrainConfig(resume=tmp_path / "cut"), recorder)
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"shard_model": True}, marks=pytest.mark.slow),
        pytest.param(
            {"shard_model": True, "method": "crossmae", "grad_checkpointing": True},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["copies", "sharded", "crossmae"],
)
def test_two_processes_train_as_one(
    changes: dict[str, Any],
    config: Make,
    maps: Path,
    recorder: Any,
    tmp_path: Path,
    together: Callable[..., list[Any]],
) -> None:
    changes = {"maps": maps, "previews_every": 1, **changes}
    alone = pretrain(config(out=tmp_path / "alone", **changes), recorder)

    def work(rank: int) -> Any:
        return pretrain(config(out=tmp_path / "two", **changes), recorder)

    for summary in together(work):
        assert summary["n_train"] == alone["n_train"]
        assert summary["final_loss"] == pytest.approx(alone["final_loss"], rel=1e-5)
        assert summary["recon_fg"] == pytest.approx(alone["recon_fg"], rel=1e-5)
        assert summary["knn_top1"] == alone["knn_top1"]
    one, two = weights(tmp_path / "alone"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"batch_size": 32}, marks=pytest.mark.slow),
        {"batch_size": 5},
        pytest.param({"repeats": 2}, marks=pytest.mark.slow),
    ],
)
def test_compiled_run_counts_every_image_once(
    config: Make,
    recorder: Any,
    tmp_path: Path,
    together: Together,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    """Cases: fewer images than a batch, an odd batch for two processes, several views."""
    monkeypatch.setattr(PretrainTask, "compile", lambda task: None)  # the batches are as compiled

    def run(name: str, compiled: bool) -> PretrainConfig:
        return config(out=tmp_path / name, compile=compiled, epochs=1, knn_every=0, **changes)

    pretrain(run("one", False), recorder)
    together(lambda rank: pretrain(run("two", True), recorder))
    (plain,), (compiled,) = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert compiled["recon"] == pytest.approx(plain["recon"], rel=1e-5)


def test_dry_run_writes_nothing(config: Make, maps: Path, recorder: Any, tmp_path: Path) -> None:
    summary = pretrain(config(maps=maps), recorder, dry_run=True)
    assert summary["dry_run"] is True
    assert summary["final_loss"] > 0
    assert not (tmp_path / "run").exists()


def test_plain_run_with_maps_measures_the_object(
    config: Make, maps: Path, recorder: Any, tmp_path: Path
) -> None:
    summary = pretrain(config(maps=maps, guide="none"), recorder)
    row = rows(tmp_path / "run")[-1]
    assert row["train_loss"] == row["recon"]
    assert "tau" not in row
    assert summary["recon_fg"] != summary["recon_bg"]


def test_unclassified_images_are_not_counted(config: Make, recorder: Any) -> None:
    summary = pretrain(config(knn_every=0, epochs=1), recorder)
    assert (summary["knn_top1"], summary["n_val"]) == (None, 0)


def test_unreadable_images_of_other_processes_are_not_counted(
    config: Make, recorder: Any, tiny_data: Path, together: Together
) -> None:
    (tiny_data / "test").rename(tiny_data / "val")
    (tiny_data / "val" / "blue" / "1.png").write_bytes(b"no image")  # the second process has it
    summaries = together(lambda rank: pretrain(config(epochs=1, cache="none"), recorder))
    assert [summary["n_val"] for summary in summaries] == [11, 11]


def test_images_without_labels(config: Make, recorder: Any, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(9):
        Image.effect_noise((40, 50), 80).convert("RGB").save(photos / f"{i}.png")
    (photos / "9.png").write_bytes(b"no image")
    summary = pretrain(config(data=str(photos)), recorder)
    assert summary["knn_top1"] is None
    assert (summary["n_train"], summary["n_val"], summary["skipped"]) == (9, 0, 1)


def test_labels_do_not_matter(config: Make, tiny_data: Path, recorder: Any, tmp_path: Path) -> None:
    images = sorted((tiny_data / "train").rglob("*.png"))
    for name, shift in (("a", 0), ("b", 7)):
        labels = [images[(i + shift) % len(images)].parent.name for i in range(len(images))]
        lines = (f"{path},{label}" for path, label in zip(images, labels, strict=True))
        (tmp_path / f"{name}.csv").write_text("path,label\n" + "\n".join(lines))
        pretrain(config(out=tmp_path / name, data=str(tmp_path / f"{name}.csv")), recorder)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": None}, "data: is required: a folder of images"),
        ({"model": None}, "model: is required: what to train"),
        ({"maps": "nowhere"}, "nowhere has no maps of gta discover"),
        (
            {"maps": "maps", "guide": "tokencut"},
            "maps: maps holds maps of dino, not of `guide=t",
        ),
        ({"maps": "maps", "data": "demo"}, "holds 28 maps, but none of the 480 images"),
        ({"teacher": "resnet18@none"}, "teacher: ResNet is not a ViT"),
        ({"batch_size": 5, "repeats": 2}, "batch_size: 5 is not a multiple of `repeats=2`"),
        ({"image_size": 30}, "image_size: 30x30 is not a multiple of the patch size"),
        ({"decoder_heads": 3}, "decoder_dim: 16 is not a multiple of 4 and of the 3 heads"),
        ({"init": "nowhere.pth"}, "init: unknown name"),
    ],
)
def test_invalid_input_is_rejected_before_first_step(
    changes: dict[str, Any],
    words: str,
    config: Make,
    maps: Path,
    recorder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GtaError) as error:
        pretrain(config(**changes), recorder)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_resumed_run_keeps_its_maps(
    config: Make, maps: Path, recorder: Any, tmp_path: Path
) -> None:
    pretrain(config(maps=maps, epochs=1), recorder)
    manifest = maps / "manifest.json"
    manifest.write_text(manifest.read_text().replace("000", "001"))
    with pytest.raises(GtaError, match=r"resume: `maps` .* has changed since the run began"):
        pretrain(PretrainConfig(resume=tmp_path / "run"), recorder)


def test_single_step_does_not_warn(
    config: Make, recorder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch size exceeds the number of images."""
    pretrain(config(epochs=1, batch_size=64), recorder)
    assert rows(tmp_path / "run")[0]["lr"] == config().lr
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_how_deep_images_are_read_ends_with_the_run(
    config: Make, recorder: Any, tmp_path: Path
) -> None:
    """Also a resumed run reads them so, and leaves no variable to what comes after it."""
    found: list[str] = []
    recorder.at_epoch = lambda row: found.append(reading())
    pretrain(config(bands="3,2,1", value_range="200", epochs=1), recorder)
    assert found == ["3,2,1 200"]
    assert reading() == ""

    def stop(row: dict[str, Any]) -> None:
        found.append(reading())
        raise KeyboardInterrupt

    recorder.at_epoch = stop
    with pytest.raises(KeyboardInterrupt):
        pretrain(config(value_range="100", out=tmp_path / "cut"), recorder)
    recorder.at_epoch = lambda row: found.append(reading())
    pretrain(PretrainConfig(resume=tmp_path / "cut"), recorder)
    assert found[1:] == ["100", "100"]
    assert reading() == ""
