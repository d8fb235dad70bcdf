"""One network whose outputs are those of an exported file, and its graph.

    probabilities  (B, K)       softmax of the logits, divided by the temperature; of a model for
                                any number of labels per image their sigmoid
    attention      (B, gh, gw)  the last block's CLS row, softmax over all tokens, patch columns;
                                maximum or mean over the heads
    box            (B, 4)       x0 y0 x1 y1 around the patches that hold `mass` of the attention, in
                                pixels of the graph's input
    embedding      (B, C)       the CLS token or the mean of the patches after the final norm

A graph is traced by `torch.export` on its own modules; the attention is that of the tap.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from gtacli.errors import UsageError, reason_of_library
from gtacli.measures.attention import mass_mask
from gtacli.models.exporters.card import ExportCard
from gtacli.models.exporters.pixels import ResizeAndCrop
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import Request, TapOutputs, TappedViT

INPUT = "images"
"""The name of the graph's input."""


class ExportGraph(nn.Module):
    """A network with the outputs that a card names, as a tuple in their order.

    Args:
        model: in eval mode, on the CPU.
        card: see `ExportCard`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: LoadedModel, card: ExportCard) -> None:
        super().__init__()
        self.card = card
        last = len(cast(Any, model.model).blocks) - 1
        attends = bool({"attention", "box"} & {*card.outputs})
        self.tapped = TappedViT(
            model.model,
            Request(
                layers=(last,) if attends else (),
                hidden=(last,) if "embedding" in card.outputs else (),
                output="probabilities" in card.outputs,
            ),
        )
        self.view = ResizeAndCrop(card.image_size, card.crop_pct, card.interpolation)
        # On the scale of 0..255, as `InputView` has them.
        for name, values in (("mean", card.mean), ("std", card.std)):
            scaled = torch.tensor(values).mul(255).view(-1, 1, 1)
            self.register_buffer(name, scaled, persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for normalized images, or for pixels if the card says so."""
        inputs = images
        if self.card.pixels:
            inputs = (self.view(images) - self.mean) / self.std
        found = self.tapped.unpack(self.tapped(inputs), inputs.shape)
        return tuple(self._output(name, found, images) for name in self.card.outputs)

    def _output(self, name: str, found: TapOutputs, images: Tensor) -> Tensor:
        if name == "probabilities":
            assert found.logits is not None
            logits = found.logits.float() / self.card.temperature
            return logits.sigmoid() if self.card.multi_label else logits.softmax(-1)
        if name == "embedding":
            return self._embedding(found)
        maps = self._attention(found)
        if name == "attention":
            return maps
        box = self._box(maps)
        return self.view.to_image(box, images) if self.card.pixels else box

    def _attention(self, found: TapOutputs) -> Tensor:
        (tap,) = found.taps.values()
        heads = tap.maps()
        return heads.amax(1) if self.card.heads == "max" else heads.mean(1)

    def _embedding(self, found: TapOutputs) -> Tensor:
        (tokens,) = found.hidden.values()
        model = self.tapped.model
        tokens = model.norm(tokens)
        if self.card.features == "cls":
            return cast(Tensor, model.fc_norm(tokens[:, 0]))
        return cast(Tensor, model.fc_norm(tokens[:, self.tapped.num_prefix_tokens :].mean(1)))

    def _box(self, maps: Tensor) -> Tensor:
        mask = mass_mask(maps, self.card.mass)
        patch = self.tapped.model.patch_embed.patch_size
        (x0, x1), (y0, y1) = (
            _extent(mask.any(dim), side) for dim, side in ((1, patch[1]), (2, patch[0]))
        )
        return torch.stack((x0, y0, x1, y1), 1).float()


def _extent(inside: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the begin and the end (B,) of the patches that are inside (B, n), in pixels."""
    number = torch.arange(inside.shape[1], device=inside.device)
    first = torch.where(inside, number, inside.shape[1]).amin(1)
    end = torch.where(inside, number + 1, 0).amax(1)
    return first * side, end * side


def trace(graph: ExportGraph, images: Tensor) -> ExportedProgram:
    """Return the graph of a network, for batches of any size.

    Args:
        images: an example of at least two; for graphs of any size not square, so that height and
            width stay apart.

    Raises UsageError (option "format") for a network that torch cannot trace.
    """
    card = graph.card
    any_size = card.any_size or card.pixels
    axes = {0: Dim.DYNAMIC, **({2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if any_size else {})}
    try:
        with torch.no_grad():
            return torch.export.export(graph, (images,), dynamic_shapes=(axes,), strict=False)
    except Exception as error:  # whatever a module that cannot be traced makes torch raise
        text = f"{card.architecture} has no graph: {reason_of_library(error)}"
        raise UsageError(text, option="format") from error
