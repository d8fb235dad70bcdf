"""A discovery back-end that takes its time, a plug-in of `benchmarks/discover.py`.

It is TokenCut, with a pause for each image (`SLOW_BACKEND_PAUSE`, seconds) that takes no core; with
`SLOW_BACKEND_MARKS`, a folder, nothing but the pause, and at the end the moments of the process.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from pathlib import Path

import torch
from torch import nn

from gtacli.config.parts import TokenCutOptions
from gtacli.discovery import ObjectMaps
from gtacli.discovery.tokencut import TokenCut

PAUSE = float(os.environ.get("SLOW_BACKEND_PAUSE", "0"))
MARKS = os.environ.get("SLOW_BACKEND_MARKS")
_HERTZ = os.sysconf("SC_CLK_TCK")


class Slow(TokenCut):
    def __init__(self, options: TokenCutOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        self.marks = {"made": time.time(), "busy": 0.0, "images": 0}
        if MARKS is not None:
            atexit.register(self.tell, Path(MARKS))

    def find(self, images: torch.Tensor) -> ObjectMaps:
        begun = time.time()
        self.marks.setdefault("first", begun)
        time.sleep(PAUSE * len(images))
        if MARKS is None:
            return super().find(images)
        side = images.shape[-1] // 8
        maps = torch.nn.functional.adaptive_avg_pool2d(images.mean(1).sigmoid(), side)
        self.marks["last"] = time.time()
        self.marks["busy"] += self.marks["last"] - begun
        self.marks["images"] += len(images)
        return ObjectMaps(maps)

    def tell(self, folder: Path) -> None:
        """Write the moments, in seconds of the clock; none if this process computed nothing."""
        if self.marks["images"]:
            ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
            boot = time.time() - float(Path("/proc/uptime").read_text().split()[0])
            marks = {**self.marks, "started": boot + ticks / _HERTZ, "ended": time.time()}
            marks["cpu"] = sum(os.times()[:4])
            (folder / f"{os.getpid()}.json").write_text(json.dumps(marks))
