"""Downloads over HTTPS and nothing else.

Plain `http://` is refused unless GTA_ALLOW_HTTP=1; a redirect from https to http always is. No
other scheme is opened, neither by a URL nor by a redirect: not `file:`, not `ftp:`, no command.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib import request
from urllib.parse import urlsplit

from gtacli.errors import GtaError
from gtacli.runtime import reachable
from gtacli.runtime.secrets import mask_secrets

TIMEOUT = 60
"""Seconds without an answer, after which a download fails."""
# At least two characters before the colon, so that a Windows drive is a path.
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:")


def has_scheme(name: str) -> bool:
    """Return whether `name` starts like a URL ("https:", "pipe:")."""
    return _SCHEME.match(name) is not None


def require_url(url: str) -> None:
    """Raise GtaError unless `url` may be downloaded. Nothing is opened."""
    shown = mask_secrets(url)
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname
    except ValueError as error:
        raise GtaError(f"{shown} is not a URL ({mask_secrets(str(error))})") from error
    if scheme == "http" and os.environ.get("GTA_ALLOW_HTTP") != "1":
        raise GtaError(f"{shown} is not encrypted; use https://, or set GTA_ALLOW_HTTP=1")
    if scheme not in ("https", "http"):
        raise GtaError(f"{shown} is not opened: only local files and https:// are (a file: ./NAME)")
    if not host:
        raise GtaError(f"{shown} names no host")


def open_url(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """Ask for the content of `url`; return the answer, a context manager with `read`.

    Raises as `download` does.
    """
    require_url(url)
    if (reason := reachable.why_unreachable(url)) is not None:
        raise GtaError(reason)
    opener = request.OpenerDirector()  # build_opener would add handlers of file:, ftp: and data:
    for handler in (
        request.ProxyHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
        _Redirects,
        *reachable.TRANSPORTS,
    ):
        opener.add_handler(handler())
    asked = request.Request(url, headers={"User-Agent": "gta", **(headers or {})})
    return opener.open(asked, timeout=TIMEOUT)


def download(url: str, target: Path) -> None:
    """Write the content of `url` to `target`.

    Raises GtaError for a URL or a redirect that is not allowed, for a host that does not answer and
    for an incomplete answer;
    OSError, ValueError or HTTPException for what else fails.
    """
    with open_url(url) as answer, target.open("wb") as file:
        shutil.copyfileobj(answer, file)
        length, size = answer.headers.get("Content-Length"), file.tell()
        if length is not None and int(length) != size:
            raise GtaError(f"{mask_secrets(url)} ended after {size} of {length} bytes")


class _Redirects(request.HTTPRedirectHandler):
    """Follows redirects to allowed URLs, and from https only to https."""

    def redirect_request(
        self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> request.Request | None:
        require_url(newurl)
        if urlsplit(req.full_url).scheme == "https" != urlsplit(newurl).scheme:
            old, new = mask_secrets(req.full_url), mask_secrets(newurl)
            raise GtaError(f"{old} is redirected to {new}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
