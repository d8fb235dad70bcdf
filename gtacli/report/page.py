"""The page: one file, nothing loaded, nothing run but its own scripts.

Texts of file names, classes and settings are escaped where they enter HTML; the scripts put them
in as text only. The content security policy names the style and the scripts by their hashes, so
that nothing else would run even so. JSON stands in the page with `<`, `>` and `&` written as
escapes: no text can end its element.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

_SCRIPTS = ("common.js", "curves.js", "previews.js", "maps.js", "answers.js")
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def render(
    title: str,
    subtitle: str,
    notes: Sequence[str],
    sections: dict[str, str],
    data: dict[str, Any],
    payloads: dict[str, bytes],
) -> str:
    """The HTML.

    Args:
        title, subtitle: plain text.
        notes: plain text, what is missing.
        sections: HTML of the template's places.
        data: what the scripts read at once.
        payloads: what they read when it is looked at, by the id of its element.
    """
    style = _static("uPlot.min.css") + "\n" + _static("page.css")
    library = _static("uPlot.iife.min.js")
    script = "\n".join(
        ['"use strict";', "{", *(_static(name) for name in _SCRIPTS), "}"],
    )
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return Template(_static("page.html")).substitute(
        policy=_policy([style], [library, script]),
        title=escape(title),
        subtitle=escape(subtitle),
        notes=f"<h2>Missing</h2><ul>{listed}</ul>" if notes else "",
        style=style,
        library=library,
        script=script,
        data=as_json(data),
        payloads="\n".join(
            f'<script type="text/plain" id="{escape(key)}">{_base64(value)}</script>'
            for key, value in payloads.items()
        ),
        **sections,
    )


def as_json(value: Any) -> str:
    """JSON that may stand in a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    return (
        f"default-src 'none'; img-src data:; style-src {_hashes(styles)}; "
        f"script-src {_hashes(scripts)}; base-uri 'none'; form-action 'none'"
    )


def _hashes(texts: Sequence[str]) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{_base64(digest)}'" for digest in digests)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _static(name: str) -> str:
    return (files(__package__) / "static" / name).read_text(encoding="utf-8").strip()
