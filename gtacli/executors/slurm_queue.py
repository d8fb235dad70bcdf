"""The queue of a SLURM cluster: which of this user's jobs have not ended.

It is `squeue` that is asked. submitit asks `sacct`, which knows nothing on clusters that keep no
accounts, so that a job whose node was lost would be waited for forever.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Sequence

LOOK_SECONDS = 15.0
"""Time between two looks: one for all jobs of this process."""
_ANSWER_SECONDS = 60
log = logging.getLogger(__name__)


class Queue:
    """The numbers of this user's jobs that wait or run, as of the last look."""

    def __init__(self) -> None:
        self._jobs: frozenset[str] | None = None
        self._looked = float("-inf")

    def lacks(self, job_id: str, since: float, seconds: float = LOOK_SECONDS) -> bool:
        """Return whether a job has left the queue; False while nobody knows.

        Args:
            since: `time.monotonic()` after its submission.
            seconds: age of a look that is new enough.
        """
        if time.monotonic() - self._looked > seconds:
            self._jobs = _numbers()
            self._looked = time.monotonic()
        return self._jobs is not None and since < self._looked and job_id not in self._jobs


def _numbers() -> frozenset[str] | None:
    """Return the numbers of this user's jobs; None if the cluster does not answer."""
    command = ["squeue", "-h", "-u", str(os.getuid()), "-o", "%i"]  # no header
    try:
        found = _run(command)
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("squeue: %s", error)
        return None
    return frozenset(found.split())


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs; of those that have ended nothing is said."""
    try:
        _run(["scancel", *job_ids])
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("scancel: %s", error)


def _run(command: Sequence[str]) -> str:
    """Return what a command of SLURM prints. Raises OSError or subprocess.SubprocessError."""
    done = subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_ANSWER_SECONDS,
        start_new_session=True,  # Ctrl-C is for the command that waits
    )
    return done.stdout
