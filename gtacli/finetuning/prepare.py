"""The parts of a fine-tuning run: data, networks, regularizers and optimizer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from gtacli.config.base import build
from gtacli.config.finetune import FinetuneConfig
from gtacli.config.parts import GTAOptions
from gtacli.data import load_dataset
from gtacli.data.augment.augmentation import Augmentation
from gtacli.data.augment.batched import BatchedAugmentation, place_augmentation
from gtacli.data.augment.transforms import TrainTransform
from gtacli.data.base import ImageDataset, Record
from gtacli.data.learnable import require_classes
from gtacli.data.sampling import Split
from gtacli.errors import GtaError, UsageError, errors_about
from gtacli.finetuning.epochs import with_epochs
from gtacli.finetuning.held_out import observed, split_data
from gtacli.finetuning.linear_head import FrozenFeatures, LinearHead
from gtacli.finetuning.loaded_head import fit_head
from gtacli.finetuning.losses import GAMMA, ClassLoss
from gtacli.finetuning.mixing import ALPHA, Mixing
from gtacli.finetuning.per_class import class_weights, positive_weights
from gtacli.finetuning.source_average import start_weights
from gtacli.finetuning.source_cache import SourceCache
from gtacli.finetuning.task import FinetuneTask
from gtacli.finetuning.trainable import (
    adapt,
    copy_source,
    count_learning,
    freeze,
    shares_weights,
    without_idle,
)
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.packed_linear import pack, packed_copy
from gtacli.models.register_search import with_registers
from gtacli.models.tap import has_cls, require_cls
from gtacli.registry import REGULARIZERS
from gtacli.regularizers.base import Regularizer
from gtacli.runtime import rng
from gtacli.runtime.devices import Compute, choose_compute
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.training.image_stores import ImageStores
from gtacli.training.job import TrainingJob, require_shared_batch
from gtacli.training.optimization import make_optimizer

if TYPE_CHECKING:  # it needs a job
    from gtacli.finetuning.suitability import Suitability

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class FinetuneStores(ImageStores):
    """The dataset, decoded images and cached attention, which all jobs of a run share.

    Attributes:
        dataset, split: what is trained on, found once.
        source_cache: the one created last, if any.
        heads: fitted classifiers, by method and training images.
        features: of training images before the first step.
        suitability: of the source's attention, measured before the first step.
    """

    dataset: ImageDataset
    split: Split
    source_cache: SourceCache | None = None
    heads: dict[tuple[str, tuple[Record, ...]], LinearHead] = field(default_factory=dict)
    features: dict[tuple[Record, ...], FrozenFeatures] = field(default_factory=dict)
    suitability: Suitability | None = None


@dataclass(kw_only=True)
class FinetuneJob(TrainingJob):
    """The parts of a fine-tuning run.

    Attributes:
        drift: whether the attention drift is measured.
        learning: number of parameters that learn.
        new_head: whether the target's classifier has yet to learn everything.
        refit: whether the held-out images are trained on too.
        start: the backbone's weights before the first step, if they are averaged with.
    """

    config: FinetuneConfig
    split: Split
    target: LoadedModel
    source: LoadedModel | None
    task: FinetuneTask
    stores: FinetuneStores
    drift: bool
    learning: int
    new_head: bool
    refit: bool = False
    start: Mapping[str, Tensor]

    @property
    def records(self) -> tuple[Record, ...]:
        """The images that are trained on."""
        return self.split.train + self.split.val if self.refit else self.split.train

    @property
    def epochs(self) -> int:
        """The length of the schedule."""
        assert self.config.epochs != "auto"  # `prepare` has set a number
        return self.config.epochs

    @property
    def observed(self) -> tuple[Record, ...]:
        """The images that drift and attention are measured on."""
        return observed(self.split)

    @property
    def depth(self) -> int:
        """The number of the target's blocks."""
        return len(cast(Any, self.target.model).blocks)

    @property
    def evaluated(self) -> LoadedModel:
        """The model that is measured, saved and tested: the target, or its average."""
        average: Any = self.task.averaged
        return self.target if average is None else replace(self.target, model=average.model)


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
    source = _load_source(config, target, compute.device, keeps) if needs_source else None
    adapt(target, config.train, config.seed)
    frozen = source.model if source else None
    regularizers: dict[str, Regularizer[Any]] = {
        name: classes[name](options[name], target.model, frozen, target.head) for name in options
    }
    drift = config.drift and source is not None and _is_comparable(target, source)
    fingerprint = _place_networks(config, target, source, compute)
    task = FinetuneTask(
        target,
        _pack_source(config, target, source, compute),
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


def _pack_source(
    config: FinetuneConfig, target: LoadedModel, source: LoadedModel | None, compute: Compute
) -> LoadedModel | None:
    """Pack the source's weights, once nothing else is read of them; return the steps' source.

    Where frozen networks are read in another precision, that one is a copy: the drift, measured
    with the first one, would otherwise be a distance of rounding errors where there is little.
    """
    if source is None or config.compile:  # Inductor fuses by itself, and cannot trace packed ones
        return source
    shared, steps = shares_weights(source.model, target.model), source
    if compute.frozen.dtype != compute.dtype:
        if shared:  # not copied: autocast rounds the layers' weights, which fp32's kernels keep
            return source
        steps = replace(source, model=packed_copy(source.model, compute.frozen.dtype))
        log.info("the source is read in %s in each step", compute.frozen.precision)
    pack(source.model, compute.dtype, shared)
    return steps


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
    if config.refit:  # checks the memory for the larger set, before the first phase
        task.cache_source(len(split.train) + len(split.val), config.source_views)
    images = len(split.train) + (len(split.val) if refit else 0)
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


def _is_comparable(target: LoadedModel, source: LoadedModel) -> bool:
    """Return whether the drift can be measured: both networks have CLS rows in as many blocks."""
    ours, theirs = (len(cast(Any, m.model).blocks) for m in (target, source))
    if ours != theirs:
        reason = f"the model has {ours} blocks, the source {theirs}"
    elif not (has_cls(target.model) and has_cls(source.model)):
        reason = "this model has no CLS token, so it has no CLS row"
    else:
        return True
    log.warning("attention_drift is not measured: %s", reason)
    return False


def _fingerprint_weights(*models: LoadedModel | None) -> str:
    """Return the SHA-256 of the weights that a run starts from."""
    digest = hashlib.sha256()
    for model in models:
        for name, value in model.model.state_dict().items() if model else ():
            digest.update(name.encode())
            digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load_source(
    config: FinetuneConfig, target: LoadedModel, device: torch.device, keeps: str | None
) -> LoadedModel:
    """Load the frozen source; its test-time registers are searched on `device`.

    The target has none, so the tap leaves them out of the source's values.

    Args:
        keeps: the regularizer that needs the classifier of the source's weights, if one does.
    """
    source = _load_bare_source(config, target, keeps is not None)
    if keeps is not None:
        _require_classifier(source, keeps)
    return with_registers(source, config.source_registers, device, True, "source_registers")


def _require_classifier(source: LoadedModel, regularizer: str) -> None:
    """Raise UsageError unless the classifier of a source was loaded with its weights."""
    loaded = (*source.report.loaded, *source.report.resized)
    if not any(name.startswith(source.head) for name in loaded):
        raise UsageError(
            f"{source.spec} has no classifier, whose predictions {regularizer} needs",
            option="source",
        )


def _load_bare_source(
    config: FinetuneConfig, target: LoadedModel, classifier: bool = False
) -> LoadedModel:
    """Load the frozen source: by default the model with its own pretrained weights.

    It equals the target before the first step, unless that starts from other weights.

    Args:
        classifier: keep that of the weights; the target has one for the dataset's classes.
    """
    size = config.source_size or target.image_size
    spec = config.source or config.model
    assert spec is not None
    # A model without weights of its own is represented by those that it starts from.
    itself = config.init is None or (config.source is None and spec.endswith("@none"))
    if spec == config.model and itself and size == target.image_size and not classifier:
        return replace(target, model=copy_source(target.model))
    init = config.init if spec == config.model and itself else None
    with errors_about(image_size="source_size", model="source" if config.source else "model"):
        classes = None if classifier else 0
        source = load_model(spec, classes, size, config.partial_weights, init=init)
    if _make(source) != _make(target):
        log.warning(
            "`source` is of another make than the model (%s, not %s): attention passed from one "
            "architecture to another is reported to cost accuracy; without `source` the model's "
            "own start is kept",
            *(source.architecture, target.architecture),
        )
    return source


def _make(model: LoadedModel) -> tuple[str, int, int]:
    """Return what tells an architecture from another: its name, depth and width."""
    network = cast(Any, model.model)
    return model.architecture.split(".")[0], len(network.blocks), network.embed_dim


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
