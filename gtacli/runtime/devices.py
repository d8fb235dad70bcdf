"""The device and the precision with which a run computes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from gtacli.errors import UsageError
from gtacli.runtime.machine import peak_memory, usable_cores
from gtacli.runtime.processes import process_info

_MANY_CORES = 4
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device and the precision of the forward passes on it.

    Attributes:
        device: an existing torch device.
        dtype: of autocast; fp32 disables autocast.
        reading: dtype of networks that are only read; None: `dtype`.
    """

    device: torch.device
    dtype: torch.dtype
    reading: torch.dtype | None = None

    @property
    def frozen(self) -> Compute:
        """Return the device with the precision of networks that are only read.

        Those are sources, teachers, and networks of which features, maps or objects are extracted;
        not those that classify, whose answers are the result.
        """
        return self if self.reading is None else Compute(self.device, self.reading)

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context for forward passes in `dtype`."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def stack(self, images: Sequence[torch.Tensor], size: int) -> torch.Tensor:
        """Stack images to a batch; fill it with the last one to `size`, but not in fp32 on the CPU.

        Elsewhere the kernels sum in an order that depends on the batch's size, so that an image's
        result would depend on its place in the dataset, and on how it is shared out.
        """
        batch = [*images]
        if self.device.type != "cpu" or self.dtype != torch.float32:
            batch += [images[-1]] * (size - len(images))
        return torch.stack(batch)

    @property
    def precision(self) -> str:
        """Return the name of `dtype`, as the option `precision` has it."""
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)

    def at(self, precision: object) -> Compute:
        """Return the same device at another precision; unchanged where it has no such one."""
        dtype = PRECISIONS.get(precision) if isinstance(precision, str) else None
        if dtype is None or (dtype == torch.float16 and self.device.type == "cpu"):
            return self
        return Compute(self.device, dtype)

    @property
    def loss_scaling(self) -> bool:
        """Return whether the loss must be scaled, as fp16 gradients would underflow."""
        return self.dtype == torch.float16

    def synchronize(self) -> None:
        """Wait for the device to finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def reset_peak_memory(self) -> None:
        """Start to measure the peak memory anew; CUDA only."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory_mb(self) -> float:
        """Return the peak in MB: allocated on a CUDA device, else resident in this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return peak_memory() / 2**20


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the kernel; Linux only.

    Source and target alternate, so the top of the heap is freed and faulted in again in every
    step: 20,000 page faults, 3 % of a step of a ViT-Tiny.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(mmap_threshold, 32 * 2**20)  # the maximum
    mallopt(trim_threshold, 2**31 - 1)


def multiplies_bf16() -> bool:
    """Return whether this CPU multiplies bf16 matrices itself: AVX512-BF16, AMX, or Arm's bf16.

    Others convert them to fp32 and back, which takes longer than fp32 does.
    """
    ask = getattr(torch.cpu, "get_capabilities", None)
    found = {} if ask is None else ask()
    return any(found.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def choose_compute(device: str, precision: str) -> Compute:
    """Resolve "auto": the GPU if there is one; bf16 on CUDA, fp32 elsewhere.

    On a CPU that multiplies bf16, "auto" reads frozen networks in it.

    Raises UsageError for a device that does not exist here, and for fp16 on the CPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu" and torch.backends.mps.is_available():
            device = "mps"
    try:
        chosen = torch.device(device)
    except RuntimeError as e:
        raise UsageError(
            f"unknown device {device!r}; use auto, cpu, cuda, cuda:1 or mps", option="device"
        ) from e
    chosen = _own_device(chosen)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"there is no {device} here ({torch.cuda.device_count()} CUDA devices); "
            "`gta doctor` shows why",
            option="device",
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("there is no mps here", option="device")
    reading = None
    if precision == "auto":
        if chosen.type == "cpu" and multiplies_bf16():
            reading = torch.bfloat16
        native = chosen.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if native else "fp32"
    dtype = PRECISIONS[precision]
    if dtype == torch.float16 and chosen.type == "cpu":
        raise UsageError("fp16 needs a GPU; use bf16 or fp32 on the CPU", option="precision")
    if chosen.type == "cpu":
        keep_freed_memory()
        # torch counts the machine's cores, not those of a container or of one of several processes.
        fewer = process_info().local_size > 1 or usable_cores() < torch.get_num_threads()
        if fewer and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(usable_cores())
    return Compute(chosen, dtype, reading)


def _own_device(device: torch.device) -> torch.device:
    """Return the device of this process: each process of a run has a GPU of its own.

    Raises UsageError if processes would share a GPU.
    """
    info = process_info()
    if info.local_size == 1 or device.type == "cpu":
        return device
    if str(device) != "cuda":
        raise UsageError(
            f"{info.local_size} processes cannot share {device}; use cuda (a GPU each) or cpu",
            option="device",
        )
    count = torch.cuda.device_count()
    if info.local_size > count:
        raise UsageError(
            f"{info.local_size} processes here, but {count} CUDA devices; each process needs one",
            option="nproc",
        )
    own = torch.device("cuda", info.local_rank)
    torch.cuda.set_device(own)
    return own


def widen(values: torch.Tensor) -> torch.Tensor:
    """Convert to float64 for sums over many images; MPS has float32 only."""
    return values.double() if values.device.type != "mps" else values


def choose_workers(workers: int | None, device: torch.device, cached: bool) -> int:
    """Return the number of processes that load data; `workers` if it is given.

    On the CPU, cached images load faster in the training process than in one that competes with it
    for the cores; on few cores others do, too (`benchmarks/loader_threads.py`: on two cores 1.3
    times as many images a second as with two workers).
    """
    if workers is not None:
        return workers
    if device.type == "cpu":
        return 0 if cached or usable_cores() < _MANY_CORES else 2
    return min(8, usable_cores())
