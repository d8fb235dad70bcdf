"""Launching of the same command in several processes, with torchrun's agent.

The agent restarts nothing, and its log is off: the processes report their own errors, once. Only a
process that was killed is reported here.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from gtacli.errors import Interrupted, RunError
from gtacli.runtime.processes import LAUNCHER, REPORTED

# The agent's default of 30 seconds may be less than a step on the CPU plus writing the state.
SHUTDOWN_SECONDS = "600"
_STORE_TIMEOUT = timedelta(seconds=5)
_KEY = f"{REPORTED}/0"


def launch(words: Sequence[str], nproc: int) -> int:
    """Run `gta WORDS` in `nproc` processes on this machine and return their exit status.

    Raises:
        RunError: a process was killed.
        Interrupted: a signal stopped the processes before they had a state to save.
    """
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=_STORE_TIMEOUT)
    os.environ[LAUNCHER] = f"localhost:{store.port}"
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    logging.disable(logging.CRITICAL)  # the agent's own log
    try:
        elastic_launch(config, sys.executable)("-m", "gtacli", *words)
    except ChildFailedError as error:
        if store.check([_KEY]):
            return _reported_status(store)
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        raise RunError(_describe_failure(codes)) from error
    except SignalException as error:
        if store.check([_KEY]):
            return _reported_status(store)
        raise Interrupted("interrupted") from error
    finally:
        logging.disable(logging.NOTSET)
        del os.environ[LAUNCHER]
    return 0


def _reported_status(store: TCPStore) -> int:
    return int(store.get(_KEY).split()[0])


def _describe_failure(codes: dict[int, int]) -> str:
    """Describe why processes ended that reported nothing.

    Args:
        codes: exit status or -signal by rank. The agent ends the others by SIGTERM; they are not
            the cause.
    """
    causes = {r: c for r, c in codes.items() if c < 0 and c != -signal.SIGTERM} or codes
    rank, code = next(iter(causes.items()))
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
    return f"process {rank} {how}; `resume` continues from the last saved state"
