"""Text that strangers have named (files, classes), safe on a terminal and in a spreadsheet."""

from __future__ import annotations

import re

from gtacli.runtime.secrets import mask_secrets

# C0 without the tab, DEL, C1, the separators of lines, and what reorders the text around it.
CONTROLS = re.compile("[\0-\x08\n-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def escape_controls(text: str) -> str:
    r"""Return `text` with control characters as `\n`, `\x1b` or `\u202e`, and secrets masked."""
    escape = lambda found: found[0].encode("unicode_escape").decode()  # noqa: E731
    return mask_secrets(CONTROLS.sub(escape, text))


def as_utf8(text: str) -> str:
    """Return `text` as UTF-8 can hold it; names of files may have bytes that it cannot."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def plain_cell(cell: str) -> str:
    """Return a cell of CSV as text of one line, which no spreadsheet takes for a formula."""
    return escape_controls(f"'{cell}" if cell.startswith(_FORMULA) else cell)
