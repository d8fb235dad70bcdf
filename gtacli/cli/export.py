"""`gta export`: a trained model as a file of another program, compared with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.lazy import new_app
from gtacli.cli.options import config_command
from gtacli.config.export import ExportConfig
from gtacli.errors import UsageError
from gtacli.registry import EXPORTERS

app = new_app()
DEFAULT = "onnx"
Model = Annotated[str | None, typer.Argument(help="run folder, or any other model", metavar="RUN")]


@config_command(app, ExportConfig, "export", dry_run=False)
def export(config: ExportConfig, call: Call, model: Model = None) -> int:
    """Write a trained model for another program, and compare the file with the model.

    A graph (onnx, pt2) has the run's temperature and, with --with-preprocessing, everything from
    the pixels on. Its outputs are compared with PyTorch's on images; a file whose probabilities or
    attention differ by more than 0.0001 is not kept, and the exit status is 3.
    """
    if model is None:
        raise UsageError("no model: name a run folder of gta finetune, or another model")
    config = config.model_copy(update={"format": _format(config)})
    assert config.format is not None
    suffix = EXPORTERS.load(config.format).suffix
    if config.out is not None:
        _check_out(config.out, suffix, config.overwrite)
    from gtacli.runtime.atomic import check_writable
    from gtacli.runtime.run_folder import default_out
    from gtacli.trained.export import export as run

    out = config.out
    if out is None:
        folder = default_out("export")
        out = folder / f"model{suffix}" if suffix else folder
    check_writable(out if suffix else out / "config.json")
    found = run(config, model, out)
    if call.json:
        console.emit(found)
        return 0
    size = " x ".join(map(str, found["image_size"]))
    takes = "images of any size" if found["any_size"] else f"images of {size}"
    console.say(f"{out}\t{found['format']}, {found['bytes'] / 1e6:.1f} MB, {takes}")
    rows = [(name, f"{value:.7f}") for name, value in found["differences"].items()]
    console.table(("output", "largest difference"), rows)
    console.say(f"compared with PyTorch on {found['n_checked']} images, {found['checked_on']}")
    if found["preprocessing_difference"] is not None:
        first, value = found["outputs"][0], found["preprocessing_difference"]
        console.say(f"{first} with the command's own preprocessing: within {value:.7f}")
    return 0


def _format(config: ExportConfig) -> str:
    """Return the name of the format. Raises UsageError for an unknown one."""
    if config.format is not None:
        return EXPORTERS.origin(config.format).name
    if config.out is None or not config.out.suffix:
        return DEFAULT
    suffixes = {origin.name: f".{origin.name}" for origin in EXPORTERS.origins()}
    named = [name for name, suffix in suffixes.items() if suffix == config.out.suffix.lower()]
    if not named:
        known = ", ".join(EXPORTERS.names())
        raise UsageError(f"{config.out} has no suffix of a format; `format` says it: {known}",
                         option="out")  # fmt: skip
    return named[0]


def _check_out(out: Path, suffix: str, overwrite: bool) -> None:
    """Report a place that is taken, before anything is loaded."""
    if suffix and out.is_dir():
        raise UsageError(f"{out} is a folder; name a file in it", option="out")
    if not suffix and out.is_file():
        raise UsageError(f"{out} is a file; name a folder", option="out")
    taken = out.exists() if suffix else out.is_dir() and any(out.iterdir())
    if taken and not overwrite:
        raise UsageError(f"{out} exists; `overwrite` replaces it", option="out")
