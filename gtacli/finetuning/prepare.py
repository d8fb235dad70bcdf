"""The parts of a fine-tuning run: data, networks, regularizers and optimizer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, cast

import torch

from gtacli.config.base import build
from gtacli.config.finetune import FinetuneConfig
from gtacli.config.parts import GTAOptions
from gtacli.data import load_dataset
from gtacli.data.augment.augmentation import Augmentation
from gtacli.data.augment.batched import BatchedAugmentation, place_augmentation
from gtacli.data.augment.transforms import TrainTransform
from gtacli.data.base import ImageDataset
from gtacli.data.learnable import require_classes
from gtacli.data.sampling import Split
from gtacli.errors import GtaError, UsageError
from gtacli.finetuning.epochs import with_epochs
from gtacli.finetuning.held_out import split_data
from gtacli.finetuning.job import FinetuneJob, FinetuneStores
from gtacli.finetuning.loaded_head import fit_head
from gtacli.finetuning.losses import GAMMA, ClassLoss
from gtacli.finetuning.mixing import ALPHA, Mixing
from gtacli.finetuning.per_class import class_weights, positive_weights
from gtacli.finetuning.source import is_comparable, load_source, pack_source
from gtacli.finetuning.source_average import start_weights
from gtacli.finetuning.task import FinetuneTask
from gtacli.finetuning.test_size import check_test_size
from gtacli.finetuning.trainable import (
    adapt,
    count_learning,
    freeze,
    without_idle,
)
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.tap import has_cls, require_cls
from gtacli.registry import REGULARIZERS
from gtacli.regularizers.base import Regularizer
from gtacli.runtime import rng
from gtacli.runtime.devices import Compute, choose_compute
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.training.job import require_shared_batch
from gtacli.training.optimization import make_optimizer, require_shardable
from gtacli.training.sharding import check_shardable, is_sharded, refuse

log = logging.getLogger(__name__)


def prepare(
    config: FinetuneConfig,
    refit: bool = False,
    stores: FinetuneStores | None = None,
    processes: Processes = ALONE,
) -> FinetuneJob:
    """Load the data and the networks of a run, and create what trains them.

    Args:
        refit: train on the held-out images too.
        stores: of an earlier job of the same run.
        processes: share the run.

    Raises GtaError for anything that is wrong with them.
    """
    compute = choose_compute(config.device, config.precision)
    _require_shardable(config, compute, processes)
    dataset, split = (
        (stores.dataset, stores.split) if stores is not None else _load_data(config, processes)
    )
    config = with_epochs(config, len(split.train))
    rng.seed_everything(config.seed)
    target = _load_target(config, dataset)
    transform = training_view(config, target, compute.device)
    options = regularizer_options(config)
    classes = {name: REGULARIZERS.load(name) for name in options}
    options = without_idle(config.train, options, classes)
    if dataset.multi_label:
        _require_any_labels({name: classes[name] for name in options})
    if config.leaves_attention_open and not _has_rows(options["gta"], target):
        del options["gta"]  # the decision says why
    freeze(target, config.train)
    needs_source = config.drift or any(classes[name].needs_source for name in options)
    keeps = next((name for name in options if classes[name].needs_classifier), None)
    source = load_source(config, target, compute.device, keeps) if needs_source else None
    adapt(target, config.train, config.seed)
    frozen = source.model if source else None
    regularizers: dict[str, Regularizer[Any]] = {
        name: classes[name](options[name], target.model, frozen, target.head) for name in options
    }
    drift = config.drift and source is not None and is_comparable(target, source)
    fingerprint = _place_networks(config, target, source, compute)
    task = FinetuneTask(
        target,
        pack_source(config, target, source, compute, processes),
        regularizers,
        compute,
        _make_mixing(config),
        _make_loss(config, dataset, split, refit, compute.device),
        config.freeze_epochs,
    )
    if stores is None:
        stores = FinetuneStores(
            interpolation=target.interpolation, cache=config.cache, dataset=dataset, split=split
        )
    _cache_source(config, task, split, refit, stores)
    _set_up_average(config, task)
    optimizer = _make_optimizer(config, target, regularizers)
    # From here on only dropout, drop path and mixing draw: different numbers in each process.
    rng.seed_everything(config.seed, processes.rank)
    return FinetuneJob(
        config=config,
        compute=compute,
        processes=processes,
        dataset=dataset,
        split=split,
        target=target,
        source=source,
        transform=transform,
        task=task,
        optimizer=optimizer,
        stores=stores,
        fingerprint=fingerprint,
        drift=drift,
        learning=count_learning(target.model),
        new_head=target.classes != dataset.classes,
        refit=refit,
        start=start_weights(target) if config.average == "source" else {},
    )


def _load_data(config: FinetuneConfig, processes: Processes) -> tuple[ImageDataset, Split]:
    """Load and split the dataset, and check that the options fit it."""
    require_shared_batch(config.batch_size, processes)
    assert config.data is not None
    dataset = require_classes(load_dataset(config.data, config.multi_label))
    split = split_data(config, dataset)
    if not split.train:
        raise GtaError(f"{config.data} has no training images", option="data")
    if not any(record.every_label for record in split.train):
        raise GtaError(f"no training image of {config.data} has a label", option="data")
    if config.mix != "none" and config.batch_size < 2 * processes.size:
        text = f"with `batch_size={config.batch_size}` a process has only one image to mix"
        raise UsageError(text, option="mix")
    if config.mix == "none" and config.mix_alpha is not None:
        log.warning("`mix_alpha` has no effect without `mix`")
    check_test_size(config)
    return dataset, split


def _load_target(config: FinetuneConfig, dataset: ImageDataset) -> LoadedModel:
    assert config.model is not None
    target = load_model(
        config.model,
        len(dataset.classes),
        config.image_size,
        config.partial_weights,
        config.drop_path,
        config.init,
        pool=config.pool,
    )
    assume_order = config.init is not None
    target = fit_head(target, dataset.classes, assume_order, dataset.multi_label)
    if config.track_attention:
        require_cls(target.model, "track_attention", "leave it out")
    return target


def _require_any_labels(regularizers: Mapping[str, type[Regularizer[Any]]]) -> None:
    """Raise UsageError for a regularizer that learns from one class per image."""
    for name, kind in regularizers.items():
        if kind.needs_classifier or kind.start is not Regularizer.start:
            text = f"{name} learns from one class per image; with `multi_label` use another one"
            raise UsageError(text, option="regularizer")


def _require_shardable(config: FinetuneConfig, compute: Compute, processes: Processes) -> None:
    """Raise UsageError for what reads or switches single weights, if processes have parts."""
    check_shardable(config, compute, processes)
    if not is_sharded(config, processes):
        return
    require_shardable(config.optimizer)
    if config.train.startswith("lora"):
        refuse("train=lora", "adapters have no large gradients to share; leave `shard_model` out")
    if config.test_size is not None:
        refuse("test_size", "each process would load the whole network; leave one of them out")
    if config.freeze_epochs:
        refuse("freeze_epochs", "start from a fitted classifier instead, `head_init=probe`")
    for name in regularizer_options(config):
        if not REGULARIZERS.load(name).shardable:
            refuse(f"regularizer={name}", "it reads the weights themselves; use another one")


def _place_networks(
    config: FinetuneConfig, target: LoadedModel, source: LoadedModel | None, compute: Compute
) -> str:
    """Move the networks to the device and freeze the source; return their fingerprint."""
    if config.grad_checkpointing:
        cast(Any, target.model).set_grad_checkpointing()
    target.model.to(compute.device)
    if source is not None:
        source.model.to(compute.device).requires_grad_(False)
    return _fingerprint_weights(target, source)


def _set_up_average(config: FinetuneConfig, task: FinetuneTask) -> None:
    """Let the task keep the average of its weights that the config asks for."""
    if config.ema is not None:
        # With timm's warm-up: a run on few labels has few steps, and its average should not be
        # dominated by the first ones.
        task.setup_ema(config.ema, use_warmup=True)
    elif config.average == "trajectory":
        task.setup_mean()


def _make_loss(
    config: FinetuneConfig, dataset: ImageDataset, split: Split, refit: bool, device: torch.device
) -> ClassLoss:
    weights = None
    if config.balance == "loss":
        find = positive_weights if dataset.multi_label else class_weights
        weights = find(split.train + split.val * refit, len(dataset.classes)).to(device)
    gamma = 0.0
    if config.loss == "focal":
        gamma = GAMMA if config.focal_gamma is None else config.focal_gamma
    return ClassLoss(dataset.multi_label, config.label_smoothing, weights, gamma)


def _cache_source(
    config: FinetuneConfig, task: FinetuneTask, split: Split, refit: bool, stores: FinetuneStores
) -> None:
    """Let the task cache the source's attention, if `source_views` is set."""
    if config.source_views is None:
        return
    if not task.runs_source:
        log.warning("`source_views` only limits the views: no regularizer uses the source")
    images = len(split.train) + (len(split.val) if refit else 0)
    if refit:  # that of the training images alone makes room
        stores.source_cache = None
    elif config.refit and stores.source_cache is None:
        # Checks the memory for the larger set, before the first phase.
        task.cache_source(len(split.train) + len(split.val), config.source_views)
    task.cache_source(images, config.source_views, stores.source_cache)
    stores.source_cache = task.source_cache or stores.source_cache


