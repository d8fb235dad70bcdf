from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import _hub

from gtacli.errors import GtaError
from gtacli.models import load_model, specs
from gtacli.runtime.fetching import recorded_specs

NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def test_recorded_names_load_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = timm.create_model(NAME.partition(".")[0])
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    asked = []

    def hub(repo_id: str, filename: str, local_files_only: bool = False, **_: Any) -> str:
        asked.append(local_files_only)
        if filename != "model.safetensors":
            raise FileNotFoundError(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr(_hub, "hf_hub_download", hub)
    reason: list[str | None] = [None]
    monkeypatch.setattr(specs, "why_hub_unreachable", lambda: reason[0])
    before = _hub.download_url_to_file, torch.hub.download_url_to_file
    with recorded_specs("run.json", allow_fetch=False):
        loaded = load_model(NAME).model
    assert torch.equal(loaded.get_parameter("pos_embed"), network.get_parameter("pos_embed"))
    assert set(asked) == {True}
    assert (_hub.download_url_to_file, torch.hub.download_url_to_file) == before
    assert _hub.hf_hub_download is hub
    asked.clear()
    load_model(NAME)
    assert set(asked) == {False}
    asked.clear()
    reason[0] = "the hub is down"
    load_model(NAME)
    assert set(asked) == {True}


def test_damaged_weights_in_the_cache_are_no_question_of_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    monkeypatch.setattr(
        _hub, "hf_hub_download", lambda *_, **__: str(tmp_path / "model.safetensors")
    )
    with (
        recorded_specs("run.json", allow_fetch=False),
        pytest.raises(GtaError, match="could not be loaded"),
    ):
        load_model(NAME)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_the_architecture_is_checked_before_the_network_is_asked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(_hub, "hf_hub_download", lambda *a, **_: asked.append(a))
    monkeypatch.setattr(specs, "why_hub_unreachable", lambda: asked.append("hub"))
    monkeypatch.setattr(specs, "why_unreachable", asked.append)
    with pytest.raises(GtaError, match="is not a ViT whose attention can be extracted"):
        load_model(name)
    assert asked == []
