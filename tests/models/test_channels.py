"""Tests of networks of other than three input channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from gtacli import load_model
from gtacli.errors import GtaError


@pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_one_channel_is_exact_on_gray_images(
    tmp_path: Path, arch: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also for an architecture with a mean for each channel (DeiT)."""
    source = timm.create_model(arch, in_chans=1, num_classes=3).eval()
    torch.save(source.state_dict(), tmp_path / "a.pth")
    loaded = load_model(f"{arch}@{tmp_path / 'a.pth'}")
    mean, std = loaded.mean[0], loaded.std[0]
    assert loaded.mean == (mean,) * 3
    assert loaded.std == (std,) * 3
    gray = torch.rand(1, 1, 224, 224)
    with torch.no_grad():
        ours = loaded.model(((gray - mean) / std).expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours, source((gray - mean) / std), rtol=1e-4, atol=1e-5)
    assert "is a network of one input channel" in caplog.text


def test_statistics_of_one_channel(tmp_path: Path) -> None:
    source = timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=0)
    save_file(source.state_dict(), tmp_path / "a.safetensors", {"mean": "0.3", "std": "[0.2]"})
    loaded = load_model(f"vit_tiny_patch16_224@{tmp_path / 'a.safetensors'}")
    assert (loaded.mean, loaded.std) == ((0.3,) * 3, (0.2,) * 3)


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_other_channels_are_refused(tmp_path: Path, channels: int) -> None:
    source = timm.create_model("vit_tiny_patch16_224", in_chans=channels)
    torch.save(source.state_dict(), tmp_path / "a.pth")
    for partial in (None, True):
        with pytest.raises(GtaError, match=f"a.pth is a network of {channels} input channels"):
            load_model(f"vit_tiny_patch16_224@{tmp_path / 'a.pth'}", partial_weights=partial)