def _make_optimizer(
    config: FinetuneConfig, target: LoadedModel, regularizers: Mapping[str, Regularizer[Any]]
) -> torch.optim.Optimizer:
    decay = config.weight_decay
    if decay is None and any(r.replaces_weight_decay for r in regularizers.values()):
        decay = 0.0
    return make_optimizer(
        target.model,
        target.head,
        config.optimizer,
        config.lr,
        config.head_lr_scale,
        decay,
        config.layer_decay,
        config.optimizers.get(config.optimizer),
    )


def training_view(
    config: FinetuneConfig, target: LoadedModel, device: torch.device
) -> Augmentation | BatchedAugmentation:
    """Create the augmentation of training images, which source and target share.

    Raises UsageError for a policy that timm does not know, or a GPU that does not exist.
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


def _make_mixing(config: FinetuneConfig) -> Mixing | None:
    if config.mix == "none":
        return None
    alpha = ALPHA[config.mix] if config.mix_alpha is None else config.mix_alpha
    return Mixing(config.mix, alpha, config.mix_prob, config.transmix_weight)


def _has_rows(options: GTAOptions, target: LoadedModel) -> bool:
    """Return whether the target has the CLS rows that GTA compares, if it compares them."""
    return has_cls(target.model) or options.guide != "logits" or options.rows != "cls"


def _fingerprint_weights(*models: LoadedModel | None) -> str:
    """Return the SHA-256 of the weights that a run starts from."""
    digest = hashlib.sha256()
    for model in models:
        for name, value in model.model.state_dict().items() if model else ():
            digest.update(name.encode())
            digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
