"""A question to a host before a download from it, so that an unreachable one is known in seconds.

The libraries that download repeat a request that fails again and again, which takes minutes, and no
timeout of theirs holds for the resolution of a name. Any answer of the host counts, also an error.
"""

from __future__ import annotations

import socket
import ssl
import threading
from http.client import HTTPException
from urllib import request
from urllib.error import URLError
from urllib.parse import urlsplit

ANSWER_SECONDS = 3.0
"""Time that a host has for its answer, with the resolution of its name and the connection."""
TRANSPORTS: tuple[type[request.BaseHandler], ...] = (request.HTTPSHandler, request.HTTPHandler)
_answered: set[str] = set()


def why_unreachable(url: str) -> str | None:
    """Return why the host of an http(s) URL cannot be asked, as a clause; None if it answers.

    Through the proxy of the environment; one that only the downloading library knows (SOCKS) is
    not asked: None.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    top = f"{parts.scheme}://{host}/"
    if top in _answered or _has_unknown_proxy(parts.scheme):
        return None
    failures: list[str | None] = []
    thread = threading.Thread(target=lambda: failures.append(_ask(top)), daemon=True)
    thread.start()  # a thread, as nothing else ends the resolution of a name
    thread.join(ANSWER_SECONDS)
    if not failures:
        return f"{host} does not answer within {ANSWER_SECONDS:g} s"
    if failures[0] is not None:
        return f"{host} cannot be reached ({failures[0]})"
    _answered.add(top)
    return None


def why_hub_unreachable() -> str | None:
    """Return why the hub of Hugging Face cannot be asked, as a clause; None if it answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return why_unreachable(constants.ENDPOINT)


def hub_cache() -> str:
    """Return the folder where files of the hub are kept."""
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _has_unknown_proxy(scheme: str) -> bool:
    proxies = request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    return proxy is not None and (scheme not in proxies or proxy.startswith("socks"))


def _ask(url: str) -> str | None:
    """Return why a host does not answer; None if it does."""
    opener = request.OpenerDirector()  # without a handler of errors and redirects: any answer
    kinds: tuple[type[request.BaseHandler], ...] = (request.ProxyHandler, *TRANSPORTS)
    for kind in kinds:
        opener.add_handler(kind())
    asked = request.Request(url, headers={"User-Agent": "gta"}, method="HEAD")
    try:
        with opener.open(asked, timeout=ANSWER_SECONDS):
            return None
    except (OSError, HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, (ssl.SSLError, HTTPException)) and not isinstance(cause, TimeoutError):
            return None  # it answers; what is wrong is told by the download itself
        if isinstance(cause, socket.gaierror):
            return "its name cannot be resolved"
        text = cause.strerror if isinstance(cause, OSError) else None
        return text or str(cause) or "no answer"
