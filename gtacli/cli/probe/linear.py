"""`gta probe linear`: what a linear classifier on the frozen features gets right."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from gtacli.cli import console
from gtacli.cli.options import Call
from gtacli.cli.probe.features import LINES, run
from gtacli.cli.probe.table import Figure
from gtacli.config.probe import LinearProbeConfig

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel
    from gtacli.probing.features.evaluation import Bench, Outcome


def linear(config: LinearProbeConfig, call: Call) -> int:
    """Accuracy of a linear classifier on frozen features.

    sweep: 13 learning rates for each choice of features (the CLS token, the mean of the patches,
    both, the CLS tokens of the last four blocks) learn at once from features without augmentation.
    They are chosen on the data's validation part, else on a fifth held out of training; the chosen
    one then learns from all training images. mae: the published protocol of masked autoencoders,
    with augmentation, so every epoch passes all images through the network.

    Nothing is chosen on the test images, unless --choose-on-test says so. Features are kept
    (--cache) and serve every probe. With --compare each model is tested against --model on the same
    images (McNemar's test). Images that cannot be read are named, the rest is done, and the exit
    status is 1.
    """

    def measure(bench: Bench, model: LoadedModel) -> Outcome:
        from gtacli.probing.classifiers.linear import Sweep, linear
        from gtacli.probing.classifiers.linear_mae import MaeProtocol, linear_mae

        epochs = 1 if call.dry_run else config.epochs
        if config.protocol == "mae":
            given: dict[str, Any] = {
                "epochs": epochs,
                "batch": config.head_batch,
                "warmup": config.warmup,
            }
            given |= {"base_lr": config.lr[0] if config.lr else None}
            chosen = {name: value for name, value in given.items() if value is not None}
            mae = MaeProtocol(**chosen, on_test=config.choose_on_test)
            return linear_mae(bench, model, mae, partial(_progress, "views"))
        sweep = Sweep(config.lr, epochs, config.head_batch, config.race, config.choose_on_test)
        return linear(bench, model, sweep, partial(_progress, "steps"))

    return run(config, call, measure, _figures, _note)


def _progress(label: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
    return console.progress(label, total, LINES)


def _figures(result: dict[str, Any]) -> list[Figure]:
    tests, chosen_on = result.get("compared", {}), result["chosen_on"]
    on_test = ", chosen on the test images" if chosen_on == "test" else ""
    return [
        Figure(label + on_test, result[name], result[f"{name}_interval"], tests.get(name))
        for name, label in (("top1", "top 1"), ("top5", "top 5"))
    ]


def _note(result: dict[str, Any]) -> str | None:
    """What was chosen, for the log."""
    if result["protocol"] == "mae":
        return None
    blocks = ", ".join(map(str, result["layer"]))
    return (
        f"{result['model']}: {result['features']} of block {blocks}, learning rate "
        f"{result['lr']:.3g}, of {result['heads']} heads by {result['n_chosen_on']} images "
        f"({result['chosen_on'] or 'nothing'})"
    )
