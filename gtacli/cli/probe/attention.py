"""`gta probe attention`: whether the attention is on the object, and how far from another's."""

from __future__ import annotations

import logging
import math
import sys
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.options import Call, Images, NullSeparated
from gtacli.config.probe import AttentionProbeConfig
from gtacli.errors import UsageError

if TYPE_CHECKING:
    from gtacli.data.base import ImageDataset
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.attention import Masks

log = logging.getLogger(__name__)
PICTURE = "attention.png"


def attention(
    config: AttentionProbeConfig,
    call: Call,
    images: Images = None,
    null: NullSeparated = False,
) -> int:
    """Is the attention on the object?

    Measures the CLS token's attention, block by block and head by head. inside: the share of it,
    of what falls on patches, that falls on the object (a patch half inside the object's mask counts
    half); even attention would have the object's share of the area. entropy: of the full row, in
    nats. drift: squared distance of the logits from --model's, summed over the patches, as `gta
    finetune` reports it. KL: of --model's attention over the patches to this one's.

    A table, and attention.png with every head in --out. Images that cannot be read are named, the
    rest is done, and the exit status is 1. Interrupted, it shows what it has measured so far.
    """
    if config.model is None:
        raise UsageError(
            "--model: name a pre-trained ViT (vit_small_patch16_224.dino, a run folder, ARCH@FILE)"
        )
    if config.masks is not None and not config.masks.is_dir():
        raise UsageError(f"--masks: no folder {config.masks}")
    from gtacli.data.inputs import iter_inputs
    from gtacli.data.spec import load_dataset
    from gtacli.discovery import Discovery
    from gtacli.inference.stream import Failure
    from gtacli.models import load_model
    from gtacli.models.names import short_names
    from gtacli.probing.attention import AttentionProbe
    from gtacli.runtime.devices import choose_compute
    from gtacli.runtime.interrupts import StopSignal
    from gtacli.runtime.run_folder import RunFolder, default_out, environment

    compute = choose_compute(config.device, config.precision)
    dataset = None if config.data is None else load_dataset(config.data)
    named = iter_inputs(images or [], dataset, sys.stdin.buffer, null)
    folder = RunFolder(config.out or default_out("probe-attention"), call.dry_run)
    folder.check_free(config.overwrite, resumable=False)
    specs = [config.model, *config.compare]
    first = load_model(config.model, image_size=config.image_size)
    models = [first, *(load_model(s, image_size=first.image_size) for s in config.compare)]
    first.model.to(compute.device)
    masks, masks_name = _masks(config, dataset, first)
    probe = AttentionProbe(models, config.layer, masks, compute)
    record: dict[str, Any] = {
        "command": "probe attention",
        "config": config.model_dump(mode="json"),
    }
    if isinstance(masks, Discovery):  # what TokenCut chose by itself
        record["options"] = masks.options.model_dump(mode="json")
    folder.write_json("run.json", {**record, **environment()})
    if call.dry_run:
        named = islice(named, config.batch_size)
    start, status = perf_counter(), 0
    with StopSignal() as stop, console.progress("measuring images", None) as advance:
        for done in probe.see(named, config.batch_size, config.workers):
            if isinstance(done, Failure):
                status = 1
                log.warning("%s", done.error)
                if call.json:
                    console.emit({"image": done.image, "error": done.error})
            else:
                advance(done)
            if stop.requested:
                status = 130
                log.warning("interrupted; these are the images so far")
                break
    seconds = round(perf_counter() - start, 2)
    results = [
        {
            "task": "attention",
            "model": spec,
            "reference": config.model if compared else None,
            "data": config.data,
            "masks": masks_name,
            "image_size": list(first.image_size),
            **result,
            "seconds": seconds,
        }
        for spec, compared, result in zip(specs, probe.compared, probe.results(), strict=True)
    ]
    names = short_names(specs)
    if results[0]["n_images"]:
        folder.write_json("summary.json", {"results": results})
        if not call.dry_run:
            _draw(folder.path / PICTURE, names, results)
    if call.json:
        for result in results:
            console.emit(result)
    else:
        _show(names, results)
    return status


def _masks(
    config: AttentionProbeConfig, dataset: ImageDataset | None, model: LoadedModel
) -> tuple[Masks, str]:
    """Where masks come from, and how that is called. The model is where it is to compute."""
    if config.masks is not None:
        return config.masks, str(config.masks)
    if dataset is not None and any(record.mask is not None for _, record in dataset.records()):
        return "data", "data"
    from gtacli.discovery.build import make_backend

    log.warning("no masks (--masks DIR, or a data set's own): TokenCut's of the first model")
    return make_backend("tokencut", config.discovery.get("tokencut", {}), model), "tokencut"


def _show(names: list[str], results: list[dict[str, Any]]) -> None:
    first = results[0]
    console.say(f"images {first['n_images']}, with an object {first['n_inside']}")
    if first["area"] is not None:
        console.say(f"area of the object {100 * first['area']:.1f} %, by the masks {_where(first)}")
    distant = any(result["reference"] for result in results)
    columns = ["block", "inside %", "x area", "best head", "its %", "entropy", "% of most"]
    rows = [
        [name, *row] if len(names) > 1 else row
        for name, result in zip(names, results, strict=True)
        for row in _rows(result, distant)
    ]
    if len(names) > 1:
        columns = ["model", *columns]
    console.table([*columns, *(["drift", "KL"] if distant else [])], rows)


def _where(result: dict[str, Any]) -> str:
    masks: str = result["masks"]
    return {"data": "of the data set", "tokencut": "of TokenCut"}.get(masks, f"in {masks}")


def _rows(result: dict[str, Any], distant: bool) -> list[list[Any]]:
    """A block a row, means over its heads."""
    rows = []
    for layer in result["layers"]:
        share: list[Any] = [None] * 4
        inside, entropy = layer["inside"], layer["entropy"]
        if inside is not None:
            best = max(range(len(inside)), key=inside.__getitem__)
            over = _mean(layer["inside_over_area"])
            share = [_percent(_mean(inside)), f"{over:.2f}", best, _percent(inside[best])]
        sharp: list[Any] = [None] * 2
        if entropy is not None:
            most = math.log(result["tokens"])
            sharp = [f"{_mean(entropy):.2f}", _percent(_mean(entropy) / most)]
        far: list[Any] = [None] * 2
        if layer["kl"] is not None:
            far = [f"{_mean(layer['drift']):.2f}", f"{_mean(layer['kl']):.3f}"]
        rows.append([layer["layer"], *share, *sharp, *(far if distant else [])])
    return rows


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _draw(path: Any, names: list[str], results: list[dict[str, Any]]) -> None:
    from gtacli.probing.picture import health_picture
    from gtacli.runtime.atomic import write_atomic

    drawn = health_picture(names, results)
    write_atomic(path, lambda p: drawn.save(p, format="PNG"))
