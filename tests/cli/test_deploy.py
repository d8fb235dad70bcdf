"""The job files in deploy/: what they start runs here, with a scheduler that only notes it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCHEDULER = {
    "SLURM_JOB_NODELIST": "node[0-1]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_JOB_ID": "17",
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_ARRAY_TASK_COUNT": "8",
    "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    "SKYPILOT_NUM_NODES": "8",
    "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NUM_GPUS_PER_NODE": "4",
}
TOOLS = {
    "scontrol": 'printf "node0\\nnode1\\n"',
    "srun": 'exec "$@"',
    "torchrun": 'printf "%s\\n" torchrun "$@"',
    "gta": 'printf "%s\\n" gta "$@"',
}
FILES = [str(f.relative_to(DEPLOY)) for f in sorted(DEPLOY.rglob("*.*")) if f.suffix != ".md"]


def started(file: Path, folder: Path, place: dict[str, str]) -> list[str]:
    """Return the words of the process that a job starts on one of its nodes."""
    if file.suffix == ".sbatch":
        script = file.read_text(encoding="utf-8")
    else:
        job = yaml.safe_load(file.read_text(encoding="utf-8"))
        if "spec" in job:
            return of_kubernetes(job["spec"], place)
        assert set(place) == set(job["envs"])
        script = job["run"]
    tools = folder / "tools"
    tools.mkdir()
    for name, code in TOOLS.items():
        (tools / name).write_text(f"#!/bin/sh\n{code}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    environment = {**os.environ, **SCHEDULER, **place, "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def of_kubernetes(spec: dict[str, Any], place: dict[str, str]) -> list[str]:
    if "trainer" in spec:
        words = [*spec["trainer"]["command"], *spec["trainer"]["args"]]
    else:
        [container] = spec["template"]["spec"]["containers"]
        assert spec["completions"] == 8
        words = ["gta", *container["args"]]
    assert "vit_small_patch16_224.dino" in words
    known = {"vit_small_patch16_224.dino": place["MODEL"], "photos": place["DATA"]}
    known |= dict.fromkeys(("maps/photos", "runs/photos"), place["OUT"])
    return [known.get(word, word).replace("$(JOB_COMPLETION_INDEX)", "1") for word in words]


@pytest.mark.parametrize("name", FILES)
def test_what_a_job_starts_runs(
    gta: Any,
    name: str,
    tiny_data: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    place = {"DATA": str(tiny_data), "MODEL": str(tiny_model), "OUT": str(out)}
    words = started(DEPLOY / name, tmp_path, place)
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
        assert words[:2] == ["gtacli", "finetune"]
    for key, value in {"EPOCHS": "1", "BATCH_SIZE": "4", "DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"GTA_FINETUNE__{key}", value)
    assert gta(*words[1:]).status == 0
    if "--shard" in words:
        assert words[words.index("--shard") + 1] == "1/8"
        assert any(out.iterdir())
        assert gta(*words[1:]).status == 0  # as a part that is started again
    else:
        assert (out / "summary.json").exists()


@pytest.mark.parametrize("name", ["slurm/finetune.sbatch", "skypilot/finetune.yaml"])
def test_a_job_that_was_stopped_resumes(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "state.pt").touch()
    place = {"DATA": "photos", "MODEL": "model", "OUT": str(out)}
    assert started(DEPLOY / name, tmp_path, place)[-2:] == ["--resume", str(out)]
