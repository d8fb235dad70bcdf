"""What a pre-training run needs before its first step: images, network, maps, optimiser."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import torch

from gtacli.config.pretrain import PretrainConfig
from gtacli.data.augment.augmentation import Augmentation
from gtacli.data.augment.batched import BatchedAugmentation, place_augmentation
from gtacli.data.augment.transforms import TrainTransform
from gtacli.data.base import ImageDataset, Record
from gtacli.data.store import ImageStore
from gtacli.data.unlabeled import load_images
from gtacli.errors import GtaError, UsageError
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.mae import MaskedAutoencoder, initialize_encoder
from gtacli.pretraining.guidance import Guidance
from gtacli.pretraining.task import PretrainTask
from gtacli.pretraining.teacher_maps import FoundMaps, Guide, KeptMaps
from gtacli.runtime import rng
from gtacli.runtime.devices import Compute, choose_compute
from gtacli.runtime.distribution import Processes
from gtacli.training.optimization import make_optimizer
from gtacli.training.stores import Stores

log = logging.getLogger(__name__)
BETAS = (0.9, 0.95)  # MAE's


@dataclass
class Job:
    """What a pre-training run works with, all checked before the first step."""

    config: PretrainConfig
    compute: Compute
    dataset: ImageDataset
    encoder: LoadedModel
    model: MaskedAutoencoder
    guide: Guide | None
    transform: Augmentation | BatchedAugmentation
    task: PretrainTask
    optimizer: torch.optim.Optimizer
    processes: Processes
    fingerprint: str
    stores: Stores = field(default_factory=Stores)

    @property
    def train(self) -> tuple[Record, ...]:
        """The images that are learnt from."""
        return self.dataset["train"]

    def store(self, records: tuple[Record, ...], load_size: tuple[int, int]) -> ImageStore:
        """Where the pixels of `records` come from."""
        return self.stores.of(records, load_size, self.encoder.interpolation, self.config.cache)

    @property
    def metadata(self) -> dict[str, str]:
        """What both files of weights say of the pre-training: enough to read a prediction."""
        config = self.config
        said = {
            "method": config.method,
            "mask_ratio": config.mask_ratio,
            "norm_pix": config.norm_pix,
            "decoder_dim": config.decoder_dim,
            "decoder_depth": config.decoder_depth,
            "decoder_heads": config.decoder_heads,
            "guide": config.backend,
        }
        return {"pretraining": json.dumps(said)}


def prepare(config: PretrainConfig, processes: Processes) -> Job:
    """Images, network and maps of a run, as before its first step.

    Raises GtaError for anything that is wrong with them.
    """
    compute = choose_compute(config.device, config.precision)
    if config.data is None:
        raise UsageError("--data: say what to train on: a folder of images, a .csv, demo, ...")
    if config.model is None:
        raise UsageError("--model: say what to train, e.g. vit_small_patch16_224")
    if config.batch_size % config.repeats:
        raise UsageError(
            f"--batch-size: {config.batch_size} views are no multiple of --repeats {config.repeats}"
        )
    if config.batch_size < processes.size * config.repeats:
        raise UsageError(
            f"--batch-size: {config.batch_size} images a step are too few for "
            f"{processes.size} processes to share"
        )
    dataset = load_images(config.data)
    records = dataset["train"]
    if not records:
        raise GtaError(f"--data: {config.data} has no training images")
    rng.seed_everything(config.seed)
    encoder = _encoder(config)
    model = _autoencoder(config, encoder)
    guide = _guide(config, records, compute, processes)
    model.to(compute.device)
    guidance = None
    if config.guided:
        gamma = None if config.gamma == "auto" else config.gamma
        guidance = Guidance(config.tau, gamma, config.shuffle_maps)
    view = encoder.view(compute.device)
    task = PretrainTask(model, view, compute, config.seed, guidance, config.mask, processes)
    # From here on only dropout and drop path draw, where a network has them.
    rng.seed_everything(config.seed, processes.rank)
    return Job(
        config,
        compute,
        dataset,
        encoder,
        model,
        guide,
        _training_view(config, encoder, compute.device),
        task,
        _optimizer(config, model),
        processes,
        fingerprint(model),
    )


def _encoder(config: PretrainConfig) -> LoadedModel:
    assert config.model is not None
    encoder = load_model(
        config.model,
        0,
        config.image_size,
        config.partial_weights,
        init=config.init,
        untrained=True,
        patch_size=config.patch_size,
    )
    if config.init is None:
        initialize_encoder(encoder.model)
        log.info("%s: random weights (--init starts from others)", encoder.architecture)
    if config.grad_checkpointing:
        model: Any = encoder.model
        model.set_grad_checkpointing()
    return encoder


def _autoencoder(config: PretrainConfig, encoder: LoadedModel) -> MaskedAutoencoder:
    return MaskedAutoencoder(
        encoder.model,
        encoder.image_size,
        config.method,
        config.mask_ratio,
        min(0.25, config.mask_ratio) if config.predict_ratio is None else config.predict_ratio,
        config.norm_pix,
        config.decoder_dim,
        config.decoder_depth,
        config.decoder_heads,
    )


def _guide(
    config: PretrainConfig, records: tuple[Record, ...], compute: Compute, processes: Processes
) -> Guide | None:
    """Where maps come from; also where they only choose the mask, or measure."""
    if config.maps is not None:
        return KeptMaps(config.maps, config.backend, records, config.repeats, processes)
    if config.teacher is None:
        return None
    try:
        teacher = load_model(config.teacher, None, config.teacher_size, config.partial_weights)
    except GtaError as e:
        raise type(e)(f"--teacher: {str(e).replace('--image-size', '--teacher-size')}") from e
    name = config.backend if config.guided else "tokencut"
    return FoundMaps(teacher, name, config.discovery.get(name, {}), compute)


def _training_view(
    config: PretrainConfig, encoder: LoadedModel, device: torch.device
) -> Augmentation | BatchedAugmentation:
    """A random crop and a flip. The network is to predict pixels, so no crop is an enlarged one
    where the image has more."""
    crop = TrainTransform(
        encoder.image_size,
        (config.crop_scale, 1.0),
        config.flip,
        encoder.interpolation,
        load_ratio=1 / sqrt(config.crop_scale),
    )
    return place_augmentation(Augmentation(crop), config.augment_device, device)


def _optimizer(config: PretrainConfig, model: MaskedAutoencoder) -> torch.optim.Optimizer:
    images = config.batch_size * config.accumulate
    lr = config.blr * images / 256 if config.lr is None else config.lr
    decay = config.weight_decay
    return make_optimizer(model, (), "adamw", lr, 1.0, decay, None, betas=BETAS)
