"""Back-ends that vote: several methods look at an image, and a patch needs half of their evidence.

    evidence(p) = mean over the members of (mask(p) + map(p)) / 2

with each member's mask and its map in [0, 1]; the mask is where the evidence is above a half. So a
majority decides, and where it is thin the maps do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from gtacli.config.base import build
from gtacli.config.parts import DiscoveryOptions, VoteOptions
from gtacli.discovery.base import Discovery, ObjectMaps
from gtacli.discovery.bipartition import boxes_of
from gtacli.discovery.masks import MAP_THRESHOLD
from gtacli.errors import UsageError
from gtacli.models.tap import absolute_layers
from gtacli.registry import DISCOVERY

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel


class Vote(Discovery[VoteOptions]):
    """The vote of several back-ends, each with its own options, on one network.

    Every member runs the network itself, so the vote takes as long as all of them.

    Raises UsageError for an unknown member, one whose options are still "auto", and where a member
    refuses the model.
    """

    Options: ClassVar[type[DiscoveryOptions]] = VoteOptions

    def __init__(self, options: VoteOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        self.members: list[Discovery[Any]] = []
        for name in options.members:
            part = _load(name)
            given = build(part.Options, options.settings.get(name, {}), _key(name))
            self.members.append(part(given, model))

    @classmethod
    def resolve(cls, options: VoteOptions, model: LoadedModel) -> VoteOptions:
        """Let every member replace its own "auto"; a given `layer` is that of all members."""
        settings: dict[str, dict[str, Any]] = {}
        layers: list[int] = []
        depth = len(model.model.blocks)  # type: ignore[arg-type]
        # All are loaded before the first one chooses its options, which takes a while.
        for name, part in [(name, _load(name)) for name in options.members]:
            given: Mapping[str, Any] = options.settings.get(name, {})
            if options.layer != "auto" and "layer" in part.Options.model_fields:
                given = {"layer": options.layer, **given}
            resolved = part.resolve(build(part.Options, given, _key(name)), model)
            settings[name] = resolved.model_dump(mode="json")
            layers += absolute_layers((resolved.layer,), depth)
        return options.model_copy(update={"settings": settings, "layer": max(layers)})

    @torch.no_grad()
    def find(self, images: Tensor) -> ObjectMaps:
        found = [member.find(images) for member in self.members]
        evidence = torch.stack([(_mask(one).float() + one.maps) / 2 for one in found]).mean(0)
        masks = evidence > 0.5
        boxes = torch.from_numpy(boxes_of(masks.cpu().numpy())).to(masks.device)
        return ObjectMaps(evidence, masks, boxes)


def _mask(found: ObjectMaps) -> Tensor:
    """Return a member's masks (B, gh, gw); of a map alone, its part above the usual threshold."""
    return found.maps > MAP_THRESHOLD if found.masks is None else found.masks


def _load(name: str) -> type[Discovery[Any]]:
    part: type[Discovery[Any]] = DISCOVERY.load(name)
    if part is Vote:
        raise UsageError("a vote is no member of a vote", option="discovery.vote.members")
    return part


def _key(name: str) -> str:
    return f"discovery.vote.settings.{name}"
