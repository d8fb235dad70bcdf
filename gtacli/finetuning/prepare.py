"""What a fine-tuning run needs before its first step: data, networks, regularisers, optimiser."""

from __future__ import annotations

import hashlib
import logging
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from gtacli.config.base import build
from gtacli.config.finetune import FinetuneConfig
from gtacli.data import load_dataset
from gtacli.data.augment.augmentation import Augmentation
from gtacli.data.augment.batched import BatchedAugmentation, place_augmentation
from gtacli.data.augment.transforms import TrainTransform, Transform
from gtacli.data.base import ImageDataset, Record
from gtacli.data.sampling import Split, make_split
from gtacli.data.store import ImageStore
from gtacli.errors import GtaError, UsageError
from gtacli.finetuning.mixing import ALPHA, Mixing
from gtacli.finetuning.source_views import SourceViews
from gtacli.finetuning.task import FinetuneTask
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.matching import paired_layers
from gtacli.models.packed_linear import pack
from gtacli.models.tap import require_cls
from gtacli.registry import REGULARIZERS
from gtacli.regularizers.base import Regularizer
from gtacli.runtime import rng
from gtacli.runtime.devices import Compute, choose_compute
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.training.optimization import make_optimizer
from gtacli.training.stores import Stores

log = logging.getLogger(__name__)


@dataclass
class Kept(Stores):
    """What one job of a run leaves to the next, beside its networks: what was costly to make.

    Attributes:
        source_views: what the source said of its images.
    """

    source_views: SourceViews | None = None


@dataclass
class Job:
    """What a fine-tuning run works with, all checked before the first step."""

    config: FinetuneConfig
    compute: Compute
    dataset: ImageDataset
    split: Split
    target: LoadedModel
    source: LoadedModel | None
    transform: Transform | BatchedAugmentation
    task: FinetuneTask
    optimizer: torch.optim.Optimizer
    drift: bool
    fingerprint: str
    refit: bool = False
    processes: Processes = ALONE
    kept: Kept = field(default_factory=Kept)

    @property
    def train(self) -> tuple[Record, ...]:
        """The images that are trained on: with the held-out ones when all is chosen."""
        return self.split.train + self.split.val if self.refit else self.split.train

    @property
    def evaluated(self) -> LoadedModel:
        """What is measured, kept and tested: the target, or its moving average."""
        if not self.task.has_ema():
            return self.target
        return replace(self.target, model=self.task.get_trainable_module(ema=True).module.model)

    def store(self, records: tuple[Record, ...], load_size: tuple[int, int]) -> ImageStore:
        """Where the pixels of `records` come from."""
        cache = self.config.cache
        return self.kept.of(records, load_size, self.target.interpolation, cache)


def prepare(
    config: FinetuneConfig,
    refit: bool = False,
    kept: Kept | None = None,
    processes: Processes = ALONE,
) -> Job:
    """Data, models and regularisers of a run, as before its first step.

    Args:
        refit: train on the held-out images too.
        kept: of an earlier job of the run.
        processes: that share the run.
    """
    kept = Kept() if kept is None else kept
    compute = choose_compute(config.device, config.precision)
    if config.batch_size < processes.size:
        raise UsageError(
            f"--batch-size: {config.batch_size} images a step are too few for "
            f"{processes.size} processes to share"
        )
    assert config.data is not None
    assert config.model is not None
    dataset = load_dataset(config.data)
    split = make_split(dataset, rate=config.sampling_rate, shots=config.shots, seed=config.seed)
    if not split.train:
        raise GtaError(f"--data: {config.data} has no training images")
    if config.mix != "none" and config.batch_size < 2 * processes.size:
        raise UsageError(
            f"--mix: a batch of {config.batch_size} leaves a process one image, and nothing to mix "
            "it with"
        )
    if config.mix == "none" and config.mix_alpha is not None:
        log.warning("--mix-alpha: without --mix nothing is mixed")
    if config.refit and dataset["val"]:
        log.warning("--refit: this data has a validation part of its own, so nothing was held out")
    if config.patience is not None and not split.val:
        raise UsageError("--patience: no image is held out to watch (no class has 3 or more)")
    rng.seed_everything(config.seed)
    size, partial = config.image_size, config.partial_weights
    target = load_model(
        config.model, len(dataset.classes), size, partial, config.drop_path, config.init
    )
    if target.classes != dataset.classes:
        zero_head(target)
    if config.track_attention:
        require_cls(target.model, "track_attention", "leave it out")
    transform = training_view(config, target, compute.device)
    options = regularizer_options(config)
    parts = {name: REGULARIZERS.load(name) for name in options}
    wants_source = config.drift or any(p.needs_source for p in parts.values())
    source = _source(config, target) if wants_source else None
    drift = config.drift and source is not None and _comparable(target, source)
    regularizers: dict[str, Regularizer[Any]] = {
        name: parts[name](
            options[name], target.model, source.model if source else None, target.head
        )
        for name in parts
    }
    if config.grad_checkpointing:
        cast(Any, target.model).set_grad_checkpointing()
    target.model.to(compute.device)
    if source is not None:
        source.model.to(compute.device).requires_grad_(False)
    fingerprint = weights_fingerprint(target, source)
    if source is not None and compute.dtype == torch.float32 and not config.compile:
        pack(source.model)  # inductor fuses by itself, and cannot trace packed weights
    task = FinetuneTask(
        target,
        source,
        regularizers,
        compute,
        mixing_of(config),
        config.label_smoothing,
        config.freeze_epochs,
    )
    if config.source_views is not None:
        if not task.runs_source:
            log.warning("--source-views: nothing asks for a source; the views are only fewer")
        images = len(split.train) + (len(split.val) if refit else 0)
        if config.refit:  # has more of them, and they have to fit before the first phase
            task.keep_source_views(len(split.train) + len(split.val), config.source_views)
        task.keep_source_views(images, config.source_views, kept.source_views)
        kept.source_views = task.source_views or kept.source_views
    if config.ema is not None:
        # timm's warm-up: a run on few labels has few steps, an average over all of them is not
        # to be one of the start.
        task.setup_ema(config.ema, use_warmup=True)
    decay = config.weight_decay
    if decay is None and any(r.replaces_weight_decay for r in regularizers.values()):
        decay = 0.0
    optimizer = make_optimizer(
        target.model,
        target.head,
        config.optimizer,
        config.lr,
        config.head_lr_scale,
        decay,
        config.layer_decay,
    )
    # From here on only dropout, drop path and mixing draw: each process its own numbers.
    rng.seed_everything(config.seed, processes.rank)
    return Job(
        config,
        compute,
        dataset,
        split,
        target,
        source,
        transform,
        task,
        optimizer,
        drift,
        fingerprint,
        refit,
        processes,
        kept,
    )


