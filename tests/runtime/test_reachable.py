import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gtacli.cli.ahead import ask_hosts_ahead
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
    monkeypatch.setattr(reachable, "_questions", {})


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


@pytest.fixture
def self_signed(tmp_path: Path) -> Iterator[str]:
    """The URL of a server whose certificate nobody trusts, as of an intercepting proxy."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    files = [tmp_path / "cert.pem", tmp_path / "key.pem"]
    command = ["openssl", *words.split(), "-out", files[0], "-keyout", files[1]]
    subprocess.run(command, check=True, capture_output=True)
    ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ssl_context.load_cert_chain(*files)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    with suppress(OSError), ssl_context.wrap_socket(connection, server_side=True):
                        pass

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://localhost:{server.getsockname()[1]}"


@pytest.fixture
def no_tls() -> Iterator[str]:
    """The https URL of a server that speaks something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.sendall(b"220 mail.example ready\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://localhost:{server.getsockname()[1]}"


@pytest.fixture
def hangs_up() -> Iterator[str]:
    """The URL of a server that ends every connection without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.recv(4096)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://localhost:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("kind", "said"),
    [("self_signed", "certificate"), ("no_tls", "does not speak TLS"), ("hangs_up", "")],
)
@pytest.mark.parametrize("hub", [False, True])
def test_what_the_libraries_would_try_again_and_again(
    kind: str, said: str, hub: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    url = request.getfixturevalue(kind)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    began = time.monotonic()
    why = reachable.why_hub_unreachable() if hub else why_unreachable(url)
    assert "cannot be reached (" in str(why)
    assert said in str(why)
    assert not re.search(r"[A-Z]\w+Error|\[|\n", str(why)), why
    assert time.monotonic() - began < 3


def test_a_host_is_asked_while_torch_is_imported(silent: str, hangs_up: str) -> None:
    for url in (silent, hangs_up):
        reachable.ask_ahead(f"{url}/a.tar")
    time.sleep(1.1)
    began = time.monotonic()
    assert why_unreachable(f"{hangs_up}/a.tar") is not None
    assert time.monotonic() - began < 0.2
    reachable.GRACE_SECONDS, grace = 0.1, reachable.GRACE_SECONDS
    try:
        assert "does not answer within 1 s" in str(why_unreachable(f"{silent}/a.tar"))
    finally:
        reachable.GRACE_SECONDS = grace
    assert time.monotonic() - began < 0.6


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        ({"model": "hf-hub:a/b"}, ["hub"]),
        ({"model": "vit_small_patch16_224.dino"}, ["hub"]),
        ({"model": None, "compare": ("demo", "deit_tiny_patch16_224")}, ["hub"]),
        ({"data": "hfds/a/b"}, ["hub"]),
        ({"data": "wds/https://a.example/{0..9}.tar"}, ["https://a.example"]),
        ({"teacher": "demo", "data": "demo"}, []),
        ({"model": "vit_small_patch16_224@none", "data": "wds/a.tar"}, []),
        ({"model": "runs/one", "data": ["photos", Path("more")]}, []),
        ({"model": "vit_tiny_patch16_224"}, []),  # a folder of this name
    ],
)
def test_only_hosts_that_a_spec_names_are_asked(
    config: dict[str, Any], asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[str] = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit_tiny_patch16_224").mkdir()
    monkeypatch.setattr(reachable, "ask_ahead", found.append)
    monkeypatch.setattr(reachable, "ask_hub_ahead", lambda: found.append("hub"))
    ask_hosts_ahead(SimpleNamespace(**config))
    assert found == asked
