"""The pre-training step of a masked autoencoder, in the shape of timm's young `TrainingTask`.

Nothing is drawn here: masks and shuffles are functions of (seed, epoch, image), so the number of
processes and a resumption change no step.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.task import TrainingTask
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gtacli.data.augment.map_crops import crop_maps
from gtacli.data.loader import Batch
from gtacli.images.preprocessing import InputView
from gtacli.models.mae import MaskedAutoencoder, Reconstruction
from gtacli.models.patches import Masking, mask_order, take
from gtacli.pretraining.guidance import (
    Guidance,
    guided_weights,
    normalised,
    region_errors,
    scheduled,
    shuffled,
)
from gtacli.pretraining.noise import image_noise
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import ALONE, Processes

_MASKS, _SHUFFLES = 0, 1  # streams of noise


class PretrainTask(TrainingTask):  # type: ignore[misc]
    """Reconstruction of masked patches, the object's weighing more where there is guidance.

    Call `look` before each step: it says which images come, and brings their maps.

    Args:
        model: on the device already.
        view: normalises the pixels.
        compute: device and precision.
        seed: of the masks.
        guidance: weights by the maps; None: plain.
        masking: what is masked; other than "random" needs maps.
        processes: that share each batch.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        view: InputView,
        compute: Compute,
        seed: int,
        guidance: Guidance | None = None,
        masking: Masking = "random",
        processes: Processes = ALONE,
    ) -> None:
        super().__init__(device=compute.device, verbose=False)
        self.model = model
        self.trainable_module: Any = model
        self.guidance = guidance
        self.masking: Masking = masking
        self.processes = processes
        self.seed = seed
        self.progress = 0.0
        self._view = view
        self._now: tuple[int, Tensor, Tensor, Tensor | None] | None = None

    def compile(
        self, backend: str = "inductor", mode: str | None = None, **kwargs: Any
    ) -> nn.Module:
        """Compile the pass as one graph."""
        options = {"backend": backend, "mode": mode, "fullgraph": True, "dynamic": False, **kwargs}
        self.trainable_module = torch.compile(self.trainable_module, **options)
        return cast(nn.Module, self.trainable_module)

    def prepare_distributed(
        self, device_ids: list[Any] | None = None, **ddp_kwargs: Any
    ) -> PretrainTask:
        """Let DDP average the gradients over the processes."""
        settings: dict[str, Any] = {
            "device_ids": device_ids,
            "broadcast_buffers": False,  # they are functions of the grid
            "gradient_as_bucket_view": True,
            **ddp_kwargs,
        }
        self.trainable_module = DistributedDataParallel(self.trainable_module, **settings)
        return self

    def start_epoch(self, epoch: int) -> None:
        """Nothing changes from epoch to epoch."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing is done to the weights beside the optimiser."""

    def figures(self, means: dict[str, float]) -> dict[str, float | None]:
        """An epoch's figures for the log, from the means of what the steps returned: the error
        inside and outside the object from their sums, not step by step."""
        inside = {f"recon_{k}": _share(means.pop(k), means.pop(f"{k}_mass"))
                  for k in ("fg", "bg") if k in means}  # fmt: skip
        return {**means, **inside}

    def look(self, epoch: int, batch: Batch, maps: Tensor | None = None) -> None:
        """The next step shows this batch.

        Args:
            batch: this process's share, perhaps none.
            maps: (B, mh, mw) bytes or floats, of the whole images; all 0 where an image has none,
                which weighs as if no part of it were an object.
        """
        self._now = (epoch, batch.indices, batch.crops, maps)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """One step.

        Args:
            input: uint8 (B, 3, h, w) of the batch that `look` was told of; or a single stand-in
                where that is empty.
            target: labels, which are not used.

        Returns:
            `loss`; `output` (B, M) errors of the masked patches; for the log `recon` (their plain
            mean), `tau`, and the parts of the error inside and outside the object (`fg`,
            `fg_mass`, `bg`, `bg_mass`: see `guidance.RegionErrors`), where there are maps.
        """
        images = self._view(input)
        with torch.no_grad():
            real, order, maps, guide = self._plan(images)
        result: Reconstruction = self.trainable_module(images, order)
        errors = result.errors
        loss = recon = errors.mean()
        figures: dict[str, Tensor] = {"recon": recon}
        if maps is not None and guide is not None:
            with torch.no_grad():
                masked = order[:, -errors.shape[1] :]
                figures |= region_errors(errors, take(maps, masked))._asdict()
                if self.guidance is not None:
                    tau = scheduled(*self.guidance.tau, self.progress)
                    figures["tau"] = recon.new_tensor(tau)
                    weights = guided_weights(
                        take(guide, masked), tau, self.guidance.gamma, real, self.processes
                    )
            if self.guidance is not None:
                loss = (weights * errors).mean()
        return {"loss": loss, "output": errors, **figures}

    def _plan(self, images: Tensor) -> tuple[int, Tensor, Tensor | None, Tensor | None]:
        """How many images are real, the order of their patches (B, N), M_norm of their views
        (B, N), and what guides: the same, or shuffled."""
        assert self._now is not None, "look was not called"
        epoch, indices, shown, given = self._now
        real, device, grid = len(indices), images.device, self.model.grid
        if not real:  # a stand-in
            indices, shown = indices.new_zeros(1), shown.new_tensor([[0.0, 0.0, 1.0, 1.0, 0.0]])
            given = None if given is None else given.new_zeros(1, *given.shape[1:])
        indices = indices.to(device, non_blocking=True)
        patches = grid[0] * grid[1]
        noise = image_noise(indices, patches, self.seed, epoch, _MASKS)
        if given is None:
            assert self.guidance is None, "guidance needs maps"
            return real, mask_order(noise, masking=self.masking), None, None
        moved = given.to(device, non_blocking=True)
        guide = maps = normalised(crop_maps(moved, shown, grid).flatten(1))
        if self.guidance is not None and self.guidance.shuffle:
            guide = shuffled(maps, image_noise(indices, patches, self.seed, epoch, _SHUFFLES))
        return real, mask_order(noise, guide, self.masking), maps, guide


def _share(part: float, mass: float) -> float | None:
    return part / mass if mass > 0 else None
