"""What tests of several packages use."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from tests.web import Web

# Before torch is imported: a pool of OpenMP threads, once it has run, does not survive a fork, and
# some tests fork. Tiny networks are slower on several threads anyway, and several test processes
# may run at once.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell starts what it runs in the background with Ctrl-C ignored, and tests send it to processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no bug: no example fails for its time.
settings.register_profile("gta", deadline=None)
settings.load_profile("gta")

ROOT = Path(__file__).resolve().parents[1]


_LOGGERS = [logging.getLogger(name) for name in ("", "gtacli", "py.warnings")]
_LEVELS = [logger.level for logger in _LOGGERS]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command sets the log up for its whole process: each test begins and ends without that, also
    one after a module's fixture that ran a command."""
    handlers = _LOGGERS[0].handlers[:]
    _levels_as_before()
    yield
    _levels_as_before()
    _LOGGERS[0].handlers = handlers
    logging.captureWarnings(False)


def _levels_as_before() -> None:
    for logger, level in zip(_LOGGERS, _LEVELS, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def delta_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the plug-in gta-delta; not on sys.path yet."""
    site = tmp_path_factory.mktemp("site")
    source = ROOT / "plugins" / "gta-delta"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--target", str(site), str(source)], check=True)
    return site


@pytest.fixture
def delta(delta_site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """gta-delta is installed for this test."""
    monkeypatch.syspath_prepend(str(delta_site))
    return delta_site


@pytest.fixture(scope="session", autouse=True)
def reads_in_fp32() -> Iterator[None]:
    """No processor multiplies bf16, so that results are those of fp32 wherever the tests run.

    Fixtures of a module or of the session compute too, so this one comes before them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gtacli.runtime.devices.multiplies_bf16", lambda: False)
        yield


@pytest.fixture
def reads_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor multiplies bf16; one that does not computes the same, slowly."""
    monkeypatch.setattr("gtacli.runtime.devices.multiplies_bf16", lambda: True)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests do not reach them."""
    for name in os.environ:
        if name == "GTA_PLUGINS" or (name.startswith("GTA_") and "__" in name):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As above, for whoever had imported torch before."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test alone, empty."""
    monkeypatch.setenv("GTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def web(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """A web in memory, empty, which downloads ask; whoever opens a connection fails the test."""
    import socket

    from gtacli.runtime import reachable

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("opens a connection")

    web = Web()
    monkeypatch.setattr(reachable, "TRANSPORTS", (web.transport(),))
    monkeypatch.setattr(reachable, "_questions", {})
    hub = SimpleNamespace(head=lambda url, timeout: None)  # it answers
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: hub)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("GTA_ALLOW_HTTP", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return web


@pytest.fixture
def new_life(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """`new_life()`: from now on this process is another one, and the one before has ended."""
    from gtacli.runtime import atomic, process_identity

    def begin() -> None:
        before = process_identity.own_identity()
        after = before._replace(started=before.started + 1)
        monkeypatch.setattr(process_identity, "_identity", lambda pid: after)
        atomic._swept.clear()

    return begin


TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A folder that loads as a tiny ViT with random weights (model spec: its path)."""
    return write_tiny_model(tmp_path)


def write_tiny_model(root: Path) -> Path:
    import json

    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **TINY)
    folder = root / "tiny-model"
    folder.mkdir()
    metadata = {"architecture": "vit_tiny_patch16_224", "kwargs": json.dumps(TINY)}
    save_file(model.state_dict(), folder / "model.safetensors", {**metadata, "num_classes": "7"})
    return folder


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """A folder of three classes that their colour tells apart: 6 train and 4 test images each."""
    return write_tiny_data(tmp_path)


def write_tiny_data(place: Path) -> Path:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    root = place / "tiny-data"
    for split, count in (("train", 6), ("test", 4)):
        for label, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (40, 44, 3), dtype=np.uint8)
                pixels[..., label] += 120
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def write_label_table(place: Path, images: int, test_from: int) -> Path:
    """Write photographs that have red, green and blue or not, and their table `set.csv`.

    Those from `test_from` on are for testing.
    """
    import numpy as np
    from PIL import Image

    rng, classes = np.random.default_rng(0), ("red", "green", "blue")
    lines = ["image,labels,split"]
    for i in range(images):
        own = [c for c in range(3) if (i >> c) & 1]
        pixels = rng.integers(0, 100, (40, 44, 3), dtype=np.uint8)
        pixels[..., own] += 130
        Image.fromarray(pixels).save(place / f"{i}.png")
        split = "test" if i >= test_from else "train"
        lines.append(f"{i}.png,{'|'.join(classes[c] for c in own)},{split}")
    table = place / "set.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture
def label_table(tmp_path: Path) -> Path:
    """A table of 30 images with any number of labels, 12 of them for testing."""
    return write_label_table(tmp_path, 30, 18)


class Recorder:
    """Watches a run; may be told to do something at a step or an epoch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.at_epoch: Callable[[dict[str, Any]], None] = lambda row: None
        self.at_step: Callable[[int, int], None] = lambda epoch, batch: None

    def step(self, epoch: int, batch: int, batches: int, epochs: int, loss: float) -> None:
        self.at_step(epoch, batch)

    def epoch(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.at_epoch(row)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def together() -> Callable[..., list[Any]]:
    """`together(work, size)`: work(rank) in `size` processes as torchrun starts them, and what each
    returned, or the exception that ended it (None for one that was killed)."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork")
    fork = multiprocessing.get_context("fork")

    def child(work: Callable[[int], Any], rank: int, pipe: Any) -> None:
        import torch

        os.environ.update(pipe.recv())
        # Replaces the thread pool that a fork leaves broken, which autograd's threads would all do
        # at once ("Invalid thread pool!").
        torch.set_num_threads(torch.get_num_threads())
        try:
            result = work(rank)
        except BaseException as error:
            result = error
        pipe.send(result)
        pipe.close()
        os._exit(0)

    def run(work: Callable[[int], Any], size: int = 2) -> list[Any]:
        from torch.distributed import TCPStore

        started = []
        for rank in range(size):
            mine, theirs = fork.Pipe()
            process = fork.Process(target=child, args=(work, rank, theirs))
            process.start()
            theirs.close()
            started.append((process, mine))
        # After the last fork: the store's thread may hold a lock of the C library's.
        store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        for rank, (_, pipe) in enumerate(started):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            master = {"MASTER_ADDR": "localhost", "MASTER_PORT": store.port}
            env = {**place, **master, "TORCHELASTIC_USE_AGENT_STORE": True}
            pipe.send({name: str(value) for name, value in env.items()})
        results = []
        for process, pipe in started:
            try:
                results.append(pipe.recv() if pipe.poll(120) else TimeoutError())
            except EOFError:
                results.append(None)
            process.kill()
            process.join()
        return results

    return run


def write_image(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def make_image() -> Callable[..., Path]:
    """(path, (width, height), seed): writes a smooth picture, different for every seed."""
    return write_image
