"""`gta probe attention`: attention on the object, and its distance from another model's."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.compute import start_compute
from gtacli.cli.default_model import with_model
from gtacli.cli.options import Images, NullSeparated
from gtacli.cli.probe.results import print_results
from gtacli.config.probe.attention import AttentionProbeConfig

if TYPE_CHECKING:
    from gtacli.data.base import ImageDataset
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.attention import AttentionProbe, MaskSource
    from gtacli.probing.results import AttentionResult, LayerAttention
    from gtacli.runtime.devices import Compute

log = logging.getLogger(__name__)
PICTURE = "attention.png"


def attention(
    config: AttentionProbeConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Measure how much attention falls on the object.

    Metrics of the CLS token's attention, by block and head. inside: the fraction of the attention
    on patches that falls on the object (a patch half inside the mask counts half); uniform
    attention has the object's fraction of the area. entropy: of the full row, in nats. drift:
    squared distance of the logits from --model's, summed over the patches, as in `gta finetune`.
    KL: of --model's attention over the patches to this one's.

    --faithfulness measures, instead, which kind of map shows what the model's answer rests on, on
    images without labels. insertion and deletion: area under the probability of the predicted class
    as the patches that the map ranks first are added to, or removed from, the image; gap: their
    difference, 0 for a random order.

    Prints a table and writes attention.png, with every head, to --out. Images that cannot be read
    are reported, the others are processed, and the exit status is 1. When interrupted it shows the
    results so far.
    """
    config = with_model(config, config.data)
    if config.faithfulness:
        from gtacli.cli.probe.faithfulness import faithfulness

        return faithfulness(config, call, images or [], null)
    if config.masks is not None:
        from gtacli.data.truth import check_truth

        check_truth(config.masks, "masks")
    from gtacli.cli.follow import follow
    from gtacli.data.inputs import iter_inputs
    from gtacli.data.unlabeled import load_images
    from gtacli.models.names import short_names
    from gtacli.runtime.run_folder import RunFolder, default_out

    dataset = None if config.data is None else load_images(config.data, every_split=True)
    named = iter_inputs(images or [], dataset, sys.stdin.buffer, null)
    folder = RunFolder(config.out or default_out("probe-attention", call.dry_run), call.dry_run)
    call.own(folder)
    folder.check_free(config.overwrite, resumable=False)
    assert config.model is not None
    specs = [config.model, *config.compare]
    probe, masks = _make_probe(config, specs, dataset)
    folder.write_json("run.json", _record(config, probe.masks, probe.compute))
    if call.dry_run:
        named = islice(named, config.batch_size)
    start = perf_counter()
    ending = follow(
        lambda stop: probe.run(named, config.batch_size, config.workers, stop),
        lambda image: None,
        call.json,
        label="measuring images",
    )
    seconds = round(perf_counter() - start, 2)
    results = _results(config, specs, probe, masks, seconds)
    names = short_names(specs)
    if results[0]["n_images"]:
        folder.write_json("summary.json", {"results": results})
        if not call.dry_run:
            _draw(folder.path / PICTURE, names, results)
    print_results(call, results, lambda: _show(names, results))
    return ending.status


def _make_probe(
    config: AttentionProbeConfig, specs: Sequence[str], dataset: ImageDataset | None
) -> tuple[AttentionProbe, str]:
    """Load the models, all at the first one's input size; return the probe and its masks' name."""
    from gtacli.models import load_model
    from gtacli.models.register_search import with_registers
    from gtacli.probing.attention import AttentionProbe

    compute = start_compute(config).frozen
    first = load_model(specs[0], image_size=config.image_size)
    models = [first, *(load_model(spec, image_size=first.image_size) for spec in specs[1:])]
    models = [with_registers(model, config.registers, compute.device) for model in models]
    first = models[0]
    first.model.to(compute.device)
    masks, name = _masks(config, dataset, first)
    return AttentionProbe(models, config.layer, masks, compute), name


