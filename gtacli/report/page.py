"""The HTML page: a single file that loads nothing and runs only its own scripts.

The templates escape everything they insert; the scripts insert text as text nodes only. In
addition the content security policy names the style and the scripts by their hashes, so that
nothing else would run. In the embedded JSON `<`, `>` and `&` are escaped: no text can end its
element.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gtacli.report.metrics import format_deviation, format_number

_SCRIPTS = ("common.js", "tables.js", "curves.js", "previews.js", "maps.js", "predictions.js")
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def render_page(content: dict[str, Any], data: dict[str, Any], payloads: dict[str, bytes]) -> str:
    """Return the page as HTML.

    Args:
        content: the variables of templates/page.html; all text is escaped.
        data: values that the scripts read at once.
        payloads: bytes that the scripts read on demand, by the id of their element.
    """
    style = _static("uPlot.min.css") + "\n" + _static("page.css")
    library = _static("uPlot.iife.min.js")
    script = "\n".join(['"use strict";', "{", *(_static(name) for name in _SCRIPTS), "}"])
    return (
        _environment()
        .get_template("page.html")
        .render(
            content,
            policy=_policy([style], [library, script]),
            style=Markup(style),
            library=Markup(library),
            script=Markup(script),
            data=Markup(as_json(data)),
            payloads={key: _base64(value) for key, value in payloads.items()},
        )
    )


def as_json(value: Any) -> str:
    """Return JSON that can be embedded in a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "dumps": json.dumps,
        "format_number": format_number,
        "format_deviation": format_deviation,
    }
    return environment


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> Markup:
    return Markup(
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
