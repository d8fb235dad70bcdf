"""Compare how long torch's threads wait awake for each other; prints lines of JSON.

    python benchmarks/thread_waits.py [--rounds 5]

A training step of a ViT-Tiny on all cores, each setting in a process of its own, in turn: alone on
the machine, and beside as many busy processes as there are cores (other jobs, or the processes that
load images). Seconds of the clock as multiples of those of OpenMP's default, medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from interleaved import Timings, median_interval, ratios

STEP = """
import sys, time, timm, torch
torch.manual_seed(0)
model = timm.create_model("vit_tiny_patch16_224", img_size=160, num_classes=10)
images, labels = torch.randn(16, 3, 160, 160), torch.zeros(16, dtype=torch.long)
def step():
    torch.nn.functional.cross_entropy(model(images), labels).backward()
step()
times = []
for _ in range(int(sys.argv[1])):
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
print(sorted(times)[len(times) // 2])
"""
SETTINGS = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100000": {"GOMP_SPINCOUNT": "100000"},
}
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def seconds(setting: dict[str, str], steps: int) -> float:
    """Return the median seconds of a step in a process with these variables."""
    env = {key: value for key, value in os.environ.items() if key not in NAMES}
    words = [sys.executable, "-c", STEP, str(steps)]
    done = subprocess.run(words, env=env | setting, stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    cores = os.cpu_count() or 1
    for busy in (0, cores):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            timings = Timings({name: [] for name in SETTINGS})
            for turn in range(args.rounds):
                names = [*SETTINGS]
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    timings.wall[name].append(seconds(SETTINGS[name], args.steps))
        finally:
            for other in others:
                other.kill()
        default = timings.wall["default"]
        result = {
            "benchmark": "thread_waits",
            "cores": cores,
            "busy_processes": busy,
            "seconds": {name: round(s, 3) for name, s in timings.medians().items()},
            "times_default": {
                name: median_interval(ratios(times, default))
                for name, times in timings.wall.items()
                if name != "default"
            },
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
