"""The parts of a pre-training run: images, networks, maps and optimizer."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch

from gtacli.config.pretrain import PretrainConfig
from gtacli.data.augment.augmentation import Augmentation
from gtacli.data.augment.batched import BatchedAugmentation, place_augmentation
from gtacli.data.augment.transforms import TrainTransform
from gtacli.data.base import ImageDataset
from gtacli.data.learnable import without_unseen
from gtacli.data.spec import find_stream
from gtacli.data.streams.stream import ImageStream
from gtacli.data.unlabeled import load_images
from gtacli.errors import GtaError, UsageError, errors_about
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.mae import MaskedAutoencoder, initialize_encoder
from gtacli.pretraining.guidance import Guidance
from gtacli.pretraining.map_source import CachedMaps, MapSource, OnlineMaps, StreamedMaps
from gtacli.pretraining.task import PretrainTask
from gtacli.runtime import rng
from gtacli.runtime.devices import Compute, choose_compute
from gtacli.runtime.distribution import Processes
from gtacli.runtime.secrets import mask_secrets
from gtacli.training.image_stores import ImageStores
from gtacli.training.job import TrainingJob, require_shared_batch
from gtacli.training.optimization import make_optimizer
from gtacli.training.sharding import check_shardable

log = logging.getLogger(__name__)
_STREAM_ONLY = "parquet/"
BETAS = {"beta1": 0.9, "beta2": 0.95}  # MAE's


@dataclass(kw_only=True)
class PretrainJob(TrainingJob):
    """The parts of a pre-training run.

    Attributes:
        model: the autoencoder around the encoder.
        map_source: where the object maps of a batch come from, if there are any.
        listed: the dataset, if its images are listed; None: they are a stream.
    """

    config: PretrainConfig
    encoder: LoadedModel
    model: MaskedAutoencoder
    map_source: MapSource | None
    task: PretrainTask

    @property
    def listed(self) -> ImageDataset | None:
        return self.dataset if isinstance(self.dataset, ImageDataset) else None

    @property
    def metadata(self) -> dict[str, str]:
        """Return the metadata of both weights files, which suffice to run the decoder."""
        config = self.config
        options = {
            "method": config.method,
            "mask_ratio": config.mask_ratio,
            "norm_pix": config.norm_pix,
            "decoder_dim": config.decoder_dim,
            "decoder_depth": config.decoder_depth,
            "decoder_heads": config.decoder_heads,
            "guide": config.backend,
        }
        return {"pretraining": json.dumps(options)}


def prepare(config: PretrainConfig, processes: Processes) -> PretrainJob:
    """Load the images, networks and maps of a run, and create what trains them.

    Raises GtaError for anything that is wrong with them.
    """
    compute = choose_compute(config.device, config.precision)
    check_shardable(config, compute, processes)
    if config.data is None:
        raise UsageError("is required: a folder of images, a .csv, demo, ...", option="data")
    if config.model is None:
        text = "is required: what to train, e.g. vit_small_patch16_224"
        raise UsageError(text, option="model")
    if config.batch_size % config.repeats:
        text = f"{config.batch_size} is not a multiple of `repeats={config.repeats}`"
        raise UsageError(text, option="batch_size")
    require_shared_batch(config.batch_size, processes, config.repeats)
    dataset = _load_images(config, config.data)
    rng.seed_everything(config.seed)
    encoder = _load_encoder(config)
    model = _make_autoencoder(config, encoder)
    map_source = _make_map_source(config, dataset, compute, processes)
    model.to(compute.device)
    guidance = None
    if config.guided:
        gamma = None if config.gamma == "auto" else config.gamma
        guidance = Guidance(config.tau, gamma, config.shuffle_maps)
    view = encoder.view(compute.device)
    task = PretrainTask(
        model, view, compute, config.seed, guidance, config.mask, config.mask_share, processes
    )
    # From here on only dropout and drop path draw, where a network has them.
    rng.seed_everything(config.seed, processes.rank)
    return PretrainJob(
        config=config,
        compute=compute,
        processes=processes,
        dataset=dataset,
        encoder=encoder,
        model=model,
        map_source=map_source,
        transform=_training_view(config, encoder, compute.device),
        task=task,
        optimizer=_make_optimizer(config, model),
        stores=ImageStores(encoder.interpolation, config.cache),
        fingerprint=fingerprint(model),
    )


def _load_images(config: PretrainConfig, data: str) -> ImageDataset | ImageStream:
    """List the training images, or find the shards of a stream."""
    if config.epoch_images is not None:
        stream = find_stream(data)
        if stream is None:
            text = f"{data} is read through a list of its images; a stream has shards, wds/ or"
            raise UsageError(f"{text} parquet/: leave it out", option="epoch_images")
        step = config.batch_size // config.repeats
        if config.epoch_images < step:
            text = f"{config.epoch_images} images are less than the {step} of one step"
            raise UsageError(text, option="epoch_images")
        return stream
    if data.startswith(_STREAM_ONLY):
        shown = mask_secrets(data)
        text = f"{shown} is read as a stream: give the images of an epoch as `epoch_images`"
        raise UsageError(text, option="data")
    dataset = without_unseen(load_images(data))
    if not dataset["train"]:
        raise GtaError(f"{data} has no training images", option="data")
    return dataset


def _load_encoder(config: PretrainConfig) -> LoadedModel:
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
        log.info("%s: random weights (`init` starts from others)", encoder.architecture)
    if config.grad_checkpointing:
        model: Any = encoder.model
        model.set_grad_checkpointing()
    return encoder


def _make_autoencoder(config: PretrainConfig, encoder: LoadedModel) -> MaskedAutoencoder:
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


def _make_map_source(
    config: PretrainConfig,
    dataset: ImageDataset | ImageStream,
    compute: Compute,
    processes: Processes,
) -> MapSource | None:
    """Open the cache of maps or load the teacher; also if maps only choose the mask, or measure."""
    if config.maps is not None:
        if isinstance(dataset, ImageStream):
            return StreamedMaps(config.maps, config.backend)
        records = dataset["train"]
        return CachedMaps(config.maps, config.backend, records, config.repeats, processes)
    if config.teacher is None:
        return None
    with errors_about("teacher", model="teacher", image_size="teacher_size"):
        teacher = load_model(config.teacher, None, config.teacher_size, config.partial_weights)
    name = config.backend if config.guided else "tokencut"
    return OnlineMaps(teacher, name, config.discovery.get(name, {}), compute)


def _training_view(
    config: PretrainConfig, encoder: LoadedModel, device: torch.device
) -> Augmentation | BatchedAugmentation:
    """Create the augmentation: a random crop and a flip.

    The network predicts pixels, so images are decoded large enough that no crop is enlarged.
    """
    crop = TrainTransform(
        encoder.image_size,
        (config.crop_scale, 1.0),
        config.flip,
        encoder.interpolation,
        load_ratio=1 / sqrt(config.crop_scale),
    )
    return place_augmentation(Augmentation(crop), config.augment_device, device)


def _make_optimizer(config: PretrainConfig, model: MaskedAutoencoder) -> torch.optim.Optimizer:
    images = config.batch_size * config.accumulate
    lr = config.blr * images / 256 if config.lr is None else config.lr
    decay = config.weight_decay
    return make_optimizer(model, (), "adamw", lr, 1.0, decay, None, BETAS)
