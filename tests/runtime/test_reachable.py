import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gtacli.data import load_dataset
from gtacli.errors import GtaError
from gtacli.models import load_model
from gtacli.runtime import reachable
from gtacli.runtime.reachable import why_unreachable

NAME = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def nothing_cached(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    """Let no proxy be set and nothing be cached, and wait a shorter time for answers."""
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("GTA_ALLOW_HTTP", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(own_cache / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(reachable, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(reachable, "_answered", set())


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a listener that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """A URL where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(params=["silent", "closed", "resolver", "dead resolver", "offline"])
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hub that cannot be reached; what is said of it."""
    from huggingface_hub import constants

    if request.param in ("silent", "closed"):
        monkeypatch.setattr(constants, "ENDPOINT", request.getfixturevalue(request.param))
        return "does not answer within 1 s" if request.param == "silent" else "cannot be reached"
    if request.param == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        return "HF_HUB_OFFLINE is set"

    def resolve(*_: Any, **__: Any) -> None:
        if request.param == "dead resolver":
            time.sleep(20)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    if request.param == "resolver":
        return r"huggingface.co cannot be reached \(its name cannot be resolved\)"
    return "huggingface.co does not answer within 1 s"


@pytest.mark.parametrize("spec", [NAME, "hf-hub:nobody/nothing"])
def test_models_of_a_hub_that_cannot_be_reached(spec: str, broken: str, own_cache: Path) -> None:
    began = time.monotonic()
    with pytest.raises(GtaError, match=broken) as caught:
        load_model(spec)
    assert time.monotonic() - began < 5
    advice = "ARCH@FILE" if ":" in spec else f"{NAME}@FILE"
    assert str(caught.value).endswith(
        f"copy them to {own_cache / 'hub'} here, or name a file: {advice}"
    )
    assert "\n" not in str(caught.value)


def test_datasets_of_a_hub_that_cannot_be_reached(broken: str) -> None:
    pytest.importorskip("datasets")
    began = time.monotonic()
    with pytest.raises(
        GtaError, match=rf"hfds/a/b is not in the cache, and .*{broken}.*hfds/FOLDER"
    ):
        load_dataset("hfds/a/b")
    assert time.monotonic() - began < 5


def test_shards_of_a_host_that_cannot_be_reached(silent: str, closed: str) -> None:
    for url in (silent, closed):
        began = time.monotonic()
        with pytest.raises(GtaError, match=r"(does not answer|cannot be reached).*wds/FILE\.tar"):
            load_dataset(f"wds/{url}/a.tar")
        assert time.monotonic() - began < 5


def test_any_answer_counts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert why_unreachable(f"{url}/x") is None
        thread.join()
    assert why_unreachable(f"{url}/y") is None  # once is enough


def test_a_proxy_that_only_the_library_knows_is_not_asked(
    closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    assert why_unreachable(closed) is None


def test_the_name_is_checked_before_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachable, "why_unreachable", lambda url: pytest.fail("asks"))
    with pytest.raises(GtaError, match="did you mean"):
        load_model("vit_tynipatch16_224")
    with pytest.raises(GtaError, match="has no weights 'x'"):
        load_model(f"{NAME}.x")
