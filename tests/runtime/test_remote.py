"""Tests of content that is read from URLs without a copy: interruptions, ranges, refusals."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gtacli.errors import GtaError
from gtacli.runtime import remote
from gtacli.runtime.remote import RemoteFile
from tests.web import Web

URL = "https://user:word@example.org/s.tar?token=abc"
DATA = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.0,) * 6)


def read_all(file: RemoteFile, size: int = 1000) -> bytes:
    return b"".join(iter(lambda: file.read(size), b""))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 3000), max_size=6), st.booleans(), st.integers(1, 5000))
def test_an_interrupted_connection_goes_on_where_it_was(
    web: Web, breaks: list[int], ranges: bool, size: int
) -> None:
    """By a range, or from the start without repeating bytes."""
    web.files[URL], web.breaks[URL], web.sends_ranges = DATA, [*breaks], ranges
    web.ranges.clear()
    assert read_all(RemoteFile(URL), size) == DATA
    starts = [int(one.split("=")[1].split("-")[0]) for one in web.ranges]
    assert starts == sorted(starts)
    assert not (starts and not ranges)


def test_it_gives_up_after_attempts_without_a_byte(web: Web) -> None:
    web.files[URL], web.breaks[URL] = DATA, [500, *[0] * 20]
    file = RemoteFile(URL)
    assert file.read(500) == DATA[:500]
    with pytest.raises(
        GtaError, match=r"it ended after 500 of 10,240 bytes, tried 7 times"
    ) as caught:
        file.read(10)
    assert "word" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_two_versions_never_meet(web: Web) -> None:
    for tags in (("a", "b"), (None, None)):
        web.files[URL], web.breaks[URL] = DATA, [500]
        web.tags = {URL: tags[0]} if tags[0] else {}
        file = RemoteFile(URL)
        file.read(500)
        web.files[URL] = DATA if tags[1] else DATA + b"x"
        web.tags = {URL: tags[1]} if tags[1] else {}
        with pytest.raises(GtaError, match="has changed while it was read"):
            file.read(500)


def test_ranges(web: Web) -> None:
    web.files[URL] = DATA
    file = RemoteFile(URL, whole=False)
    assert web.asked == []
    assert file.read_range(100, 50) == DATA[100:150]
    assert file.read_range(len(DATA) - 5, 50) == DATA[-5:]
    assert file.length == len(DATA)
    web.breaks[URL] = [3, 0]
    assert file.read_range(0, 10) == DATA[:10]
    web.sends_ranges = False
    with pytest.raises(GtaError, match="sends no parts of a file; download it"):
        file.read_range(0, 10)


def test_the_state_is_that_of_the_content(web: Web) -> None:
    web.files[URL] = DATA
    assert RemoteFile(URL).state is None  # a server that says only the length
    web.tags[URL] = '"v1"'
    first = RemoteFile(URL).state
    assert first is not None
    assert "abc" not in first
    other = URL.replace("abc", "def")  # a signature of another day
    web.files[other], web.tags[other] = DATA, '"v1"'
    assert RemoteFile(other).state == first
    web.tags[URL] = '"v2"'
    assert RemoteFile(URL).state not in (first, None)


@pytest.mark.parametrize("url", ["http://example.org/a.tar", "file:///etc/passwd", "pipe:id"])
def test_only_https_is_opened(url: str, web: Web) -> None:
    web.files[url] = DATA
    with pytest.raises(GtaError):
        RemoteFile(url)
    web.redirects["https://example.org/r"] = url
    with pytest.raises(GtaError):
        RemoteFile("https://example.org/r")
    assert url not in web.asked


def test_what_is_not_there_is_not_asked_again(web: Web) -> None:
    with pytest.raises(GtaError, match="the server answers 404"):
        RemoteFile(URL)
    assert web.asked == [URL]


class _Server(BaseHTTPRequestHandler):
    """Ends every connection after 4,000 bytes, without a word."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.asked % 3 == 0:
            self.send_error(503)
            return
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(DATA) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.end_headers()
        self.wfile.write(DATA[start : start + 4000])
        self.close_connection = True

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    _Server.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/s.tar"
        http.shutdown()
        thread.join()


def test_a_real_server_that_breaks_off(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTA_ALLOW_HTTP", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    file = RemoteFile(server)
    assert read_all(file) == DATA
    file.close()
    assert _Server.asked >= 4
