"""Changed inputs to the readers, in processes of their own, which are ended when they hang.

Outcomes: "accepted" (the reader took it), "refused" (a GtaError, or an exit status with one line).
Everything else is a defect: "unforeseen" (another exception, or an exception's class name in the
output), "wrong" (its kind knows the answer to be wrong), "noise" (a library in C wrote to stderr),
"silent" (an exit status without its line), "hang", "memory", "died".
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from commands import warm
from records import Records

BLOCK = 100
HANG_SECONDS = 10.0
MEGABYTES = 1000.0
ADDRESS_SPACE = 12 << 30  # bytes beyond which an input ends its process instead of the machine
CLASS_NAME = re.compile(r"\b[A-Z]\w*(Error|Exception|Warning|Interrupt)\b|Traceback|pydantic")


def peak() -> float:
    """Return the largest memory since `reset_peak`, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def where(error: BaseException) -> str:
    """Return the class of an error and the last of our lines, so that one defect is one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/gtacli/" in f.filename]
    spot = (own or frames)[-1]
    return f"{type(error).__name__} at {spot.filename.rpartition('gtacli/')[2]}:{spot.lineno}"


def judge(answer: Any, text: str) -> tuple[str, str]:
    """Return the outcome of an input and a detail, from the answer and what was printed."""
    if found := CLASS_NAME.search(text):
        line = next(x for x in text.splitlines() if CLASS_NAME.search(x))
        return "unforeseen", f"{found[0]} in the output: {line[:200]}"
    if isinstance(answer, str):
        return "wrong", answer
    if not isinstance(answer, int) or isinstance(answer, bool) or answer == 0:
        return "accepted", ""
    if answer not in (1, 2, 3):
        return "unforeseen", f"exit {answer}"
    lines = [x for x in text.splitlines() if x.startswith("error: ")]
    if answer != 1 and len(lines) != 1:
        return "silent", f"exit {answer} with {len(lines)} lines of error"
    return "refused", ""


def try_one(target: Any, rng: Random | None, noise: int) -> tuple[str, str]:
    """Read an input; `noise` is the file that is the process' stderr for libraries in C."""
    os.lseek(noise, 0, os.SEEK_SET)
    os.ftruncate(noise, 0)
    outcome = read_one(target, rng)
    if outcome[0] in ("accepted", "refused") and (said := os.pread(noise, 200, 0)):
        return "noise", said.decode(errors="replace").splitlines()[0]
    return outcome


def read_one(target: Any, rng: Random | None) -> tuple[str, str]:
    from gtacli.errors import GtaError

    errors, output = io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    sys.stderr, sys.stdout = errors, output
    try:
        answer = target.run(rng)
        output.flush()
        printed = output.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]
        # A page of strangers' text may hold such a word; lines of errors may not.
        return judge(answer, errors.getvalue() + "\n".join(re.findall(r'"error".*', printed)))
    except GtaError as error:
        if "\n" in str(error):
            return "unforeseen", "a message of several lines"
        if found := CLASS_NAME.search(str(error)):
            return "unforeseen", f"{found[0]} in a message: {str(error)[:200]}"
        return "refused", ""
    except Exception as error:
        return "unforeseen", f"{where(error)}: {error}"[:250]
    finally:
        sys.stderr, sys.stdout = sys.__stderr__, sys.__stdout__


def child(name: str, folder: Path, numbers: range, pipe: int) -> None:
    """Try inputs and report each before and after, on a pipe."""
    from kinds import KINDS

    def tell(*parts: Any) -> None:
        os.write(pipe, (json.dumps(parts) + "\n").encode())

    folder.mkdir(parents=True, exist_ok=True)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    noise = os.open(folder.with_suffix(".stderr"), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(noise, 2)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    try:
        target = KINDS[name](folder)
        clean = try_one(target, None, noise)
        if clean != ("accepted", ""):
            raise RuntimeError(f"the clean input is {clean}")
    except Exception as error:
        tell("clean", f"{where(error)}: {error}"[:400])
        os._exit(1)
    for number in numbers:
        tell("start", number)
        reset_peak()
        before = peak()
        result, detail = try_one(target, Random(f"0-{name}-{number}"), noise)
        memory = peak() - before
        if memory > MEGABYTES:
            result, detail = "memory", f"{memory:.0f} MB"
        if result not in ("accepted", "refused"):
            keep(folder, name, number)
        tell("end", number, result, detail, round(memory, 1))
    os._exit(0)


def keep(folder: Path, name: str, number: int) -> Path:
    """Copy an input to WORK/found."""
    place = folder.parent / "found" / name / str(number)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, symlinks=True, ignore=shutil.ignore_patterns("fixed*"))
    return place


