"""Start `gta`, end it, and compare what it left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VOLATILE = {  # figures of the clock and the machine, in metrics.jsonl and summary.json
    "seconds",
    "images_per_second",
    "peak_memory_mb",
    "run",
    "cache",
    "lam_search",
    "report",
    "sheet",
}


CLASS_NAME = re.compile(r"\b[A-Z]\w*(Error|Exception|Warning|Interrupt)\b|Traceback")


class Gta:
    """`python -m gtacli`, of the interpreter that runs the harness; the package may be elsewhere
    (PYTHONPATH)."""

    def __init__(self, cwd: Path, env: dict[str, str] | None = None, fork: bool = False) -> None:
        self.fork = fork
        if fork:
            warm()
        self.cwd = Path(cwd)
        self.cwd.mkdir(parents=True, exist_ok=True)
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}

    def start(self, argv, **kwargs):
        """In a session of its own, so that its process group can be ended without ours."""
        if self.fork:
            return Forked([str(a) for a in argv], self.cwd, self.env, **kwargs)
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        kwargs.setdefault("stdout", subprocess.PIPE)
        kwargs.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(
            [sys.executable, "-m", "gtacli", *map(str, argv)],
            cwd=self.cwd,
            env=self.env,
            start_new_session=True,
            **kwargs,
        )

    def run(self, argv, timeout: float = 300, **kwargs) -> dict:
        clock = time.monotonic()
        process = self.start(argv, **kwargs)
        try:
            out, err = process.communicate(timeout=timeout)
            rc = process.returncode
        except subprocess.TimeoutExpired:
            end_group(process)
            out, err = process.communicate()
            rc = "HANG"
        return outcome(argv, rc, out, err, time.monotonic() - clock)


def warm() -> None:
    """Import everything, once: a forked command starts at once then.

    No tensor is computed here, so no thread is lost by forking.
    """
    import importlib
    import pkgutil

    import gtacli

    for name in ("scipy.sparse.linalg", "scipy.ndimage", "torchvision.transforms.v2",
                 "rich.console", "timm.optim", "timm.task", "kornia", "PIL.Image"):  # fmt: skip
        importlib.import_module(name)
    for module in pkgutil.walk_packages(gtacli.__path__, "gtacli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    from PIL import Image

    Image.init()


class Forked:
    """A command in a forked process, with what of subprocess.Popen the harness uses."""

    def __init__(
        self, argv: list[str], cwd: Path, env: dict[str, str], before=None, stdin=None, stdout=None
    ) -> None:
        self.files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        status = 70
        try:
            os.setsid()
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(env)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null if stdin is None else stdin, 0)
            os.dup2(self.files[0].fileno() if stdout is None else stdout, 1)
            os.dup2(self.files[1].fileno(), 2)
            sys.stdin = os.fdopen(0, "r", closefd=False)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            sys.argv = ["gta", *argv]
            if before is not None:
                before()
            import torch

            torch.set_num_threads(int(env.get("OMP_NUM_THREADS", "1")))
            from gtacli.cli import main

            status = main(argv)
            sys.stdout.flush()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            try:
                sys.stderr.flush()
            finally:
                os._exit(status)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        start = time.monotonic()
        while self.poll() is None:
            if timeout is not None and time.monotonic() - start > timeout:
                raise subprocess.TimeoutExpired("gta", timeout)
            time.sleep(0.005)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        self.wait(timeout)
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        self.files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]  # noqa: SIM115
        return texts[0], texts[1]


def outcome(argv, rc, out: bytes, err: bytes, seconds: float) -> dict:
    text = err.decode(errors="replace")
    return {
        "argv": [str(a) for a in argv],
        "rc": rc,
        "out": out.decode(errors="replace"),
        "err": text,
        "traceback": "Traceback (most recent call last)" in text,
        "last": text.strip().splitlines()[-1] if text.strip() else "",
        "seconds": round(seconds, 2),
    }


def faults_of(met: dict) -> list[str]:
    """Return what is wrong with the end of a command that has met a limit."""
    errors = [line for line in met["err"].splitlines() if line.startswith("error: ")]
    defects = []
    if met["rc"] not in (0, 1, 2, 3):
        defects.append(f"status {met['rc']}: {met['err'][-300:]}")
    elif met["rc"] > 1 and len(errors) != 1:
        defects.append(f"{len(errors)} lines of error: {met['err'][-300:]}")
    if found := CLASS_NAME.search(met["err"]):
        defects.append(f"{found[0]}: {met['err'][-300:]}")
    return defects


def group(process) -> list[int]:
    """Living processes that it started: of its session, and those that began sessions of their own
    (torchrun's do) as far as they can still be reached through their parents."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry)], sessions[int(entry)] = int(fields[1]), int(fields[3])
    found = {pid for pid, session in sessions.items() if session == process.pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def end_group(process) -> None:
    for pid in group(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def hidden(folder: Path) -> list[str]:
    """Return the drafts and locks that were left behind."""
    if not folder.is_dir():
        return []
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.startswith("."))


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _clean(value):
    if isinstance(value, dict):
        return {k: _clean(v) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list):
        return [_clean(v) for v in value]
    return value


def tensors(path: Path) -> str:
    """Digest of the tensors of a safetensors file, whatever the order of its metadata."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(path, "np") as file:
        for key in sorted(file.keys()):
            value = file.get_tensor(key)
            digest.update(f"{key}{value.dtype}{value.shape}".encode() + value.tobytes())
        digest.update(json.dumps(sorted((file.metadata() or {}).items())).encode())
    return digest.hexdigest()[:16]


def content(path: Path) -> str:
    """What decides whether two files say the same."""
    if path.suffix == ".safetensors":
        return tensors(path)
    if path.name == "metrics.jsonl":
        return json.dumps([_clean(json.loads(x)) for x in path.read_text().splitlines()])
    if path.name == "summary.json":
        return json.dumps(_clean(json.loads(path.read_text())))
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def differences(
    left: Path,
    right: Path,
    skip=("run.json", "state.pt", "search.json", "report.html", "predictions.json"),
) -> list[str]:
    """Files that two runs do not share, or that say other things."""
    a = {n for n in tree(left) if Path(n).name not in skip and not Path(n).name.startswith(".")}
    b = {n for n in tree(right) if Path(n).name not in skip and not Path(n).name.startswith(".")}
    found = [f"only in {left.name}: {n}" for n in sorted(a - b)]
    found += [f"only in {right.name}: {n}" for n in sorted(b - a)]
    for name in sorted(a & b):
        try:
            if content(left / name) != content(right / name):
                found.append(f"differs: {name}")
        except Exception as error:  # a half-written file
            found.append(f"unreadable: {name}: {type(error).__name__} {error}")
    return found
