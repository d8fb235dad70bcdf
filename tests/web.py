"""A web of files in memory, in place of a network."""

from __future__ import annotations

from email.message import Message
from io import BytesIO
from urllib import request
from urllib.response import addinfourl


class Web:
    """Files and redirects by URL.

    Attributes:
        files: content by URL; another URL is not found.
        redirects: the URL that a URL is redirected to.
        asked: what was asked for, in order.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[str] = []

    def answer(self, asked: request.Request) -> addinfourl:
        """Return the answer of an HTTP server."""
        url = asked.full_url
        if asked.get_method() != "HEAD":  # which only asks whether there is a host
            self.asked.append(url)
        headers, code = Message(), 404
        if url in self.redirects:
            headers["Location"], code = self.redirects[url], 302
        elif url in self.files:
            headers["Content-Length"], code = str(len(self.files[url])), 200
        answer = addinfourl(BytesIO(self.files.get(url, b"")), headers, url, code)
        answer.msg = "as the test says"  # type: ignore[attr-defined]
        return answer

    def transport(self) -> type[request.BaseHandler]:
        """Return a handler that asks this web and no network."""
        web = self

        class Transport(request.BaseHandler):
            def https_open(self, asked: request.Request) -> addinfourl:
                return web.answer(asked)

            http_open = https_open

        return Transport
