"""TOML of strangers, read with bounds, and every error in one plain line.

Python's reader stops deep nesting with a RecursionError and long numbers with a ValueError, and
takes a minute for a key of 100,000 parts.
"""

from __future__ import annotations

import tomllib
from typing import Any

from gtacli.runtime.strict_json import check_depth

MOST_CHARACTERS = 1 << 16
"""The largest recipe of this program has 3,000."""
_MOST_DOTS = 1 << 10


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of a TOML document.

    Raises ValueError with one line that says what is wrong.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS:,} characters")
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
        raise ValueError(f"it has a line of more than {_MOST_DOTS:,} dots")
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deep") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(str(error)) from None
    except ValueError:  # of Python's limit of digits
        raise ValueError("it has a number of too many digits") from None
    check_depth(values)
    return values
