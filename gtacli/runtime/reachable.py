"""A question to a host before a download from it, so that an unreachable one is known in seconds.

The libraries that download repeat a request that fails again and again, which takes minutes, and no
timeout of theirs holds for the resolution of a name. Any HTTP answer of the host counts, also an
error. The hub of Hugging Face is asked by its own client, which may use another proxy and other
certificates than this program.

A command line asks the hosts that it names before it imports torch (`ask_ahead`), so that both
take their time together.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any
from urllib import request
from urllib.parse import urlsplit

ANSWER_SECONDS = 3.0
"""Time that a host has for its answer, with the resolution of its name and the connection."""
GRACE_SECONDS = 1.0
"""Time from the end of the imports for an answer that they may have held up."""
TRANSPORTS: tuple[type[request.BaseHandler], ...] = (request.HTTPSHandler, request.HTTPHandler)

_NO_ANSWER = "no answer"


class _Question:
    """A request that is under way in a thread.

    Args:
        head: asks; raises an error if there is no answer.
    """

    def __init__(self, head: Callable[[], object]) -> None:
        self._head = head
        self._answers: list[str | None] = []
        self._began = monotonic()
        # A thread, as nothing else ends the resolution of a name.
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def failure(self, host: str, patience: float) -> str | None:
        """Wait for the answer; return why there is none, as a clause, or None.

        Args:
            patience: seconds to wait at least.
        """
        left = self._began + ANSWER_SECONDS - monotonic()
        self._thread.join(max(left, patience))
        if not self._answers or self._answers[0] == _NO_ANSWER:
            return f"{host} does not answer within {ANSWER_SECONDS:g} s"
        if self._answers[0] is not None:
            return f"{host} cannot be reached ({self._answers[0]})"
        return None

    def _ask(self) -> None:
        try:
            self._head()
        except Exception as error:  # of several HTTP clients
            self._answers.append(_why(error))
        else:
            self._answers.append(None)


_questions: dict[str, _Question] = {}


def ask_ahead(url: str) -> None:
    """Begin to ask the host of an http(s) URL; `why_unreachable` then waits for the rest only."""
    top = _top(url)
    if top not in _questions and not _has_unknown_proxy(top):
        _questions[top] = _Question(lambda: _head(top))


def ask_hub_ahead() -> None:
    """Begin to ask the hub of Hugging Face, unless it is switched off."""
    from huggingface_hub import constants, utils

    client: Any = utils
    url = str(constants.ENDPOINT)
    if url not in _questions and not constants.HF_HUB_OFFLINE:
        session = client.get_session()
        _questions[url] = _Question(lambda: session.head(url, timeout=ANSWER_SECONDS))


def why_unreachable(url: str) -> str | None:
    """Return why the host of an http(s) URL cannot be asked, as a clause; None if it answers.

    Through the proxy of the environment; one that only the downloading library knows (SOCKS) is
    not asked: None.
    """
    top = _top(url)
    if _has_unknown_proxy(top):
        return None
    return _failure(top, lambda: ask_ahead(url))


def why_hub_unreachable() -> str | None:
    """Return why the hub of Hugging Face cannot be asked, as a clause; None if it answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return _failure(str(constants.ENDPOINT), ask_hub_ahead)


def hub_cache() -> str:
    """Return the folder where files of the hub are kept."""
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _failure(url: str, ask: Callable[[], None]) -> str | None:
    """Return why a host does not answer; one that has answered is not asked again."""
    patience = GRACE_SECONDS if url in _questions else 0.0
    ask()
    failure = _questions[url].failure(_host(url), patience)
    if failure is not None:
        del _questions[url]
    return failure


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _top(url: str) -> str:
    return f"{urlsplit(url).scheme}://{_host(url)}/"


def _has_unknown_proxy(url: str) -> bool:
    scheme, proxies = urlsplit(url).scheme, request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    return proxy is not None and (scheme not in proxies or proxy.startswith("socks"))


def _head(url: str) -> None:
    """Ask with the opener of this program's downloads."""
    opener = request.OpenerDirector()  # without a handler of errors and redirects: any answer
    kinds: tuple[type[request.BaseHandler], ...] = (request.ProxyHandler, *TRANSPORTS)
    for kind in kinds:
        opener.add_handler(kind())
    asked = request.Request(url, headers={"User-Agent": "gta"}, method="HEAD")
    with opener.open(asked, timeout=ANSWER_SECONDS):
        pass


def _why(error: BaseException) -> str:
    """Return the first cause that is known of an HTTP client's error, in words."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message.rstrip('.')}"
        if isinstance(cause, ssl.SSLError):
            return "it does not speak TLS"
        if isinstance(cause, socket.gaierror):
            return "its name cannot be resolved"
        if isinstance(cause, TimeoutError):
            return _NO_ANSWER
    named = [c.strerror for c in causes if isinstance(c, OSError) and c.strerror]
    return named[0] if named else str(causes[0]).strip() or _NO_ANSWER


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what has led to it."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        yield error
        reason = getattr(error, "reason", None)
        deeper = reason if isinstance(reason, BaseException) else None
        error = deeper or error.__cause__ or error.__context__ or error