def _masks(
    config: AttentionProbeConfig, dataset: ImageDataset | None, model: LoadedModel
) -> tuple[MaskSource, str]:
    """Return the source of masks and its name; the model must be on its device."""
    if config.masks is not None:
        return config.masks, str(config.masks)
    if dataset is not None and any(record.mask is not None for _, record in dataset.records()):
        return "data", "data"
    from gtacli.discovery.build import make_backend

    log.warning("no masks (`masks`, or a dataset's own): using the first model's by TokenCut")
    return make_backend("tokencut", config.discovery.get("tokencut", {}), model), "tokencut"


def _record(config: AttentionProbeConfig, masks: MaskSource, compute: Compute) -> dict[str, Any]:
    """Return the content of run.json."""
    from gtacli.discovery import Discovery
    from gtacli.runtime.run_folder import environment

    record = {"command": "probe attention", "config": config.model_dump(mode="json")}
    if isinstance(masks, Discovery):  # with the layer that TokenCut chose
        record["options"] = masks.options.model_dump(mode="json")
    return {**record, **environment(compute.precision)}


def _results(
    config: AttentionProbeConfig,
    specs: Sequence[str],
    probe: AttentionProbe,
    masks: str,
    seconds: float,
) -> list[AttentionResult]:
    size = list(probe.models[0].image_size)
    return [
        {
            "task": "attention",
            "model": spec,
            "reference": config.model if compared else None,
            "data": config.data,
            "masks": masks,
            "image_size": size,
            **metrics,  # type: ignore[typeddict-item]
            "seconds": seconds,
        }
        for spec, compared, metrics in zip(specs, probe.compared, probe.results(), strict=True)
    ]


def _show(names: list[str], results: Sequence[AttentionResult]) -> None:
    first = results[0]
    console.say(f"images {first['n_images']}, with an object {first['n_inside']}")
    if first["area"] is not None:
        masks = first["masks"]
        where = {"data": "of the dataset", "tokencut": "of TokenCut"}.get(masks, f"in {masks}")
        console.say(f"area of the object {100 * first['area']:.1f} %, by the masks {where}")
    distant = any(result["reference"] for result in results)
    columns = ["block", "inside %", "x area", "best head", "its %", "entropy", "% of most"]
    rows = [
        [name, *row] if len(names) > 1 else row
        for name, result in zip(names, results, strict=True)
        for row in (_row(layer, result["tokens"], distant) for layer in result["layers"])
    ]
    if len(names) > 1:
        columns = ["model", *columns]
    console.table([*columns, *(["drift", "KL"] if distant else [])], rows)


def _row(layer: LayerAttention, tokens: int, distant: bool) -> list[Any]:
    """Return the row of one block, with means over its heads."""
    inside, entropy, over = layer["inside"], layer["entropy"], layer["inside_over_area"]
    location: list[Any] = [None] * 4
    if inside is not None and over is not None:
        best = max(range(len(inside)), key=inside.__getitem__)
        location = [_percent(_mean(inside)), f"{_mean(over):.2f}", best, _percent(inside[best])]
    spread: list[Any] = [None] * 2
    if entropy is not None:
        spread = [f"{_mean(entropy):.2f}", _percent(_mean(entropy) / math.log(tokens))]
    distance: list[Any] = [None] * 2
    if layer["kl"] is not None and layer["drift"] is not None:
        distance = [f"{_mean(layer['drift']):.2f}", f"{_mean(layer['kl']):.3f}"]
    return [layer["layer"], *location, *spread, *(distance if distant else [])]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _draw(path: Path, names: list[str], results: Sequence[AttentionResult]) -> None:
    from gtacli.probing.attention_picture import draw_attention_picture
    from gtacli.runtime.atomic import write_atomic

    drawn = draw_attention_picture(names, results)
    write_atomic(path, lambda p: drawn.save(p, format="PNG"))