def training_view(
    config: FinetuneConfig, target: LoadedModel, device: torch.device
) -> Augmentation | BatchedAugmentation:
    """What training images go through; source and target see the same.

    Raises UsageError for a policy that timm does not know, or a GPU that is not there.
    """
    crop = TrainTransform(
        target.image_size, (config.crop_scale, 1.0), config.flip, target.interpolation
    )
    augmentation = Augmentation(
        crop,
        config.auto_augment,
        config.color_jitter,
        config.random_erasing,
        config.random_erasing_mode,
        target.mean,
        target.std,
    )
    return place_augmentation(augmentation, config.augment_device, device)


def mixing_of(config: FinetuneConfig) -> Mixing | None:
    """How the config mixes training batches, if at all."""
    if config.mix == "none":
        return None
    alpha = ALPHA[config.mix] if config.mix_alpha is None else config.mix_alpha
    return Mixing(config.mix, alpha, config.mix_prob, config.transmix_weight)


def _comparable(target: LoadedModel, source: LoadedModel) -> bool:
    """Whether each block of both networks has a CLS row that the other's can be compared with."""
    try:
        paired_layers("all", target.model, source.model)
        for model in (target.model, source.model):
            require_cls(model)
    except UsageError as e:
        log.warning("attention_drift is not measured: %s", str(e).partition(";")[0])
        return False
    return True


def zero_head(target: LoadedModel) -> None:
    """Start a new classifier at zero (Dosovitskiy et al., 2021, section 3.2): the first steps then
    train it alone, instead of sending a random classifier's gradients into the backbone."""
    with torch.no_grad():
        for name, parameter in target.model.named_parameters():
            if name.startswith(target.head):
                parameter.zero_()


def weights_fingerprint(*models: LoadedModel | None) -> str:
    """SHA-256 of the weights that a run starts from."""
    digest = hashlib.sha256()
    for model in models:
        for name, value in model.model.state_dict().items() if model else ():
            digest.update(name.encode())
            digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _source(config: FinetuneConfig, target: LoadedModel) -> LoadedModel:
    """The frozen source: as named, by default the model with its own pretrained weights: the target
    before its first step, unless that starts from others."""
    size = config.source_size or target.image_size
    spec = config.source or config.model
    assert spec is not None
    # Without weights of its own, what it starts from is the best that is known of it.
    itself = config.init is None or (config.source is None and spec.endswith("@none"))
    if spec == config.model and itself and size == target.image_size:
        return replace(target, model=deepcopy(target.model))
    try:
        init = config.init if spec == config.model and itself else None
        return load_model(spec, 0, size, config.partial_weights, init=init)
    except GtaError as e:  # its size is asked for by another option than the target's
        raise GtaError(str(e).replace("--image-size", "--source-size")) from e


def regularizer_options(config: FinetuneConfig) -> dict[str, Any]:
    """Return the validated options of the active regularizers by name, without those of strength 0.

    A strength that is still to be chosen (auto) is the regularizer's own default.

    Raises UsageError that names the option.
    """
    result = {}
    for name, lam in config.strengths.items():
        own = {} if lam in (None, "auto") else {"lam": lam}
        values = {**config.regularizer[name], **own}
        options = build(REGULARIZERS.load(name).Options, values, f"regularizer.{name}")
        if options.lam > 0:
            result[name] = options
    return result
