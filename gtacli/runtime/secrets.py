"""Credentials in URLs, masked wherever a URL is shown or recorded."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
_USER = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@'\"?#]+@")
# Signatures of S3, Google and Azure, and whatever calls itself a token, a key or a password.
_QUERY = re.compile(
    r"([?&#;](?:[\w.-]*(?:token|signature|secret|passw|credential|session|auth|apikey|api_key"
    r"|access|policy|jwt)[\w.-]*|[\w.-]*key(?:[_-]?id)?|sig|pwd|code)=)[^&#;\s'\"<>,}]+",
    re.IGNORECASE,
)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def mask_secrets(text: str) -> str:
    """Return `text` with `***` in place of users, passwords, tokens and signatures in URLs."""
    if "://" in text:
        text = _QUERY.sub(rf"\1{MASK}", _USER.sub(rf"\1{MASK}@", text))
    return _HUB_TOKEN.sub(MASK, text) if "hf_" in text else text


def mask_values(value: Any) -> Any:
    """Return `value` with all its texts masked, at any depth."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, dict):
        return {mask_secrets(k) if isinstance(k, str) else k: mask_values(v)
                for k, v in value.items()}  # fmt: skip
    if isinstance(value, list | tuple):
        return [mask_values(v) for v in value]
    return value
