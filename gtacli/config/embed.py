"""The config of `gta embed`."""

from __future__ import annotations

from typing import Literal

from gtacli.config.common import DeviceConfig, FilePath, ImageSize, columns_option
from gtacli.config.option import option
from gtacli.config.probe.common import BlockNumbers, features_option, layer_option

Format = Literal["parquet", "npz", "csv", "safetensors"]
FORMATS: dict[str, Format] = {
    ".parquet": "parquet", ".npz": "npz", ".csv": "csv", ".safetensors": "safetensors",
}  # fmt: skip


class EmbedConfig(DeviceConfig):
    """Options of the computation of embeddings."""

    model: str | None = option(
        None,
        "pre-trained ViT: a timm name, hf-hub:..., a run folder, ARCH@FILE, or a registered name "
        "(`gta models list`)",
        metavar="SPEC",
    )
    data: str | None = option(
        None,
        "dataset whose images are added to the image arguments, with their classes and splits: a "
        "folder, a csv, torch/NAME:ROOT, demo, ...; wds/ and parquet/ are read as a stream",
        metavar="SPEC",
    )
    columns: str | None = columns_option()
    features: Literal["cls", "mean", "cls+mean"] = features_option()
    layer: BlockNumbers = layer_option()
    normalize: bool = option(
        False, "scale every embedding to length 1, so that their dot products are cosines"
    )
    image_size: ImageSize | None = option(
        None, "input size of the model, in pixels", metavar="N|HxW", shown="the model's"
    )
    format: Format | None = option(None, "form of the file", shown="by the suffix of `out`")
    out: FilePath | None = option(
        None,
        "the file; an existing one is only replaced with `overwrite`",
        shown="runs/embed-DATE-TIME/embeddings.FORMAT",
        metavar="FILE",
    )
    overwrite: bool = option(False, "replace an existing file")
    workers: int | None = option(
        None, "threads that read images; 0: none", ge=0, shown="one per core"
    )

    @property
    def kind(self) -> Format | None:
        """The form of the file; None if neither `format` nor the suffix of `out` says it."""
        if self.format is not None or self.out is None:
            return self.format or "parquet"
        return FORMATS.get(self.out.suffix.lower())
