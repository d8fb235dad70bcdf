"""Class activation maps by the methods of the package grad-cam (Gildenblat et al.).

The target layer is the normalized input of a block's attention, `model.blocks[-1].norm1` of timm's
ViTs, as the package recommends: patches have no gradient at the last block's output. The maps stay
on the patch grid; the package would resize them to the image before it scales them to [0, 1].

Shapes: B images, P prefix tokens, gh x gw patches, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType, SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gta_gradcam_zoo.network import SharedNetwork
from gta_gradcam_zoo.options import ClassActivationOptions
from gtacli.config.parts import MapOptions
from gtacli.errors import UsageError
from gtacli.inference.attention_maps.base import AttentionMap, MapKind
from gtacli.measures.attention import mass_mask
from gtacli.models import timm_blocks
from gtacli.models.class_scores import check_classifier
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import absolute_layers

CLASSES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "elementwise": "GradCAMElementWise",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "seg-eigencam": "SegEigenCAM",
    "kpcacam": "KPCA_CAM",
    "fem": "FEM",
    "scorecam": "ScoreCAM",
    "ablationcam": "AblationCAM",
}
"""Classes of the package by the names of the methods."""


class ClassActivation(MapKind[ClassActivationOptions]):
    """The map of a class by a method of the package grad-cam.

    Raises UsageError without the package, for a model without a classifier, and for a block or a
    class that it does not have.
    """

    Options: ClassVar[type[MapOptions]] = ClassActivationOptions

    def __init__(
        self,
        options: ClassActivationOptions,
        model: LoadedModel,
        mass: float | None = None,
        raw: bool = False,
    ) -> None:
        super().__init__(options, model, mass, raw)
        self.network: Any = model.model
        timm_blocks.check(self.network)
        blocks: Any = self.network.blocks
        (self.layer,) = absolute_layers((options.layer,), len(blocks))
        check_classifier(self.network, options.target_class, "cam")
        self.method = _method(options.method)

    def __call__(self, images: Tensor) -> list[AttentionMap]:
        """Return one map in [0, 1] of each image."""
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(images.device.type, enabled=False),
        ):
            # A gradient of the images, so that the layer has one though the weights are frozen.
            maps = self._explain(images.detach().clone().float().requires_grad_())
        masks = None if self.mass is None else mass_mask(maps, self.mass)
        return [AttentionMap(self.layer, None, maps, masks)]

    def _explain(self, images: Tensor) -> Tensor:
        grid = timm_blocks.grid(self.network, (images.shape[-2], images.shape[-1]))
        prefix = int(self.network.num_prefix_tokens)

        def reshape(tokens_BTC: Tensor) -> Tensor:
            return tokens_BTC[:, prefix:].unflatten(1, grid).permute(0, 3, 1, 2)

        shared = SharedNetwork(self.network, self.layer)
        cam = self.method(shared, [shared.target], reshape)
        cam.get_target_width_height = lambda _: (grid[1], grid[0])
        try:
            return torch.from_numpy(cam(images, targets=self._targets(len(images)))).float()
        finally:
            cam.activations_and_grads.release()

    def _targets(self, count: int) -> list[Any] | None:
        if self.options.target_class == "predicted":
            return None
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        return [ClassifierOutputTarget(self.options.target_class)] * count


def _method(name: str) -> Callable[..., Any]:
    """Return a function that makes a method's object. Raises UsageError without the package."""
    try:
        import pytorch_grad_cam as package
    except ImportError as error:
        raise UsageError(
            f"cam needs the package grad-cam ({error}): pip install grad-cam", option="kind"
        ) from error
    base: Any = getattr(package, CLASSES[name])
    if name not in ("scorecam", "ablationcam"):
        return base
    own = {"get_cam_weights": _without_progress(base.get_cam_weights)}
    quiet: Any = type(f"Quiet{base.__name__}", (base,), own)
    if name == "scorecam":
        return quiet

    def ablation(model: Any, layers: list[Any], reshape: Any) -> Any:
        # Its default is one object, which all threads would share.
        return quiet(model, layers, reshape, package.AblationLayerVit())

    return ablation


def _without_progress(function: FunctionType) -> FunctionType:
    """Return a function of the package that draws no progress bars; the package stays as it is."""

    def same(values: Iterable[Any]) -> Iterable[Any]:
        return values

    names = {**function.__globals__, "tqdm": SimpleNamespace(tqdm=same)}
    return FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
