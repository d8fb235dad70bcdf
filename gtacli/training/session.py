"""The frame of a run that trains: its configuration, folder, loggers, record and summary."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, cast

from gtacli.errors import GtaError
from gtacli.images.depth import reading_as
from gtacli.models.loading import LoadedModel
from gtacli.runtime.atomic import to_json
from gtacli.runtime.distribution import Processes, join_processes
from gtacli.runtime.fetching import recorded_specs
from gtacli.runtime.machine import cpu_seconds
from gtacli.runtime.run_folder import RunFolder, default_out, environment, median_rate
from gtacli.runtime.secrets import mask_values
from gtacli.training.job import TrainingJob
from gtacli.training.loggers.several import Loggers
from gtacli.training.loop import Observer, SilentObserver
from gtacli.training.record import read_record, read_summary
from gtacli.training.results import RunCosts
from gtacli.training.resuming import AUTO, NOT_RECORDED, Config, resumed_config
from gtacli.training.same_inputs import (
    check_images,
    check_origin,
    check_split,
    describe_images,
    digest_of,
    fingerprint_in,
)
from gtacli.training.state import Progress

log = logging.getLogger(__name__)


class Session(Generic[Config]):
    """A run of a training command in this process.

    Attributes:
        command: its name.
        config: with the values of the run that is resumed, if one is.
        run: its folder.
        observer: gets steps and epochs; silent in all processes but the first one.
        dry_run: whether nothing is written.
        finished: the summary of a run that `resume=auto` has found finished.
    """

    def __init__(
        self,
        command: str,
        config: Config,
        observer: Observer,
        run: RunFolder,
        started: float,
        finished: dict[str, Any] | None = None,
    ) -> None:
        self.command, self.config, self.run = command, config, run
        self.dry_run, self.processes, self._started = run.dry, run.processes, started
        self._used_before = cpu_seconds()
        self.finished = finished
        processes = run.processes
        epochs = cast(Any, config).epochs  # every command that trains has this option
        shown = observer if processes.is_main else SilentObserver()
        self.observer = Loggers(config.log, config.loggers, shown, epochs)
        if run.dry or not processes.is_main:
            self.observer.active.clear()

    def begin(
        self,
        job: TrainingJob,
        model: LoadedModel,
        split: Mapping[str, Any],
        other_inputs: Mapping[str, str] | None = None,
        has_state: bool = True,
        resolved: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Write the record of a new run; or check that a resumed run has the same inputs.

        Args:
            model: the model that the run starts from.
            split: content of split.json.
            other_inputs: fingerprints of inputs other than data and model, by option.
            has_state: whether a resumed run continues from a state, if it has one.
            resolved: values of options that the config leaves open, for the record.

        Returns: the state of a resumed run; None for a run that begins, or begins anew because it
            ended before its first state.

        Raises GtaError if an input differs from that of the run that is resumed, or between
        processes.
        """
        job.compute.reset_peak_memory()
        config, run, others = self.config, self.run, dict(other_inputs or {})
        record: dict[str, Any] = {
            "command": self.command,
            "config": mask_values(config.model_dump(mode="json", exclude={*NOT_RECORDED})),
            "data": {"name": job.dataset.name, "fingerprint": job.dataset.fingerprint()},
            "model": {
                "spec": model.spec,
                "weights": str(model.report),
                "fingerprint": job.fingerprint,
            },
            "resolved": dict(resolved or {}),
            "processes": self.processes.size,
            **environment(job.compute.precision),
            "frozen_precision": job.compute.frozen.precision,
            **{option: {"fingerprint": value} for option, value in others.items()},
        }
        inputs = ("data", "model", *others)
        for option in inputs:
            if len(set(self.processes.gather(record[option]["fingerprint"]))) > 1:
                path = getattr(config, option)
                text = f"{path} is not the same for every process (on every node)"
                raise GtaError(text, option=option)
        state = None
        if config.resume is not None:
            state = self._continue(record, job, split, inputs, has_state)
        elif not run.dry:  # nothing is ever compared with a dry run
            self._describe(record, job, split)
            run.clear()
            run.write_json("run.json", record)
            run.write_json("split.json", split)
        self.observer.start(record["config"], run.path)
        return state

    def _describe(self, record: dict[str, Any], job: TrainingJob, split: Mapping[str, Any]) -> None:
        """Add what a run is compared by where it goes on, to its record and its states."""
        record["data"] |= self.processes.run_on_main(lambda: describe_images(job.dataset))
        self.run.origin = to_json({"config": record["config"], "split": digest_of(split)})

    def _continue(
        self,
        record: dict[str, Any],
        job: TrainingJob,
        split: Mapping[str, Any],
        inputs: Sequence[str],
        has_state: bool,
    ) -> dict[str, Any] | None:
        """Check that a resumed run has the inputs that it began with, and return its state."""
        config, run = self.config, self.run
        self._describe(record, job, split)
        before = read_record(run)
        for option in inputs:
            if fingerprint_in(before, option) != record[option]["fingerprint"]:
                path = getattr(config, option)
                text = f"`{option}` {path} has changed since the run began"
                raise GtaError(text, option="resume")
        check_images(before["data"], record["data"], job.dataset, config)
        check_split(run, split)
        if has_state and run.has_state():
            state = run.read_state()
            check_origin(state, run, before["config"], split)
            return state
        if has_state:
            log.info("%s has no state yet: its run begins anew", run.path)
        return None

    def resolve(self, values: Mapping[str, Any]) -> None:
        """Add values of options that the config leaves open to the record."""
        if not self.run.dry:
            record = self.run.read_json("run.json")
            record["resolved"] = {**record.get("resolved", {}), **values}
            self.run.write_json("run.json", record)

    def seconds(self) -> float:
        """Return how long the run has taken so far."""
        return round(time.perf_counter() - self._started, 2)

    def costs(self, job: TrainingJob, progress: Progress) -> RunCosts:
        """Return the fields of summary.json that all commands have."""
        memory = max(job.processes.gather(job.compute.peak_memory_mb()))
        used = sum(job.processes.gather(cpu_seconds() - self._used_before))
        costs: RunCosts = {
            "seconds": self.seconds(),
            "cpu_seconds": round(used, 2),
            "images_per_second": median_rate(progress.rows),
            "peak_memory_mb": round(memory, 1),
        }
        if skipped := job.stores.skipped():
            costs["skipped"] = len(skipped)
        if damaged := job.stores.damaged():
            costs["incomplete"] = len(damaged)
        if self.dry_run:
            costs["dry_run"] = True
        return costs

    def conclude(self, body: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return the summary that `body` returns, written to summary.json, or the finished run's.

        Closes the loggers.
        """
        if self.finished is not None:
            if self.processes.is_main:
                log.info("%s is finished", self.run.path)
            return self.finished
        summary = {**body()}
        self.run.remove_previous_state()
        self.run.write_json("summary.json", summary)
        self.observer.finish(summary)
        return summary


@contextmanager
def open_session(
    command: str,
    config: Config,
    observer: Observer,
    summary: type[Any],
    dry_run: bool = False,
    processes: Processes | None = None,
    complete: Callable[[Config], Config] = lambda config: config,
) -> Iterator[Session[Config]]:
    """Open the session of a run.

    Args:
        command: name of the command.
        config: validated.
        observer: gets steps and epochs in the first process.
        summary: the TypedDict that declares the entries of its summary.
        dry_run: write nothing.
        processes: share the run; None: those that torchrun has started, all of which call this.
        complete: fills in what the config leaves open.

    Raises:
        UsageError: see `resumed_config`; for a new run in a used folder; for a folder that
            another process writes to.
        PeerLost: another process has ended.
    """
    with nullcontext(processes) if processes is not None else join_processes() as group:
        started, auto = time.perf_counter(), config.resume == AUTO
        # What is wrong is said before the folder is touched.
        group.run_on_main(lambda: resumed_config(config, command))
        named = config.out if auto else config.resume or config.out
        path = named or group.run_on_main(lambda: default_out(command, dry_run))
        folder = RunFolder(path, dry_run, group)
        with folder.owned(command, "out" if auto or config.resume is None else "resume"):
            # Another command may have been at work there until now.
            config = complete(group.run_on_main(lambda: resumed_config(config, command)))
            run = config.resume
            if run is None:
                group.run_on_main(lambda: folder.check_free(config.overwrite))
            done = auto and run is not None and folder.has("summary.json")
            finished = read_summary(folder, summary) if done else None
            with (
                recorded_specs(f"{run}/run.json", config.allow_fetch) if run else nullcontext(),
                reading_as(config.bands, config.value_range),  # of a resumed run, and in Python
            ):
                yield Session(command, config, observer, folder, started, finished)
