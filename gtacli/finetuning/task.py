"""The fine-tuning step: the loss of the classes plus the penalties of regularizers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Any, cast

import torch
from torch import Tensor, nn

from gtacli.data.labels import multi_hot
from gtacli.data.loader import Batch
from gtacli.finetuning.losses import ClassLoss
from gtacli.finetuning.mixing import Mixing, mix_labels, soft_labels
from gtacli.finetuning.source_cache import SourceCache
from gtacli.models import timm_blocks
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import Request, TapOutputs, TappedViT, TapTensors, require_cls
from gtacli.regularizers.base import Regularizer, StepOutputs
from gtacli.runtime.devices import Compute
from gtacli.training.timm_task import TimmTask, compile_graph

PLAIN = ClassLoss()


class FinetuneTask(TimmTask):
    """A task that trains the target; target and source get the same views.

    The frozen source is never wrapped by DDP, never in train mode, and in no optimizer, moving
    average or checkpoint.

    Args:
        target: the network that learns.
        source: the frozen network, on the same device; not run unless a regularizer needs it.
        regularizers: by the name they are logged under.
        compute: the device that both networks are on, and the precision.
        mixing: how training batches are mixed; None: not at all.
        loss: of the classes; its weights are on the device.
        freeze_epochs: epochs at the start in which only the head learns.

    Attributes:
        active: the regularizers that have an effect in this epoch.
        source_cache: the source's attention on the training views, see `cache_source`.
    """

    def __init__(
        self,
        target: LoadedModel,
        source: LoadedModel | None,
        regularizers: Mapping[str, Regularizer[Any]],
        compute: Compute,
        mixing: Mixing | None = None,
        loss: ClassLoss = PLAIN,
        freeze_epochs: int = 0,
    ) -> None:
        device = compute.device
        super().__init__(TappedViT(target.model, Request()), device)
        self.tapped: TappedViT = self.trainable_module
        self.regularizers = self.active = dict(regularizers)
        self.mixing = mixing
        if mixing is not None and mixing.kind == "transmix":
            require_cls(target.model, "mix", "use `mix=cutmix`")
        self._last_block = len(cast(Any, target.model).blocks) - 1
        self.tapped.request = self._target_request(self.active)
        self.loss = loss
        self.freeze_epochs = freeze_epochs
        self._frozen = False
        named = target.model.named_parameters()
        self._backbone = [p for n, p in named if not n.startswith(target.head) and p.requires_grad]
        # The source, and the same or its compiled form, which runs it. In a tuple, so that
        # nn.Module neither registers it nor puts it into train mode.
        self._source: tuple[TappedViT, Any] | None = None
        self._shared = [] if source is None else [source.model]
        needed = [r.needs.source for r in self.regularizers.values() if r.needs.source is not None]
        if needed and source is not None:
            frozen = TappedViT(source.model, reduce(or_, needed)).eval().requires_grad_(False)
            self._source = (frozen, frozen)
        self._view = target.view(device)
        self._source_view = (source or target).view(device)
        self._same_view = self._view.settings == self._source_view.settings
        self._compute = compute
        self.source_cache: SourceCache | None = None

    def compile(self) -> None:  # type: ignore[override]
        """Compile both forward passes, each as one graph."""
        super().compile()
        if self._source is not None:
            self._source = (self._source[0], compile_graph(self._source[0]))

    @property
    def networks(self) -> list[nn.Module]:
        """The target, its average, and the source, also where only the drift is measured by it."""
        return [cast(TappedViT, m).model for m in super().networks] + self._shared

    def start_epoch(self, epoch: int) -> None:
        """Freeze or unfreeze the backbone; while frozen, skip regularizers that only act on it."""
        super().start_epoch(epoch)
        frozen = epoch < self.freeze_epochs
        if frozen == self._frozen:
            return
        self._frozen = frozen
        for parameter in self._backbone:
            parameter.requires_grad_(not frozen)  # the optimizer skips those without a gradient
        named = self.regularizers.items()
        self.active = {name: r for name, r in named if r.reaches_head or not frozen}
        self.tapped.request = self._target_request(self.active)
        self.reset_distributed()

    def forward(self, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        """Compute the loss of a step.

        Args:
            batch: uint8 augmented images, mixed here if at all; each network gets them in its own
                size and normalization.

        Returns:
            `loss`; `output` (B, classes); for the log `ce` (the loss of the classes, with mixed and
            smoothed labels and the classes' weights where they are), `reg.<name>`, not multiplied
            by its strength, and the regularizers' own metrics.
        """
        due = self._due()
        if (request := self._target_request(due)) != self.tapped.request:
            self.tapped.request = request  # a compiled network would check a new one in each step
        pixels, labels = batch.images, batch.labels
        size = (pixels.shape[-2], pixels.shape[-1])
        mix = self.mixing.draw(*size) if self.mixing is not None and self.training else None
        if mix is not None:
            pixels = mix.images(pixels)
        images = self._view(pixels)
        # Before the target, so that the source's activations are freed first.
        source = self._read_source(due, pixels, images, batch.indices)
        target = self.tapped.unpack(self.trainable_module(images), pixels.shape)
        assert target.logits is not None
        classes = target.logits.shape[-1]
        if self.loss.multi_label:
            labels = multi_hot(labels, classes)
        goal = labels
        if self.mixing is not None and mix is not None:
            fraction = self.mixing.own_fraction(mix, target.taps.get(self._last_block), size)
            several = self.loss.multi_label
            goal = (
                mix_labels(labels, fraction) if several else soft_labels(labels, fraction, classes)
            )
        loss = ce = self.loss(target.logits, goal)
        result: dict[str, Tensor] = {"ce": ce}
        step = StepOutputs(target, source, labels, self.progress)
        for name, regularizer in self.active.items():
            if regularizer.every > 1:
                result[f"due.{name}"] = ce.new_tensor(float(name in due))
            if name not in due:
                continue
            penalty = regularizer.penalty(step)
            result[f"reg.{name}"] = penalty
            times = regularizer.every if self.training else 1
            strength = regularizer.strength(self.progress) * times
            if strength:
                loss = loss + strength * penalty
            for metric, value in regularizer.metrics().items():
                result[f"reg.{name}.{metric}"] = value
        return {"loss": loss, "output": target.logits, **result}

    def epoch_metrics(self, means: dict[str, float]) -> dict[str, float | None]:
        """Return the means of the penalties over the steps that had one."""
        metrics: dict[str, float | None] = {**means}
        for name in self.regularizers:
            fraction = metrics.pop(f"due.{name}", None)
            if fraction is None:
                continue
            metrics.setdefault(f"reg.{name}", None)  # an epoch may have no such step
            for key, value in metrics.items():
                if value is not None and (key == f"reg.{name}" or key.startswith(f"reg.{name}.")):
                    metrics[key] = value / fraction
        return metrics

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let regularizers change the weights after the optimizer has."""
        for regularizer in self.regularizers.values():
            regularizer.after_step(optimizer.param_groups)

    @property
    def runs_source(self) -> bool:
        """Return whether a regularizer needs the source."""
        return self._source is not None

    def cache_source(self, images: int, views: int, reuse: SourceCache | None = None) -> None:
        """Look the source's attention up instead of running it in every step.

        The cache has to be filled before the first step. No effect where the source is not run.

        Args:
            images: number of training images.
            views: number of views of each.
            reuse: a filled cache; taken instead of a new one if it has the same shape.
        """
        if self._source is None:
            return
        tapped = self._source[0]
        grid = timm_blocks.grid(tapped.model, self._source_view.image_size)
        tokens = tapped.num_prefix_tokens + grid[0] * grid[1]
        heads = tapped.model.blocks[0].attn.num_heads
        if reuse is not None and reuse.fits(tapped.request, heads, tokens, images, views):
            self.source_cache = reuse
        else:
            self.source_cache = SourceCache(tapped.request, heads, tokens, images, views)

    def run_source(self, pixels: Tensor) -> TapTensors:
        """Return the source's outputs for uint8 views (B, 3, h, w)."""
        assert self._source is not None
        return self._run_source(self._source_view(pixels.to(self.device)))

    def _run_source(self, images: Tensor) -> TapTensors:
        """Return the source's outputs for normalized images, at the precision of the training."""
        assert self._source is not None
        frozen = self._compute.frozen
        with frozen.autocast():
            outputs: TapTensors = self._source[1](images)
        if frozen.dtype == self._compute.dtype:
            return outputs
        return TapTensors(*(_at(value, self._compute.dtype) for value in outputs))

    def _due(self) -> dict[str, Regularizer[Any]]:
        """Return the regularizers whose penalty belongs to this step."""
        if not self.training:
            return self.active
        return {name: r for name, r in self.active.items() if self.update % r.every == 0}

    def _target_request(self, due: Mapping[str, Regularizer[Any]]) -> Request:
        """Return what a step needs from the target beside its logits."""
        needs = [r.needs.target for r in due.values()]
        if self.mixing is not None and self.mixing.kind == "transmix":
            needs.append(Request(layers=(self._last_block,)))
        return reduce(or_, needs, Request())

    @torch.no_grad()
    def _read_source(
        self,
        due: Mapping[str, Regularizer[Any]],
        pixels: Tensor,
        images: Tensor,
        indices: Tensor,
    ) -> TapOutputs | None:
        """Return the source's attention on a step's views, if a regularizer needs it.

        Args:
            due: the regularizers of the step.
            pixels: uint8 or fp32 (B, 3, h, w) views.
            images: the same, normalized for the target.
            indices: (B,) indices of the images, by which the cache is read.
        """
        if self._source is None or not any(r.needs.source for r in due.values()):
            return None
        tapped = self._source[0]
        if self.source_cache is not None and self.training:
            outputs = self.source_cache.outputs(self.epoch, indices, images.device)
        else:
            outputs = self._run_source(images if self._same_view else self._source_view(pixels))
        return tapped.unpack(outputs, self._source_view.image_size)


def _at(value: Tensor | tuple[Tensor, ...] | None, dtype: torch.dtype) -> Any:
    """Return the tensors of a field of TapTensors in a dtype."""
    if isinstance(value, tuple):
        return tuple(each.to(dtype) for each in value)
    return None if value is None else value.to(dtype)
