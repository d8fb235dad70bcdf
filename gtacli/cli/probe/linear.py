"""`gta probe linear`: the accuracy of a linear classifier on frozen features."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.call import Call
from gtacli.cli.probe.features import LINES, run_probe
from gtacli.cli.probe.table import ModelMetric
from gtacli.config.probe.linear import LinearProbeConfig

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import ProbeData, ProbeResult


LABEL_METRICS = (
    ("map", "mAP"),
    ("ranking", "ranking of the labels"),
    ("f1_macro", "F1, mean of labels"),
    ("f1_micro", "F1, all labels"),
)


def linear(config: LinearProbeConfig, call: Call) -> int:
    """Measure linear classification accuracy on frozen features.

    sweep: 13 learning rates for each choice of features (the CLS token, the mean of the patches,
    both, the CLS tokens of the last four blocks) are trained at once without augmentation. The best
    one on the dataset's validation split, or on a fifth held out of training, is trained again on
    all training images. With few images a logistic regression: its features are the first of these
    choices within one standard error of the best, on the validation split or by cross-validation.
    mae: the published protocol of masked autoencoders, with augmentation, so every epoch runs all
    images through the model.

    --multi-label: images with any number of labels; a logistic regression for each label.

    Nothing is chosen on the test images without --choose-on-test. Features are cached (--cache) and
    shared by all probes. With --compare each model is tested against --model on the same images
    (McNemar's test). Images that cannot be read are reported, the others are processed, and the
    exit status is 1.
    """

    def measure(data: ProbeData, model: LoadedModel) -> ProbeResult:
        from gtacli.probing.classifiers.linear import Sweep, linear
        from gtacli.probing.classifiers.linear_labels import linear_labels
        from gtacli.probing.classifiers.linear_mae import MaeProtocol, linear_mae
        from gtacli.probing.classifiers.logistic_heads import PENALTIES

        if config.multi_label:
            return linear_labels(data, model, config.c or PENALTIES)
        epochs = 1 if call.dry_run else config.epochs
        if config.protocol == "mae":
            options: dict[str, Any] = {
                "epochs": epochs,
                "batch": config.head_batch,
                "warmup": config.warmup,
                "base_lr": config.lr[0] if config.lr else None,
            }
            chosen = {name: value for name, value in options.items() if value is not None}
            mae = MaeProtocol(**chosen, on_test=config.choose_on_test)
            return linear_mae(data, model, mae, partial(_progress, "views"))
        solver = config.resolved_solver
        sweep = Sweep(
            config.lr,
            None if solver == "logistic" else epochs,
            config.head_batch,
            config.race,
            config.choose_on_test,
            solver,
            config.c or PENALTIES,
            config.folds,
        )
        return linear(data, model, sweep, partial(_progress, "steps"))

    return run_probe(config, call, measure, _rows, _note)


def _progress(label: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
    return console.progress(label, total, LINES)


def _rows(result: dict[str, Any]) -> list[ModelMetric]:
    tests, chosen_on = result.get("compared", {}), result["chosen_on"]
    if result["protocol"] == "labels":
        return [
            ModelMetric(label, result[name], result.get(f"{name}_interval"), tests.get(name))
            for name, label in LABEL_METRICS
        ]
    on_test = ", chosen on the test images" if chosen_on == "test" else ""
    return [
        ModelMetric(label + on_test, result[name], result[f"{name}_interval"], tests.get(name))
        for name, label in (("top1", "top 1"), ("top5", "top 5"))
    ]


def _note(result: dict[str, Any]) -> str | None:
    """Return the line for the log about the chosen head."""
    if result["protocol"] == "mae":
        return None
    blocks = ", ".join(map(str, result["layer"]))
    if result["protocol"] == "labels" or result["solver"] == "logistic":
        head = f"logistic regression with c {result['c']:.3g}"
    else:
        head = f"learning rate {result['lr']:.3g}"
    return (
        f"{result['model']}: {result['features']} of block {blocks}, {head}, "
        f"of {result['heads']} heads by {result['n_chosen_on']} images "
        f"({result['chosen_on'] or 'nothing'})"
    )
