"""`gta doctor`: versions, devices, health of the plug-ins; what a bug report needs."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Annotated, Any

import typer

from gtacli.cli import console
from gtacli.cli.lazy import new_app
from gtacli.cli.plugins import check_all

PACKAGES = (
    *("gtacli", "torch", "torchvision", "timm", "kornia", "numpy", "scipy", "pillow"),
    *("safetensors", "jinja2", "pydantic", "typer", "rich"),
)
app = new_app()


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False) -> int:
    """Show versions and devices and load every plug-in. Exit status 1 when something is wrong."""
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    devices, trouble = _devices()
    parts = check_all()
    wrong = [
        *(f"{name} is not installed" for name, version in versions.items() if version is None),
        *([trouble] if trouble else []),
        *(str(part["error"]) for part in parts if part["error"]),
    ]
    report = {
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.executable,
        "versions": versions,
        "devices": devices,
        "plugins": parts,
        "wrong": wrong,
        "ok": not wrong,
    }
    if json:
        console.emit(report)
        return 1 if wrong else 0
    console.table(("package", "version"), [(k, v or "missing") for k, v in versions.items()])
    console.say("")
    console.table(("device", "what"), [(d["device"], d["name"]) for d in devices])
    console.say("")
    broken = sum(part["error"] is not None for part in parts)
    console.say(f"parts: {len(parts) - broken} of {len(parts)} load")
    console.say("all is well" if not wrong else "\n".join(f"wrong: {text}" for text in wrong))
    return 1 if wrong else 0


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> tuple[list[dict[str, Any]], str | None]:
    """The devices torch can use, the CPU first; and what went wrong when it was asked."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices: list[dict[str, Any]] = [
        {"device": "cpu", "name": f"{platform.processor() or platform.machine()}, {cores} cores"}
    ]
    try:
        import torch

        for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            properties = torch.cuda.get_device_properties(i)
            memory = f"{properties.total_memory / 2**30:.0f} GiB"
            devices.append({"device": f"cuda:{i}", "name": f"{properties.name}, {memory}"})
        if torch.backends.mps.is_available():
            devices.append({"device": "mps", "name": "Apple GPU"})
    except Exception as error:  # a broken install of torch is what a doctor must survive
        return devices, f"torch: {type(error).__name__}: {error}"
    return devices, None
