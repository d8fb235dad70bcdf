"""Tests of `gta discover` and `gta maps`, in process and as subprocesses."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from gtacli.cli import main
from gtacli.discovery import Discovery, ObjectMaps
from gtacli.discovery.base import unit_range
from gtacli.discovery.maps import MapCache
from gtacli.executors.base import Executor, ExecutorOptions, Job, ThreadJob
from gtacli.registry import DISCOVERY, EXECUTORS
from gtacli.runtime.ownership import owned


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def words(model: Path, out: Path, *more: object) -> list[str]:
    """Nothing is left to be chosen for the model, unless by a flag."""
    base = ["discover", "--teacher", str(model), "-o", str(out), "--device", "cpu"]
    plain = ["--set", "discovery.tokencut.layer=-1", "--set", "discovery.tokencut.tau=0.2"]
    return [*base, *plain, *map(str, more)]


@pytest.fixture
def cache(gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Path:
    """Of tiny_data's 30 images."""
    out = tmp_path / "maps"
    assert gta(*words(tiny_model, out, "--data", tiny_data, "-q")).status == 0
    return out


def test_a_second_run_finds_all_maps_cached(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    given = words(tiny_model, tmp_path / "maps", "--data", tiny_data, "--json")
    first, second = gta(*given), gta(*given)
    assert first.status == second.status == 0
    (one,), (two,) = first.lines, second.lines
    assert list(one) == ["cache", "images", "new", "failed", "bytes", "images_per_second"]
    assert (one["images"], one["new"], one["failed"]) == (30, 30, 0)
    assert (two["images"], two["new"], two["failed"]) == (30, 0, 0)
    files = (p for p in (tmp_path / "maps").rglob("*") if p.is_file())
    assert one["bytes"] == two["bytes"] == sum(p.stat().st_size for p in files)
    # By other ways to the same images nothing is new.
    for other in (("--data", tiny_data / "train"), (tiny_data,), (tiny_data / "test" / "*" / "*",)):
        done = gta(*words(tiny_model, tmp_path / "maps", *other, "--json"))
        assert (done.status, done.lines[0]["new"]) == (0, 0)


def test_moved_copied_changed_and_broken_images(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 60, 4), dtype=np.uint8)
    Image.fromarray(pixels[..., 0]).save(folder / "grey.png")
    Image.fromarray(pixels, "RGBA").save(folder / "alpha.png")
    Image.fromarray(pixels, "CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(pixels[:1, :1, :3]).save(folder / "dot.png")
    Image.fromarray(np.tile(pixels[:20, :50, :3], (1, 400, 1))).save(folder / "band.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(pixels[..., :3]).save(folder / "named.jpg", format="PNG")
    (folder / "cut.png").write_bytes((folder / "grey.png").read_bytes()[:300])
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "folder.png").mkdir()
    given = words(tiny_model, tmp_path / "maps", "--data", folder, "--json")
    done = gta(*given)
    assert done.status == 1
    *errors, summary = done.lines
    assert [Path(e["image"]).name for e in errors] == ["cut.png", "empty.jpg", "text.jpg"]
    assert all(f"warning: {e['error']}" in done.err for e in errors)
    assert (summary["images"], summary["new"], summary["failed"]) == (11, 8, 3)
    # They are tried again, and the files stay as they are.
    before = hashes(tmp_path / "maps")
    again = gta(*given)
    assert (again.status, again.lines[-1]["new"], again.lines[-1]["failed"]) == (1, 0, 3)
    assert hashes(tmp_path / "maps") == before
    missing = gta("maps", "verify", str(tmp_path / "maps"), "--data", str(folder), "--json")
    assert missing.status == 1
    assert [Path(p).name for p in missing.lines[0]["missing"]] == [
        "cut.png",
        "empty.jpg",
        "text.jpg",
    ]


def test_wrong_use(gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    data, out = ("--data", tiny_data), tmp_path / "maps"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("")
    (tmp_path / "none").mkdir()
    for given, text in (
        (["discover", "--data", str(tiny_data), "-o", "x"], "--teacher: name a pre-trained ViT"),
        (["discover", "-m", str(tiny_model), "--data", str(tiny_data)], "--out: name the folder"),
        (words(tiny_model, out), "give either images"),
        (words(tiny_model, out, tiny_data, *data), "give either images"),
        (words(tiny_model, other, *data), "is not empty and has no maps"),
        (words(tiny_model, other / "thesis.tex", *data), "is a file"),
        (words(tiny_model, other / "thesis.tex" / "x", *data), "cannot write"),
        (words(tiny_model, out, *data, "--shard", "8/8"), "--shard: must be I/N"),
        (words(tiny_model, out, *data, "--shard", "eight"), "--shard: must be I/N"),
        (words(tiny_model, out, *data, "--shard", "0/2", "--overwrite"), "not with --shard"),
        (words(tiny_model, out, "--data", tmp_path / "none"), "is empty"),
        (words(tiny_model, out, "--data", tmp_path / "gone"), "no such file or folder"),
        (words(tiny_model, out, *data, "--backend", "tokenct"), "did you mean 'tokencut'"),
        (words(Path("vit_tiny_patch16_225"), out, *data), "vit_tiny_patch16_225"),
        (words(tiny_model, out, *data, "--layer", "7"), "7"),
        (words(tiny_model, out, *data, "--backend", "gradcam", "--tau", "1"), "has no tau"),
        (["maps", "stats", str(out)], "has no maps of gta discover"),
        (["maps", "verify", str(other)], "has no maps of gta discover"),
    ):  # fmt: skip
        done = gta(*given)
        assert done.status == 2, given
        assert text in done.err
        assert "Traceback" not in done.err
        assert done.out == ""
    assert not out.exists()
    assert [p.name for p in other.iterdir()] == ["thesis.tex"]


def test_gradcam_needs_a_classifier(gta: Any, tiny_data: Path, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(network.state_dict(), tmp_path / "bare.safetensors")
    model = Path(f"vit_tiny_patch16_224@{tmp_path / 'bare.safetensors'}")
    given = words(model, tmp_path / "maps", "--data", tiny_data, "--backend", "gradcam")
    done = gta(*given)
    assert done.status == 2
    assert "--backend: gradcam needs a classifier" in done.err
    assert not (tmp_path / "maps").exists()


def test_other_settings_are_refused_or_overwrite(
    gta: Any, cache: Path, tiny_model: Path, tiny_data: Path
) -> None:
    given = words(tiny_model, cache, "--data", tiny_data, "--layer", "-2")
    done = gta(*given)
    assert done.status == 2
    assert "other settings (layer -1, here -2)" in done.err
    assert gta(*given, "--overwrite").status == 0
    assert MapCache(cache).manifest.options["layer"] == -2
    assert len(MapCache(cache)) == 30


def test_a_dry_run_writes_nothing(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    given = words(tiny_model, tmp_path / "maps", "--data", tiny_data, "--batch-size", "8")
    done = gta(*given, "--dry-run", "--json")
    assert done.status == 0
    assert done.lines[0]["new"] == 8
    assert not (tmp_path / "maps").exists()


class Impatient(Discovery[Any]):
    """Its user presses Ctrl-C during the second batch."""

    batches: ClassVar[int] = 0

    def find(self, images: Tensor) -> ObjectMaps:
        Impatient.batches += 1
        if Impatient.batches == 2:
            signal.raise_signal(signal.SIGINT)
        return ObjectMaps(unit_range(adaptive_avg_pool2d(images.mean(1), 4)))


def test_an_interrupted_run_keeps_what_is_done(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    given = words(tiny_model, tmp_path / "maps", "--data", tiny_data, "--batch-size", "4")
    with DISCOVERY.registered("impatient", Impatient):
        first = gta(*given, "--backend", "impatient", "--json")
        assert first.status == 130
        assert "warning: interrupted; the maps so far are cached" in first.err
        assert first.lines[-1]["images"] < 30
        second = gta(*given, "--backend", "impatient", "--json")
    assert second.status == 0
    assert (second.lines[0]["images"], second.lines[0]["new"]) == (30, 22)


def test_a_full_disk(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gtacli.discovery.maps.journal import Journal

    class Full:
        def write(self, data: bytes) -> int:
            return len(data) // 2

    append = Journal.append

    def full(journal: Journal, rows: Any) -> None:
        file, journal._file = journal._file, Full()  # type: ignore[assignment]
        try:
            append(journal, rows)
        finally:
            journal._file = file

    monkeypatch.setattr(Journal, "append", full)
    given = words(tiny_model, tmp_path / "maps", "--data", tiny_data)
    done = gta(*given)
    assert done.status == 3
    assert "--out: cannot write" in done.err
    monkeypatch.undo()
    assert gta(*given).status == 0


def test_stats(gta: Any, cache: Path) -> None:
    done = gta("maps", "stats", str(cache), "--json")
    assert done.status == 0
    (report,) = done.lines
    assert (report["images"], report["maps"], report["grid"]) == (30, 30, [4, 4])
    assert report["backend"] == "tokencut"
    assert report["options"]["layer"] == -1
    assert sum(report["histogram"]) == 30
    maps = np.concatenate([part["map"] for part in MapCache(cache).parts()])
    assert report["foreground"] == pytest.approx(np.mean(maps >= 127.5))
    assert report["constant"] == sum(m.min() == m.max() for m in maps)
    shown = gta("maps", "stats", str(cache)).out
    assert "layer=-1 tau=0.2" in shown
    assert "4x4" in shown


def test_verify(gta: Any, cache: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    whole = hashes(cache)
    fine = gta("maps", "verify", str(cache), "--data", str(tiny_data))
    assert (fine.status, fine.out) == (0, "30 maps of 30 images, none missing; all is well\n")
    file = max((cache / "maps").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    lost = len(np.load(file))
    done = gta("maps", "verify", str(cache), "--data", str(tiny_data), "--json")
    assert done.status == 1
    (report,) = done.lines
    assert report["ok"] is False
    assert report["damaged"] == [str(file)]
    assert len(report["missing"]) == lost
    assert f"damaged: {file}" in gta("maps", "verify", str(cache)).out
    again = gta(*words(tiny_model, cache, "--data", tiny_data, "--json"))
    assert again.lines[0]["new"] == lost
    assert f"{file} is damaged: its maps are computed again" in again.err
    assert hashes(cache) == whole
    (cache / "journal-0-of-1").write_bytes(b"")
    done = gta("maps", "verify", str(cache))
    assert (done.status, done.out) == (1, f"unfinished: {cache / 'journal-0-of-1'}\n")


def test_show(gta: Any, cache: Path, tiny_data: Path, tmp_path: Path) -> None:
    image = tiny_data / "train" / "red" / "0.png"
    other = tmp_path / "other.png"
    Image.new("RGB", (9, 9)).save(other)
    done = gta("maps", "show", str(cache), str(tiny_data / "train"), "-o", str(tmp_path / "out"))
    assert done.status == 0
    assert len(done.out.splitlines()) == 18
    with Image.open(tmp_path / "out" / "red" / "0.map.png") as drawn:
        assert drawn.size == (44, 40)
        assert np.asarray(drawn).std() > 0
    single = ("maps", "show", str(cache), "-o", str(tmp_path / "one.png"), "--json")
    done = gta(*single, str(image))
    assert done.lines == [
        {"image": str(image), "output": str(tmp_path / "one.png"), "grid": [4, 4]}
    ]
    assert gta(*single, str(image), str(other)).status == 2
    done = gta(*single, str(other))
    assert done.status == 1
    assert "no map of" in done.lines[0]["error"]


@pytest.mark.slow
def test_killed_ten_times(tiny_model: Path, tmp_path: Path) -> None:
    """By SIGKILL at random moments; the files are those of a run that was left alone."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(600):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    common = ["--data", folder, "--json", "-q", "--batch-size", 2]
    gta = [sys.executable, "-m", "gtacli"]
    start = time.perf_counter()
    subprocess.run([*gta, *words(tiny_model, tmp_path / "whole", *common)], check=True)
    seconds = time.perf_counter() - start
    out = tmp_path / "killed"
    random.seed(0)
    at_work = 0
    for _ in range(10):
        process = subprocess.Popen([*gta, *words(tiny_model, out, *common)])
        while process.poll() is None and not list(out.glob("journal-*")):
            time.sleep(0.005)
        try:
            process.wait(random.uniform(0, seconds / 20))
        except subprocess.TimeoutExpired:
            at_work += 1
        process.kill()
        process.wait()
    done = subprocess.run([*gta, *words(tiny_model, out, *common)], check=True, capture_output=True)
    assert json.loads(done.stdout)["new"] < 600
    assert at_work >= 3
    assert hashes(out) == hashes(tmp_path / "whole")


@pytest.mark.usefixtures("own_cache")
def test_maps_are_keyed_by_the_automatic_choice(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    given = words(tiny_model, tmp_path / "maps", "--data", tiny_data, "--layer", "auto")
    assert gta(*given, "--tau", "auto").status == 0
    options = MapCache(tmp_path / "maps").manifest.options
    assert type(options["layer"]) is int
    assert type(options["tau"]) is float
    again = gta(*given, "--layer", str(options["layer"]), "--tau", str(options["tau"]), "--json")
    assert again.status == 0
    assert again.lines[-1]["new"] == 0


@pytest.mark.usefixtures("bright")
def test_shards_with_different_batch_sizes_cover_all_images(
    gta: Any, tiny_model: Path, tmp_path: Path
) -> None:
    images = tmp_path / "in"
    images.mkdir()
    for i in range(70):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(images / f"{i:02}.png")
    start = ["discover", str(images), "-m", str(tiny_model), "-o", str(tmp_path / "maps")]
    for share, batch in (("0/2", "2"), ("1/2", "16")):
        more = ["--backend", "bright", "--shard", share, "--batch-size", batch, "--device", "cpu"]
        assert gta(*start, *more).status == 0
    done = gta("maps", "verify", str(tmp_path / "maps"), str(images), "--json")
    assert done.lines[0]["missing"] == []


class Told(Executor[ExecutorOptions]):
    """An executor with options, whose first command is killed before it begins."""

    class Options(ExecutorOptions):
        partition: str = "none"

    told: ClassVar[list[Any]] = []

    def submit(self, words: Sequence[str], log: Path) -> Job:
        self.told.append((self.options, self.jobs, self.folder, words))
        status = -9 if len(self.told) == 1 else main([*words])
        return ThreadJob(lambda: status)


def test_an_executor_gets_its_options_and_runs_a_killed_part_again(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    Told.told.clear()
    out = tmp_path / "maps"
    given = words(tiny_model, out, "--data", tiny_data, "--executor", "told", "--json")
    with EXECUTORS.registered("told", Told):
        wrong = gta(*given, "--set", "executors.told.partitions=fast")
        assert wrong.status == 2
        assert "did you mean 'partition'" in wrong.err
        done = gta(*given, "--jobs", "2", "--partition", "fast")
        assert done.status == 0
        assert done.lines[-1]["images"] == 30
        assert [told[0].partition for told in Told.told] == ["fast"] * 3
        assert [told[3][-1] for told in Told.told] == ["0/2", "1/2", "0/2"]
        # Another command with these parts is at work.
        with owned(Told.told[0][2], "discover"):
            refused = gta(*given, "--jobs", "2", "--partition", "fast")
        assert refused.status == 2
        assert "is in use by gta discover (process" in refused.err
        # A folder that holds other files is refused before anything is handed out.
        refused = gta(*given, "-o", str(tiny_model))
        assert refused.status == 2
        assert "is not empty and has no maps" in refused.err
    assert len(Told.told) == 3


def test_a_number_of_parts_needs_an_executor(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    refused = gta(*words(tiny_model, tmp_path / "maps", "--data", "nowhere", "--jobs", "2"))
    assert refused.status == 2
    assert "--jobs needs --executor, which starts the parts" in refused.err


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_executor_computes_the_same_files_in_parts(
    precision: str, gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    one, out = tmp_path / "maps", tmp_path / "parts"
    start = ["--data", tiny_data, "--precision", precision, "--batch-size", "8", "--json"]
    assert gta(*words(tiny_model, one, *start)).status == 0

    parts: list[str] = []

    class Here(Executor[ExecutorOptions]):
        def submit(self, words: Sequence[str], log: Path) -> Job:
            parts.append(words[-1])
            log.parent.mkdir(parents=True, exist_ok=True)
            return ThreadJob(lambda: main(list(words)))

    given = words(tiny_model, out, *start, "--executor", "here")
    with EXECUTORS.registered("here", Here):
        result = gta(*given, "--jobs", "2")
        assert result.status == 0
        assert gta(*given, "--jobs", "1000", "-o", str(tmp_path / "many")).status == 0
        assert parts[2:] == [f"{n}/4" for n in range(4)]  # no part is without images
        assert gta(*given, "--shard", "0/2").status == 2
        assert gta("discover", "-", *given[1:], "--executor", "here").status == 2
    *_, summary = result.lines
    assert (summary["images"], summary["new"]) == (30, 30)
    assert hashes(out) == hashes(one)
    assert len(hashes(one)) == 1 + 2 * 4  # blocks of eight images


def test_the_precision_of_the_maps_that_are_there(
    reads_in_bf16: None, gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Maps that another machine began are continued with its precision, unless one is asked for."""
    given = words(tiny_model, tmp_path / "maps", "--json")
    part = str(tiny_data / "test")
    assert gta(*given, part, "--precision", "fp32").status == 0
    added = gta(*given, "--data", str(tiny_data))
    assert (added.status, added.lines[-1]["new"]) == (0, 18)
    assert MapCache(tmp_path / "maps").manifest.precision == "fp32"
    assert gta(*given, "--data", str(tiny_data), "--precision", "bf16").status == 2
    assert gta(*given, "--data", str(tiny_data), "--overwrite").lines[-1]["new"] == 30
    assert MapCache(tmp_path / "maps").manifest.precision == "bf16"
