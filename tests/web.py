"""A web of files in memory, in place of a network."""

from __future__ import annotations

import re
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
        ranges: the ranges that were asked for, in order.
        tags: ETag by URL.
        breaks: by URL the sizes of its next answers, after which the connection ends.
        sends_ranges: whether the server knows ranges.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[str] = []
        self.ranges: list[str] = []
        self.tags: dict[str, str] = {}
        self.breaks: dict[str, list[int]] = {}
        self.sends_ranges = True

    def answer(self, asked: request.Request) -> addinfourl:
        """Return the answer of an HTTP server."""
        url = asked.full_url
        if asked.get_method() != "HEAD":  # which only asks whether there is a host
            self.asked.append(url)
        headers, code, content = Message(), 404, b""
        if url in self.redirects:
            headers["Location"], code = self.redirects[url], 302
        elif url in self.files:
            content, code = self.files[url], 200
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.get_header("Range") or "")
            if wanted and self.sends_ranges:
                self.ranges.append(wanted[0])
                start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
                end, code = min(end, len(content) - 1), 206
                headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                content = content[start : end + 1]
            headers["Content-Length"] = str(len(content))
            if url in self.tags:
                headers["ETag"] = self.tags[url]
        if self.breaks.get(url):
            content = content[: self.breaks[url].pop(0)]
        answer = addinfourl(BytesIO(content), headers, url, code)
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
