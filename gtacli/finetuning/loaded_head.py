"""The classifier of a loaded model: kept where it is for the dataset's classes, else a new one."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import nn

from gtacli.models.class_order import other_order
from gtacli.models.loading import LoadedModel

log = logging.getLogger(__name__)


def fit_head(
    target: LoadedModel, classes: tuple[str, ...], assume_order: bool, multi_label: bool = False
) -> LoadedModel:
    """Keep the classifier of the loaded weights if it is for `classes`; else zero it.

    Weights that name their classes are for `classes` if they name the same ones; the outputs are
    brought into the order of `classes`. The log tells what became of a classifier.

    Args:
        target: the model; its classifier has as many outputs as there are classes.
        classes: of the dataset.
        assume_order: keep a classifier for as many classes that are not named.
        multi_label: whether an image has any number of these classes. A classifier of the other
            kind, whose outputs mean something else, is replaced.

    Returns: the model, whose `classes` are these if its classifier is kept, else empty, and whose
        report counts a new classifier as such.
    """
    report, named = target.report, target.classes
    other_kind = target.multi_label != multi_label
    target = replace(target, multi_label=multi_label)
    loaded = tuple(n for n in (*report.loaded, *report.resized) if n.startswith(target.head))
    if not loaded or report.new_head:
        _log_other_shape(target)
    elif sorted(named) == sorted(classes) and not other_kind:
        if named != classes:
            _permute(target, [named.index(name) for name in classes])
        order = "" if named == classes else ", in another order"
        log.info("the classifier is kept: its %d classes are the dataset's%s", len(classes), order)
        return replace(target, classes=classes)
    elif not named and assume_order and not other_kind:
        log.warning(
            "the classifier is kept: the weights do not name its %d classes, so their order is "
            "assumed to be the dataset's (%s%s)%s",
            *(len(classes), ", ".join(classes[:3]), ", …" if len(classes) > 3 else ""),
            other_order(classes),
        )
        return replace(target, classes=classes)
    else:
        other = next((name for name in named if name not in classes), None)
        reason = "do not name its classes" if other is None else f"have other classes ({other})"
        if named and other is None:
            reason = f"are for {'one class' if multi_label else 'any number of classes'} per image"
        log.info("new classifier: the weights %s", reason)
    zero_head(target)
    kept = tuple(n for n in report.loaded if n not in loaded)
    report = replace(report, loaded=kept, new_head=report.new_head + loaded)
    return replace(target, classes=(), report=report)


def zero_head(target: LoadedModel) -> None:
    """Set the weights of a new classifier to zero (Dosovitskiy et al., 2021, section 3.2).

    The first steps then train it alone, instead of passing a random classifier's gradients to the
    backbone.
    """
    with torch.no_grad():
        for parameter in _head_parameters(target):
            parameter.zero_()


def _log_other_shape(target: LoadedModel) -> None:
    """Log the shape of the file's classifier, if it has one."""
    shapes = target.report.shapes
    name = next((n for n in target.report.new_head if n in shapes), None)
    if name is not None:
        log.info("new classifier: %s is %s", name, shapes[name])


def _permute(target: LoadedModel, order: list[int]) -> None:
    """Let output i of the classifier be what output order[i] was."""
    with torch.no_grad():
        for parameter in _head_parameters(target):
            parameter.copy_(parameter[order])


def _head_parameters(target: LoadedModel) -> list[nn.Parameter]:
    named = target.model.named_parameters()
    return [parameter for name, parameter in named if name.startswith(target.head)]
