"""Tests of `gta embed` and `gta discover` on streams of shards."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtacli.cli import main
from gtacli.discovery.maps import MapCache
from gtacli.executors.base import Executor, ExecutorOptions, Job, ThreadJob
from gtacli.registry import EXECUTORS
from tests.shards import write_tar
from tests.web import Web


@pytest.fixture
def shards(tiny_data: Path, tmp_path: Path) -> Path:
    """Five shards of six images each, with their labels."""
    images = sorted(tiny_data.rglob("*.png"))
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(5):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for path in images[6 * number : 6 * number + 6]:
                key = "-".join(path.relative_to(tiny_data).with_suffix("").parts)
                tar.add(path, f"{key}.png")
                info = tarfile.TarInfo(f"{key}.cls")
                info.size = len(path.parent.name)
                tar.addfile(info, io.BytesIO(path.parent.name.encode()))
    return folder


def write_parquet(tiny_data: Path, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"bytes": p.read_bytes(), "path": p.name} for p in sorted(tiny_data.rglob("*.png"))]
    parquet.write_table(pa.table({"image": rows}), path, row_group_size=7)


def load(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return dict(arrays)


def test_embeddings_of_shards_are_those_of_files(
    gta: Any, tiny_model: Path, tiny_data: Path, shards: Path, tmp_path: Path
) -> None:
    common = ["embed", "-m", str(tiny_model), "--batch-size", "4"]
    assert gta(*common, "--data", str(tiny_data), "-o", str(tmp_path / "f.npz")).status == 0
    write_parquet(tiny_data, tmp_path / "all.parquet")
    files = load(tmp_path / "f.npz")
    order = np.argsort(files["paths"])
    for spec in (f"wds/{shards}", f"parquet/{tmp_path}/*.parquet"):
        done = gta(*common, "--data", spec, "-o", str(tmp_path / "s.npz"), "--json", "--overwrite")
        assert done.status == 0
        assert done.lines[0]["images"] == 30
        found = load(tmp_path / "s.npz")
        np.testing.assert_allclose(found["embeddings"], files["embeddings"][order], atol=1e-6)
        if spec.startswith("wds"):
            assert found["labels"].tolist() == files["labels"][order].tolist()
            assert found["paths"][0] == f"{shards}/0.tar:test-blue-0.png"
        else:
            assert found["paths"][29] == f"{tmp_path}/all.parquet:row 29"


def test_missing_and_cut_shards_are_named_and_the_others_are_done(
    gta: Any, tiny_model: Path, shards: Path, tmp_path: Path
) -> None:
    (shards / "1.tar").unlink()
    whole = (shards / "3.tar").read_bytes()
    (shards / "3.tar").write_bytes(whole[: len(whole) // 2])
    spec = f"wds/{shards}/{{0..4}}.tar"
    embed = ["embed", "-m", tiny_model, "--data", spec, "-o", tmp_path / "e.npz"]
    discover = ["discover", "-m", tiny_model, "--data", spec, "-o", tmp_path / "maps"]
    plain = ["--set", "discovery.tokencut.layer=-1", "--set", "discovery.tokencut.tau=0.2"]
    for words in (embed, [*discover, *plain]):
        done = gta(*map(str, words), "--json")
        assert done.status == 1
        *errors, summary = done.lines
        assert [error["image"] for error in errors] == [f"{shards}/1.tar", f"{shards}/3.tar"]
        assert errors[0]["error"].endswith("1.tar: there is no such file")
        assert errors[1]["error"].endswith("3.tar: it ends early")
        assert summary["failed"] == 2
        assert 18 <= summary["images"] - (2 if "cache" in summary else 0) < 24


def test_shards_without_any_image_are_wrong(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "no").mkdir()
    for number in range(3):
        write_tar(tmp_path / f"no/{number}.tar", {})
    spec, out = f"wds/{tmp_path}/no", str(tmp_path / "e.npz")
    plain = ["--set", "discovery.tokencut.layer=-1", "--set", "discovery.tokencut.tau=0.2"]
    discover = ["discover", "-m", str(tiny_model), "-o", str(tmp_path / "maps"), *plain]
    for words in (
        ["embed", "-m", str(tiny_model), "-o", out],
        discover,
        discover,  # of which no shard is read again
        ["maps", "verify", str(tmp_path / "maps")],
    ):
        done = gta(*words, "--data", spec)
        assert done.status == 2
        assert "no: its shards (3) have no image" in done.err
    assert not Path(out).exists()
    done = gta(*discover, "--data", spec, "--shard", "1/2", "--json")  # others may have images
    assert (done.status, done.lines[-1]["images"]) == (0, 0)


def test_nothing_that_exists_is_wrong_usage(gta: Any, tiny_model: Path, tmp_path: Path) -> None:
    spec = f"wds/{tmp_path}/gone-{{0..99999}}.tar"
    done = gta("embed", "-m", str(tiny_model), "--data", spec, "-o", str(tmp_path / "e.npz"))
    assert done.status == 2
    assert "no such shard" in done.err
    done = gta("finetune", "-m", str(tiny_model), "--data", f"parquet/{tmp_path}")
    assert done.status == 2
    assert "hfds/FOLDER" in done.err


def test_maps_of_remote_shards(
    gta: Any, tiny_model: Path, shards: Path, tmp_path: Path, web: Web
) -> None:
    """Through broken connections, without a copy; a second run only looks at the ETags."""
    for path in shards.iterdir():
        url = f"https://example.org/{path.name}?token=secret"
        web.files[url], web.tags[url] = path.read_bytes(), f'"{path.name}"'
        web.breaks[url] = [3000, 2000]
    common = ["discover", "-m", str(tiny_model), "--json", "--device", "cpu"]
    common += ["--set", "discovery.tokencut.layer=-1", "--set", "discovery.tokencut.tau=0.2"]
    spec = "wds/https://example.org/{0..5}.tar?token=secret"
    first = gta(*common, "--data", spec, "-o", str(tmp_path / "far"))
    assert first.status == 1  # 5.tar is not there
    assert "secret" not in first.err + first.out
    assert (first.lines[-1]["images"], first.lines[-1]["new"]) == (31, 30)
    assert len(web.ranges) >= 10
    assert gta(*common, "--data", f"wds/{shards}", "-o", str(tmp_path / "near")).status == 0
    far, near = (
        {bytes(row["digest"]) for part in MapCache(tmp_path / name).parts() for row in part}
        for name in ("far", "near")
    )
    assert far == near
    assert not (tmp_path / "cache/wds").exists()
    again = gta(*common, "--data", spec, "-o", str(tmp_path / "far"))
    assert (again.lines[-1]["images"], again.lines[-1]["new"]) == (31, 0)


def test_a_dry_run_and_an_executor(
    gta: Any, tiny_model: Path, shards: Path, tmp_path: Path
) -> None:
    given = ["discover", "-m", str(tiny_model), "--data", f"wds/{shards}", "--json"]
    given += ["--set", "discovery.tokencut.layer=-1", "--set", "discovery.tokencut.tau=0.2"]
    dry = gta(*given, "-o", str(tmp_path / "maps"), "--dry-run", "--batch-size", "4")
    assert (dry.status, dry.lines[-1]["new"]) == (0, 4)
    assert not (tmp_path / "maps").exists()

    class Here(Executor[ExecutorOptions]):
        def submit(self, words: Sequence[str], log: Path) -> Job:
            log.parent.mkdir(parents=True, exist_ok=True)
            return ThreadJob(lambda: main(list(words)))

    with EXECUTORS.registered("here", Here):
        words = [*given, "-o", str(tmp_path / "maps"), "--executor", "here", "--jobs", "2"]
        result = gta(*words)
    assert result.status == 0
    assert (result.lines[-1]["images"], result.lines[-1]["new"]) == (30, 30)
    with EXECUTORS.registered("here", Here):
        assert gta(*words).lines[-1]["new"] == 0
    verified = gta("maps", "verify", str(tmp_path / "maps"), "--data", f"wds/{shards}", "--json")
    assert (verified.status, verified.lines[0]["maps"]) == (0, 30)
    assert verified.lines[0]["images"] == 30


def test_verify_reads_shards_without_labels(gta: Any, tiny_model: Path, shards: Path) -> None:
    with tarfile.open(shards / "x.tar", "w") as tar:
        image = io.BytesIO(b"no map")
        info = tarfile.TarInfo("new.png")
        info.size = len(image.getvalue())
        tar.addfile(info, image)
    given = ["discover", "-m", str(tiny_model), "--data", f"wds/{shards}/{{0..4}}.tar"]
    given += ["--set", "discovery.tokencut.layer=-1", "--set", "discovery.tokencut.tau=0.2"]
    maps = str(shards.with_name("maps"))
    assert gta(*given, "-o", maps).status == 0
    verified = gta("maps", "verify", maps, "--data", f"wds/{shards}", "--json")
    assert verified.status == 1
    assert verified.lines[0]["missing"] == [f"{shards}/x.tar:new.png"]
    assert verified.lines[0]["images"] == 31


def test_pretraining_on_a_stream(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Its report makes no index of the shards, of which there may be very many."""
    for number in range(2):
        write_parquet(tiny_data, tmp_path / f"{number}.parquet")
    data, run = f"parquet/{tmp_path}/{{0..1}}.parquet", tmp_path / "run"
    given = ["pretrain", "--model", str(tiny_model), "--data", data, "--batch-size", "8"]
    given += ["--decoder-dim", "16", "--decoder-depth", "1", "--decoder-heads", "2"]
    refused = gta(*given, "--out", str(run))
    assert refused.status == 2
    assert "give the images of an epoch as --epoch-images" in refused.err
    done = gta(*given, "--out", str(run), "--epoch-images", "16", "--epochs", "1", "--json")
    assert (done.status, done.lines[-1]["n_train"]) == (0, 16)
    report = gta("report", str(run), "-o", str(tmp_path / "report.html"))
    assert report.status == 0
    assert "its images are a stream" in report.err + (tmp_path / "report.html").read_text()
    again = gta("pretrain", "--resume", str(run), "--epoch-images", "24")
    assert "--epoch-images was 16" in again.err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_parts_and_commands_that_are_killed_leave_the_files_of_one_process(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Real processes: a part is killed, then the command, which is started again at once."""

    def discover(out: str, *more: str) -> subprocess.Popen[bytes]:
        words = ["discover", "-m", str(tiny_model), "--data", str(tiny_data), "-o", out, *more]
        words += ["--set", "discovery.tokencut.layer=-1", "--set", "discovery.tokencut.tau=0.2"]
        return subprocess.Popen([sys.executable, "-m", "gtacli", *words], stderr=subprocess.PIPE)

    def parts(out: str) -> set[int]:
        """Return the processes of parts."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if b"--shard" in words and any(out.encode() in word for word in words):
                    found.add(int(path.parent.name))
        return found

    def part(out: str, *, but: Collection[int] = ()) -> int:
        """Wait for a part; return its process."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if found := parts(out).difference(but):
                return min(found)
            time.sleep(0.05)
        raise AssertionError("no part has begun")

    out, one = str(tmp_path / "maps"), str(tmp_path / "one")
    given = ("--executor", "local", "--jobs", "2")
    first = discover(out, *given)
    os.kill(part(out), signal.SIGKILL)
    time.sleep(1)
    first.kill()
    first.communicate()
    left = parts(out)  # of the command that was killed
    second = discover(out, *given)
    os.kill(part(out, but=left), signal.SIGKILL)
    _, told = second.communicate()
    assert second.returncode == 0
    assert b"was killed; it is started again" in told
    assert discover(one).wait() == 0
    files = [
        {str(p.relative_to(place)): p.read_bytes() for p in Path(place).rglob("*") if p.is_file()}
        for place in (out, one)
    ]
    assert files[0] == files[1]
