"""The frame of a run that trains: its configuration, folder, loggers, record and summary."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from gtacli.config.base import build
from gtacli.config.training import TrainingConfig
from gtacli.data.base import ImageDataset
from gtacli.data.contents import content_fingerprint, is_sampled, time_fingerprint
from gtacli.data.streams.stream import ImageStream
from gtacli.errors import GtaError, UsageError
from gtacli.images.depth import reading_as
from gtacli.models.loading import LoadedModel
from gtacli.runtime.atomic import to_json
from gtacli.runtime.distribution import Processes, join_processes
from gtacli.runtime.fetching import recorded_specs
from gtacli.runtime.run_folder import RunFolder, default_out, environment, median_rate
from gtacli.runtime.secrets import MASK, mask_values
from gtacli.training.job import TrainingJob
from gtacli.training.loggers.several import Loggers
from gtacli.training.loop import Observer, SilentObserver
from gtacli.training.record import read_record, read_summary
from gtacli.training.results import RunCosts
from gtacli.training.state import Progress, read_origin

log = logging.getLogger(__name__)
Config = TypeVar("Config", bound=TrainingConfig)

# What a resumed run may change: where it computes. Everything else was fixed when it began.
MAY_CHANGE = frozenset(
    ["device", "augment_device", "nproc", "shard_model", "workers", "cache", "log", "out"]
)
AUTO = Path("auto")
# What is said of one command and is not recorded.
NOT_RECORDED = frozenset(["resume", "overwrite", "allow_fetch"])


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
        dataset = job.dataset
        record["data"] |= self.processes.run_on_main(lambda: _describe_images(dataset))
        state = None
        run.origin = to_json({"config": record["config"], "split": _digest(split)})
        if config.resume is None:
            run.clear()
            run.write_json("run.json", record)
            run.write_json("split.json", split)
        else:
            before = read_record(run)
            for option in inputs:
                if _fingerprint(before, option) != record[option]["fingerprint"]:
                    path = getattr(config, option)
                    text = f"`{option}` {path} has changed since the run began"
                    raise GtaError(text, option="resume")
            sampled = isinstance(dataset, ImageDataset) and is_sampled(dataset)
            _check_images(before["data"], record["data"], config, sampled)
            self._check_split(split)
            if has_state and run.has_state():
                state = run.read_state()
                check_origin(state, run, before["config"], split)
            elif has_state:
                log.info("%s has no state yet: its run begins anew", run.path)
        self.observer.start(record["config"], run.path)
        return state

    def resolve(self, values: Mapping[str, Any]) -> None:
        """Add values of options that the config leaves open to the record."""
        if not self.run.dry:
            record = self.run.read_json("run.json")
            record["resolved"] = {**record.get("resolved", {}), **values}
            self.run.write_json("run.json", record)

    def _check_split(self, split: Mapping[str, Any]) -> None:
        """Raise GtaError unless split.json is the split of this run; write it if it is missing."""
        run = self.run
        if not run.has("split.json"):  # the run ended just before it
            run.write_json("split.json", split)
            return
        before, now = run.read_json("split.json"), json.loads(to_json(split))
        changed = [name for name in before.keys() & now.keys() if before[name] != now[name]]
        if changed:
            text = f"{run.path / 'split.json'} is not the split of this run (`{min(changed)}`)"
            raise GtaError(f"{text}; restore the file, or delete it", option="resume")

    def seconds(self) -> float:
        """Return how long the run has taken so far."""
        return round(time.perf_counter() - self._started, 2)

    def costs(self, job: TrainingJob, progress: Progress) -> RunCosts:
        """Return the fields of summary.json that all commands have."""
        memory = max(job.processes.gather(job.compute.peak_memory_mb()))
        costs: RunCosts = {
            "seconds": self.seconds(),
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


def resumed_config(config: Config, command: str) -> Config:
    """Return the configuration of the run of `command` that `config.resume` names.

    Without `resume` it is `config`; so it is with `auto` where `out` holds no run. Where the run
    computes may change (`MAY_CHANGE`); everything else was fixed when the run began.

    Raises UsageError for a key that is set to another value than the run had.
    """
    if config.resume == AUTO:
        config = _requeued(config)
    run = config.resume
    if run is None:
        return config
    folder = RunFolder(run)
    if folder.is_unused():
        text = f"{run} has no record of a run; start it by its own command"
        raise UsageError(text, option="resume")
    recorded = read_record(folder, command)
    if recorded.get("command") != command:
        raise UsageError(f"{run} is not a run of gta {command}", option="resume")
    values = {**config.before, **recorded["config"]}
    before = build(type(config), values, source=f"{run}/run.json")
    if config.out is not None and config.out != run:
        raise UsageError("a resumed run stays in its folder; leave out `out`", option="resume")
    secret = {k for k in type(config).model_fields if _is_masked(getattr(before, k))}
    if missing := sorted(secret - config.model_fields_set - MAY_CHANGE - NOT_RECORDED):
        text = f"`{missing[0]}` stands in {run} without its credentials; name it again"
        raise UsageError(text, option="resume")
    for key in config.model_fields_set - MAY_CHANGE - NOT_RECORDED:
        if key in secret and mask_values(getattr(config, key)) == getattr(before, key):
            before = before.model_copy(update={key: getattr(config, key)})
        elif getattr(config, key) != getattr(before, key):
            text = f"`{key}` was {getattr(before, key)} in {run}; a resumed run keeps its options"
            raise UsageError(text, option="resume")
    moved = {k: getattr(config, k) for k in config.model_fields_set & MAY_CHANGE}
    said = {k: getattr(config, k) for k in NOT_RECORDED}  # whatever the record says
    return before.model_copy(update={**moved, **said})


def _requeued(config: Config) -> Config:
    """Return a config that continues the run in `out`, or begins it."""
    if config.out is None:
        raise UsageError("auto: name the run's folder with `out`", option="resume")
    begun = (config.out / "run.json").is_file()
    return config.model_copy(update={"resume": config.out if begun else None})


def check_origin(
    state: Mapping[str, Any], run: RunFolder, config: Mapping[str, Any], split: Mapping[str, Any]
) -> None:
    """Compare what a state was trained with and on to the record of the run.

    Args:
        state: whose `origin` an earlier version did not save.
        config: of run.json.
        split: of this run.

    Raises GtaError if they differ.
    """
    trained = read_origin(state)
    if trained is None:
        return
    for key, value in trained.config.items():
        if key in config and config[key] != value and key not in MAY_CHANGE:
            text = f"{run.path / 'run.json'} was changed: `{key}` was {value} in training, not"
            raise GtaError(f"{text} {config[key]}; restore the file", option="resume")
    if trained.split != _digest(split):
        text = f"`data` no longer gives the split that {run.path} was trained on"
        raise GtaError(text, option="resume")


def _describe_images(dataset: ImageDataset | ImageStream) -> dict[str, str]:
    """Return fingerprints of the images; none of a stream, whose shards are known by their names.

    The ones in work at an interruption are compared where it goes on, see `streamed_images`.
    """
    if isinstance(dataset, ImageStream):
        return {}
    return {"content": content_fingerprint(dataset), "times": time_fingerprint(dataset)}


def _fingerprint(record: Mapping[str, Any], option: str) -> str | None:
    """Return the fingerprint of an input in a record; None if it has none."""
    part = record.get(option)
    return part.get("fingerprint") if isinstance(part, dict) else None


def _check_images(
    before: Mapping[str, Any], now: Mapping[str, Any], config: Any, sampled: bool
) -> None:
    """Raise GtaError if images have other bytes than when the run began, though equal sizes.

    Args:
        before, now: the dataset in the record of the run, and as it is.
        sampled: there are images whose bytes are not compared; a change of times is named.
    """
    if before.get("content") is None:  # of an earlier version
        return
    if before["content"] != now["content"]:
        text = f"`data` {config.data} has changed since the run began: images with other content"
        raise GtaError(text, option="resume")
    if sampled and before.get("times") != now["times"]:
        log.warning(
            "images of `data` %s have other times than when the run began; they have the same "
            "sizes, and the content of those that were compared is the same",
            config.data,
        )


def _digest(split: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(split, sort_keys=True).encode()).hexdigest()


def _is_masked(value: Any) -> bool:
    """Return whether a recorded option is a URL whose credentials were left out."""
    return isinstance(value, str) and "://" in value and MASK in value
