"""The fine-tuning step, in the shape of timm's young `TrainingTask`.

The frozen source stays bare: never wrapped, never in train mode, in no optimiser, no checkpoint.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Any, cast

import torch
from timm.task import TrainingTask
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from gtacli.finetuning.mixing import Mixing, soft_labels
from gtacli.finetuning.source_views import SourceViews
from gtacli.models import timm_blocks
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import Request, TapOutputs, TappedViT, TapTensors, require_cls
from gtacli.regularizers.base import Regularizer, StepOutputs
from gtacli.runtime.devices import Compute


class FinetuneTask(TrainingTask):  # type: ignore[misc]
    """Cross-entropy plus the regularisers' penalties, on views that both networks share.

    Args:
        target: the network that learns.
        source: the frozen one, on the same device; None when no regulariser asks for it.
        regularizers: by the name they are logged under.
        compute: the device that both are on, and the precision.
        mixing: mixes the training batches; None: they stay as they come.
        label_smoothing: share of each label that is spread over all classes.
        freeze_epochs: epochs at the start in which the head learns alone.
    """

    def __init__(
        self,
        target: LoadedModel,
        source: LoadedModel | None,
        regularizers: Mapping[str, Regularizer[Any]],
        compute: Compute,
        mixing: Mixing | None = None,
        label_smoothing: float = 0.0,
        freeze_epochs: int = 0,
    ) -> None:
        device = compute.device
        super().__init__(device=device, verbose=False)
        self.regularizers = dict(regularizers)
        asked = [s for r in self.regularizers.values() if (s := r.needs.source) is not None]
        self.mixing = mixing
        self.label_smoothing = label_smoothing
        self._last_block = len(cast(Any, target.model).blocks) - 1
        if mixing is not None and mixing.kind == "transmix":
            require_cls(target.model, "mix", "use `mix=cutmix`")
        self.active = self.regularizers
        self.trainable_module: Any = TappedViT(target.model, self._request())
        self.tapped: TappedViT = self.trainable_module
        self.freeze_epochs = freeze_epochs
        self._frozen = False
        named = target.model.named_parameters()
        self._backbone = [p for n, p in named if not n.startswith(target.head) and p.requires_grad]
        # In a tuple, so that nn.Module neither registers it nor puts it into train mode:
        # the walker, and what runs it (the same, or its compiled form).
        self._source: tuple[TappedViT, Any] | None = None
        if asked and source is not None:
            frozen = TappedViT(source.model, reduce(or_, asked)).eval().requires_grad_(False)
            self._source = (frozen, frozen)
        self._view = target.view(device)
        self._source_view = (source or target).view(device)
        self._same_view = self._view.settings == self._source_view.settings
        self._compute = compute
        self.source_views: SourceViews | None = None
        self.progress = 0.0

    def compile(
        self, backend: str = "inductor", mode: str | None = None, **kwargs: Any
    ) -> nn.Module:
        """Compile both forward passes, each as one graph."""
        options = {"backend": backend, "mode": mode, "fullgraph": True, "dynamic": False, **kwargs}
        self.trainable_module = torch.compile(self.trainable_module, **options)
        if self._source is not None:
            self._source = (self._source[0], torch.compile(self._source[0], **options))
        return self.trainable_module

    def prepare_distributed(
        self, device_ids: list[Any] | None = None, **ddp_kwargs: Any
    ) -> FinetuneTask:
        """Let DDP average the target's gradients over the processes; the source stays bare."""
        self._ddp: dict[str, Any] = {
            "device_ids": device_ids,
            "broadcast_buffers": False,  # a ViT's do not change
            "gradient_as_bucket_view": True,
            **ddp_kwargs,
        }
        self.trainable_module = DistributedDataParallel(self.trainable_module, **self._ddp)
        return self

    def _request(self) -> Request:
        """What the steps need of the target."""
        needs = [r.needs.target for r in self.active.values()]
        if self.mixing is not None and self.mixing.kind == "transmix":
            needs.append(Request(layers=(self._last_block,)))
        return reduce(or_, needs, Request())

    def figures(self, means: dict[str, float]) -> dict[str, float]:
        """An epoch's figures for the log, from the means of what the steps returned."""
        return means

    def start_epoch(self, epoch: int) -> None:
        """Freeze the backbone in the first epochs, with the regularisers that only reach it."""
        frozen = epoch < self.freeze_epochs
        if frozen == self._frozen:
            return
        self._frozen = frozen
        for parameter in self._backbone:
            parameter.requires_grad_(not frozen)  # without a gradient the optimiser passes it by
        named = self.regularizers.items()
        self.active = {name: r for name, r in named if r.reaches_head or not frozen}
        self.tapped.request = self._request()
        if isinstance(self.trainable_module, DistributedDataParallel):
            # DDP takes note of what learns when it is made; the old one's hooks go with it.
            alone = self.trainable_module.module
            self.trainable_module = None
            gc.collect()
            self.trainable_module = DistributedDataParallel(alone, **self._ddp)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """One step.

        Args:
            input: uint8 (B, 3, h, w) augmented images, mixed here if at all; each network gets
                them in its own size and normalisation.
            target: (B,) class indices.

        Returns:
            `loss`; `output` (B, classes); for the log `ce` (of mixed and smoothed labels if
            they are), `reg.<name>`, not multiplied by its strength, and the regularisers' own
            figures.
        """
        size = (input.shape[-2], input.shape[-1])
        mix = self.mixing.draw(*size) if self.mixing is not None and self.training else None
        if mix is not None:
            input = mix.images(input)
        images = self._view(input)
        seen: TapOutputs | None = None
        if self._source is not None and any(r.needs.source for r in self.active.values()):
            walker, run = self._source
            # First the source: its activations are gone before the target's are kept.
            with torch.no_grad():
                if self.source_views is not None and self.training:
                    outputs = self.source_views(images.device)
                else:
                    outputs = run(images if self._same_view else self._source_view(input))
                seen = walker.unpack(outputs, self._source_view.image_size)
        reading = self.tapped.unpack(self.trainable_module(images), input.shape)
        assert reading.logits is not None
        labels = target
        if self.mixing is not None and mix is not None:
            share = self.mixing.own_share(mix, reading.taps.get(self._last_block), size)
            labels = soft_labels(target, share, reading.logits.shape[-1])
        loss = ce = F.cross_entropy(reading.logits, labels, label_smoothing=self.label_smoothing)
        result: dict[str, Tensor] = {"ce": ce}
        step = StepOutputs(reading, seen, target, self.progress)
        for name, regularizer in self.active.items():
            penalty = regularizer.penalty(step)
            result[f"reg.{name}"] = penalty
            strength = regularizer.strength(self.progress)
            if strength:
                loss = loss + strength * penalty
            for figure, value in regularizer.metrics().items():
                result[f"reg.{name}.{figure}"] = value
        return {"loss": loss, "output": reading.logits, **result}

    @property
    def runs_source(self) -> bool:
        """Whether a regulariser asks for the source."""
        return self._source is not None

    def keep_source_views(self, images: int, views: int, filled: SourceViews | None = None) -> None:
        """Look the source's rows up instead of running it, where a regulariser asks for it.

        Args:
            images: that are trained on.
            views: of each.
            filled: the same rows, where an earlier task has read them; else they have to be filled
                before the first step.
        """
        if self._source is None:
            return
        walker = self._source[0]
        grid = timm_blocks.grid(walker.model, self._source_view.image_size)
        tokens = walker.num_prefix_tokens + grid[0] * grid[1]
        heads = walker.model.blocks[0].attn.num_heads
        made = SourceViews(walker.request, heads, tokens, images, views)
        same = filled is not None and filled.shape == made.shape
        self.source_views = filled if same else made

    def read_source(self, input: Tensor) -> TapTensors:
        """What the source returns for pixels (B, 3, h, w)."""
        assert self._source is not None
        with self._compute.autocast():
            outputs: TapTensors = self._source[1](self._source_view(input.to(self.device)))
        return outputs

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """What regularisers do to the weights after the optimiser has moved them."""
        for regularizer in self.regularizers.values():
            regularizer.after_step(optimizer.param_groups)
