"""Tests of loading weights from the caches alone."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import timm
from huggingface_hub import constants

from gtacli.models.cached import cached_only


def test_no_host_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client asks for a list of coding agents, whatever else it may not do."""
    asked: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        asked.append(address)
        raise ConnectionRefusedError

    def resolve(*address: Any, **_: Any) -> list[Any]:
        asked.append(address)
        raise socket.gaierror

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "agents"), raising=False)
    with pytest.raises(FileNotFoundError), cached_only():
        timm.create_model("vit_tiny_patch16_224", pretrained=True)
    assert asked == []
    assert constants.HF_HUB_DISABLE_TELEMETRY is False