def events(pid: int, reader: int) -> Iterator[list[Any]]:
    """Yield what a child tells, and nothing more after `HANG_SECONDS` of silence."""
    buffer, last = b"", time.monotonic()
    while time.monotonic() - last < HANG_SECONDS:
        if select.select([reader], [], [], 0.5)[0]:
            block = os.read(reader, 1 << 16)
            if not block:
                return
            last = time.monotonic()
            *lines, buffer = (buffer + block).split(b"\n")
            yield from map(json.loads, lines)
    os.kill(pid, signal.SIGKILL)
    yield ["hang"]


def fuzz_block(name: str, numbers: range, work: Path) -> dict[str, Any]:
    """Try some inputs of a kind; inputs that show a defect are kept in WORK/found."""
    totals: Counter[str] = Counter()
    defects: dict[str, int] = {}
    slowest = most = 0.0
    first, started = numbers.start, time.monotonic()
    while first < numbers.stop:
        folder = work / f"case-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reader)
            os.setsid()
            child(name, folder, range(first, numbers.stop), writer)
        os.close(writer)
        at, begun, hung = None, 0.0, False
        for what, *rest in events(pid, reader):
            if what == "clean":
                os.waitpid(pid, 0)
                raise SystemExit(f"{name}: {rest[0]}")
            if what == "hang":
                hung = True
            elif what == "start":
                at, begun = rest[0], time.monotonic()
            else:
                number, result, detail, memory = rest
                slowest, most = max(slowest, time.monotonic() - begun), max(most, memory)
                note(work, name, number, result, detail, totals, defects)
                first, at = number + 1, None
        _, status = os.waitpid(pid, 0)
        os.close(reader)
        if at is not None:
            result = "hang" if hung else "died"
            detail = "" if hung else f"status {os.waitstatus_to_exitcode(status)}"
            note(work, name, at, result, detail, totals, defects)
            first = at + 1
    return {
        "inputs": len(numbers),
        "totals": dict(totals),
        "seconds": round(time.monotonic() - started, 1),
        "slowest_seconds": round(slowest, 2),
        "most_mb": most,
        "defects": [f"{key} ({count} inputs)" for key, count in defects.items()],
    }


def note(
    work: Path,
    name: str,
    number: int,
    result: str,
    detail: str,
    totals: Counter[str],
    defects: dict[str, int],
) -> None:
    totals[result] += 1
    if result in ("accepted", "refused"):
        return
    plain = re.sub(r"0x[0-9a-f]+|[0-9]{4,}|'[^']*'", "#", detail)[:200]
    key = f"{result}: {plain}"
    defects[key] = defects.get(key, 0) + 1
    if defects[key] == 1:
        place = work / "found" / name / str(number)
        if result in ("hang", "died"):  # of a process that cannot keep it
            keep(work / f"case-{name}", name, number)
        (place / "detail.txt").write_text(f"{result}: {detail}\n")
    else:
        shutil.rmtree(work / "found" / name / str(number), ignore_errors=True)


def run(work: Path, records: Records, inputs: int, names: list[str]) -> None:
    """Fuzz all kinds in turn, a block of inputs each time."""
    from kinds import KINDS

    warm()
    chosen = names or list(KINDS)
    units = [f"{name}:{start}" for start in range(0, inputs, BLOCK) for name in chosen]
    for unit in records.left(units):
        name, _, start = unit.partition(":")
        records.add(unit, **fuzz_block(name, range(int(start), int(start) + BLOCK), work))
