"""Formats that need a decoder beside Pillow: HEIC, and AVIF in old versions of Pillow."""

from __future__ import annotations

from typing import BinaryIO

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}


def add_decoder(file: BinaryIO) -> bool:
    """Load the decoder of a file that Pillow does not know; return whether there is a new one.

    Raises ValueError, which says what to install, where it is missing.
    """
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    if head[4:8] != b"ftyp":
        return False
    if head[8:] in _AVIF:
        raise ValueError("this Pillow has no AVIF decoder; update it (pip install -U pillow)")
    if head[8:] not in _HEIC:
        return False
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ValueError("HEIC needs a decoder (pip install 'gtacli[heic]')") from None
    register_heif_opener()
    return True
