"""The pre-training step of a masked autoencoder.

Nothing is drawn here: masks and shuffles are functions of (seed, epoch, image), so neither the
number of processes nor a resumption changes a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gtacli.data.augment.map_crops import crop_maps
from gtacli.data.loader import Batch
from gtacli.images.preprocessing import InputView
from gtacli.models.mae import MaskedAutoencoder, Reconstruction
from gtacli.models.patches import Masking, mask_order, take
from gtacli.pretraining.guidance import (
    Guidance,
    guided_weights,
    interpolate_cosine,
    interpolate_linear,
    normalize_maps,
    region_errors,
    shuffle_maps,
)
from gtacli.pretraining.noise import image_noise
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.training.timm_task import TimmTask

_MASKS, _SHUFFLES = 0, 1  # streams of noise


class PretrainTask(TimmTask):
    """Reconstruction of masked patches, with more weight on the object if there is guidance.

    Args:
        model: on the device already.
        view: normalizes the pixels.
        compute: device and precision.
        seed: of the masks.
        guidance: weights by the maps; None: all patches weigh the same.
        masking: which patches are masked; other than "random" needs maps.
        share: fraction of them that the maps choose, at the start and at the end of the training.
        processes: share each batch.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        view: InputView,
        compute: Compute,
        seed: int,
        guidance: Guidance | None = None,
        masking: Masking = "random",
        share: tuple[float, float] = (1.0, 1.0),
        processes: Processes = ALONE,
    ) -> None:
        super().__init__(model, compute.device)
        self.model = model
        self.guidance = guidance
        self.masking: Masking = masking
        self.share = share
        self.processes = processes
        self.seed = seed
        self._view = view

    def epoch_metrics(self, means: dict[str, float]) -> dict[str, float | None]:
        """Return an epoch's metrics; the errors inside and outside the object from their sums."""
        by_region = {
            f"recon_{k}": _ratio(means.pop(k), means.pop(f"{k}_mass"))
            for k in ("fg", "bg")
            if k in means
        }
        return {**means, **by_region}

    def forward(self, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        """Compute the loss of a step.

        Args:
            batch: uint8 images; with maps where the guidance or the masking needs them. A map of 0
                everywhere weighs as an image without an object.

        Returns:
            `loss`; `output` (B, M) errors of the masked patches; for the log `recon` (their
            unweighted mean), `tau`, and the parts of the error inside and outside the object
            (`fg`, `fg_mass`, `bg`, `bg_mass`: see `guidance.RegionErrors`), if there are maps.
        """
        images = self._view(batch.images)
        with torch.no_grad():
            indices = batch.indices.to(images.device, non_blocking=True)
            maps = None if batch.maps is None else self._view_maps(batch.maps, batch.crops)
            guide = maps
            if maps is not None and self.guidance is not None and self.guidance.shuffle:
                guide = shuffle_maps(maps, self._noise(indices, _SHUFFLES))
            chosen = self.model.chosen(interpolate_linear(*self.share, self.progress))
            order = mask_order(self._noise(indices, _MASKS), guide, self.masking, chosen)
        result: Reconstruction = self.trainable_module(images, order)
        errors = result.errors
        loss = recon = errors.mean()
        metrics: dict[str, Tensor] = {"recon": recon}
        if maps is None or guide is None:
            assert self.guidance is None, "guidance needs maps"
            return {"loss": loss, "output": errors, **metrics}
        with torch.no_grad():
            masked = order[:, -errors.shape[1] :]
            metrics |= region_errors(errors, take(maps, masked))._asdict()
        if self.guidance is not None:
            tau = interpolate_cosine(*self.guidance.tau, self.progress)
            metrics["tau"] = recon.new_tensor(tau)
            # A stand-in for an empty batch must not count.
            count = 0 if batch.stand_in else len(errors)
            weights = guided_weights(
                take(guide, masked), tau, self.guidance.gamma, count, self.processes
            )
            loss = (weights * errors).mean()
        return {"loss": loss, "output": errors, **metrics}

    def _noise(self, indices: Tensor, stream: int) -> Tensor:
        """Return noise (B, N) for the patches of these images in this epoch."""
        rows, columns = self.model.grid
        return image_noise(indices, rows * columns, self.seed, self.epoch, stream)

    def _view_maps(self, maps: Tensor, crops: Tensor) -> Tensor:
        """Return the normalized maps (B, N) of the views, on their patch grids."""
        moved = maps.to(self.device, non_blocking=True)
        return normalize_maps(crop_maps(moved, crops, self.model.grid).flatten(1))


def _ratio(part: float, mass: float) -> float | None:
    return part / mass if mass > 0 else None
