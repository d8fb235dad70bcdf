"""A digest of the drawing code, which is part of the name of cached drawings."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path


@cache
def drawing_digest() -> str:
    """Return the hash of the drawing code; a new hash invalidates cached drawings."""
    return digest_of(sorted(Path(__file__).parent.glob("*.py")))


def digest_of(files: Iterable[Path]) -> str:
    """Return the first ten digits of the SHA-256 of the files' text, ignoring line endings."""
    digest = hashlib.sha256()
    for file in files:
        digest.update("\n".join(file.read_text(encoding="utf-8").splitlines()).encode())
    return digest.hexdigest()[:10]
