from pathlib import Path
from urllib.error import URLError

import pytest

from gtacli.errors import GtaError
from gtacli.runtime.download import download
from tests.web import Web

A, B = "https://example.org/a", "https://example.org/b"


def test_redirects_stay_https(web: Web, tmp_path: Path) -> None:
    web.files[B] = b"content"
    web.redirects[A] = "/b"
    download(A, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"content"
    assert web.asked == [A, B]


@pytest.mark.parametrize("allow", ["", "0", "1"])
@pytest.mark.parametrize(
    "to",
    ["http://example.org/b", "file:///etc/passwd", "ftp://example.org/b", "pipe:id", "data:,x"],
)
def test_redirects_to_other_schemes_are_refused(
    to: str, allow: str, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GTA_ALLOW_HTTP", allow)
    web.files[to] = b"content"
    web.redirects[A] = to
    with pytest.raises((GtaError, URLError)):
        download(A, tmp_path / "x")
    assert web.asked == [A]
    assert not (tmp_path / "x").exists()


def test_http_only_if_allowed(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://example.org/a"
    web.files[url] = b"content"
    with pytest.raises(GtaError, match=r"use https://, or set GTA_ALLOW_HTTP=1"):
        download(url, tmp_path / "x")
    assert web.asked == []
    monkeypatch.setenv("GTA_ALLOW_HTTP", "1")
    download(url, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"content"
