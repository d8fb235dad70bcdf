"""`gta doctor`: versions, devices and state of the plug-ins, for a bug report."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Annotated, TypedDict

import typer

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.plugins import CheckedPartRow, check_all
from gtacli.runtime.results import Doc
from gtacli.runtime.surroundings import explain_surroundings

PACKAGES = (
    *("gtacli", "torch", "torchvision", "timm", "kornia", "numpy", "scipy", "pillow"),
    *("safetensors", "jinja2", "pydantic", "typer", "rich"),
)
app = new_app()


class Device(TypedDict):
    """A device that torch can use."""

    device: Annotated[str, Doc("its name for `device`")]
    name: Annotated[str, Doc("model, and cores or memory")]


class DoctorReport(TypedDict):
    """The JSON object of `gta doctor`."""

    system: Annotated[str, Doc("operating system and processor architecture")]
    python: Annotated[str, Doc("path of the Python interpreter")]
    versions: Annotated[
        dict[str, str | None], Doc("versions of Python and packages; null: not installed")
    ]
    devices: Annotated[list[Device], Doc("devices that torch can use, the CPU first")]
    plugins: Annotated[list[CheckedPartRow], Doc("all registered parts, as by `gta plugins check`")]
    wrong: Annotated[list[str], Doc("the problems that were found")]
    ok: Annotated[bool, Doc("whether no problem was found")]


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> int:
    """Show versions and devices and load every plug-in; exit with status 1 for a problem."""
    report = _examine()
    wrong = report["wrong"]
    if json:
        console.emit(report)
        return 1 if wrong else 0
    versions = [(name, version or "missing") for name, version in report["versions"].items()]
    console.table(("package", "version"), versions)
    console.say("")
    console.table(("device", "name"), [(d["device"], d["name"]) for d in report["devices"]])
    console.say("")
    errors = [part["error"] for part in report["plugins"]]
    console.say(f"parts: {errors.count(None)} of {len(errors)} load")
    for line in [f"wrong: {text}" for text in wrong] or ["no problem was found"]:
        console.say(line)
    return 1 if wrong else 0


def _examine() -> DoctorReport:
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    devices, trouble = _devices()
    parts = check_all()
    wrong = [
        *(f"{name} is not installed" for name, version in versions.items() if version is None),
        # What else fails does so because torch did, or for the same reason.
        *([trouble] if trouble else dict.fromkeys(p["error"] for p in parts if p["error"])),
    ]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.executable,
        "versions": versions,
        "devices": devices,
        "plugins": parts,
        "wrong": wrong,
        "ok": not wrong,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> tuple[list[Device], str | None]:
    """Return the devices that torch can use, the CPU first, and the problem with torch, if any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices: list[Device] = [
        {"device": "cpu", "name": f"{platform.processor() or platform.machine()}, {cores} cores"}
    ]
    try:
        import torch

        from gtacli.runtime.devices import multiplies_bf16

        if multiplies_bf16():
            devices[0]["name"] += ", bf16"
        for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            properties = torch.cuda.get_device_properties(i)
            memory = f"{properties.total_memory / 2**30:.0f} GiB"
            devices.append({"device": f"cuda:{i}", "name": f"{properties.name}, {memory}"})
        if torch.backends.mps.is_available():
            devices.append({"device": "mps", "name": "Apple GPU"})
    except Exception as error:  # whatever a broken installation of torch raises
        known = explain_surroundings(error)
        return devices, str(known) if known else f"torch: {type(error).__name__}: {error}"
    return devices, None
