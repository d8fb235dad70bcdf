"""Promises of a model provider, checked by loading what it names."""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from gtacli.errors import GtaError
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.specs import ModelFamily, ModelProvider
from gtacli.models.tap import attention
from gtacli.models.weights import Weights
from gtacli.registry import MODELS
from gtacli.runtime.fetching import recorded_specs
from gtacli.testing.options import Promises
from gtacli.testing.promises import BrokenPromise, NotApplicable, clear_error, require
from gtacli.testing.state import unchanged_process

NAME = "model-of-the-conformance-suite"


def model_promises(part: Any) -> Promises:
    """Return the promises of a provider's class."""

    def on(promise: Callable[[Any], None]) -> Callable[[], None]:
        return partial(_on_example, promise, part)

    family: Promises = {
        "a family without a name behind it is an error in words": partial(_family, part)
    }
    return {
        **(family if issubclass(part, ModelFamily) else {}),
        "it describes itself in a line": on(_described),
        "it downloads nothing that a stranger's file names": on(_fetching),
        "it returns weights, and random ones if it says so": on(_weights),
        "it loads and gives finite outputs": on(_loads),
        "it loads with another classifier and at another size": on(_other_sizes),
        "loading it twice gives the same weights": on(_deterministic),
        "it leaves the state of the process as it is": on(_process_alone),
    }


def _on_example(promise: Callable[[Any], None], part: Any) -> None:
    """Check a promise of a provider, or of the example that a family writes."""
    if not issubclass(part, ModelFamily):
        promise(part)
        return
    with tempfile.TemporaryDirectory() as folder:
        rest = part().write_example(Path(folder))
        if rest is None:
            raise NotApplicable("no model: write `write_example`")

        class Example(ModelProvider):
            help, pretrained = part.help, part.pretrained

            def weights(self) -> Weights:
                found: Weights = part().open(rest)
                return found

        promise(Example)


@contextmanager
def without_network() -> Iterator[None]:
    """Refuse connections, and say as a stranger's record does that nothing may be downloaded."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise BrokenPromise(
            "it opens a connection before gtacli.runtime.fetching.require_fetching allows it"
        )

    with (
        mock.patch.object(socket.socket, "connect", refuse),
        mock.patch.object(socket, "create_connection", refuse),
        mock.patch.object(socket, "getaddrinfo", refuse),
        recorded_specs("a record of the conformance suite", allow_fetch=False),
    ):
        yield


def weights_of(part: Any) -> Weights:
    """Return the weights of a provider. Raises NotApplicable if they have to be downloaded."""
    with without_network():
        try:
            found = part().weights()
        except GtaError as error:
            raise NotApplicable(f"its weights are not here: {error}") from error
    require(isinstance(found, Weights), f"weights() returns {type(found).__name__}, not Weights")
    return found


def load(part: Any, **changes: Any) -> LoadedModel:
    """Load a provider's model as `gtacli.load_model` does."""
    weights_of(part)
    with without_network(), MODELS.registered(NAME, part):
        return load_model(NAME, **changes)


def _described(part: Any) -> None:
    require(part.help and "\n" not in part.help, "help is no line for the list of models")
    require(isinstance(part.pretrained, bool), f"pretrained is {part.pretrained!r}")


def _family(part: Any) -> None:
    with without_network(), clear_error("without a name"):
        part().weights()
    with without_network(), clear_error("for a folder that does not exist", ["no-such-folder"]):
        part().open("./no-such-folder")


def _fetching(part: Any) -> None:
    with without_network():
        try:
            part().weights()
        except GtaError as error:
            require(str(error).strip(), "its error has no text")


def _weights(part: Any) -> None:
    weights = weights_of(part)
    drawn = weights.tensors is None
    require(drawn != part.pretrained, f"pretrained is {part.pretrained}, but tensors say otherwise")
    require(re.fullmatch(r"[^\n]+", weights.where), "where is no line for messages")
    for name, tensor in (weights.tensors or {}).items():
        require(tensor.device.type == "cpu", f"{name} is on {tensor.device}, not on the CPU")
    wrong = [k for k, v in weights.metadata.items() if not isinstance(v, str)]
    require(not wrong, f"metadata of a file are text, but {', '.join(wrong)} is not")


def _require_outputs(loaded: LoadedModel) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *loaded.image_size, generator=generator)
    with torch.no_grad():
        outputs = loaded.model(images)
        taps = attention(loaded.model, images, (-1,), rows="all")
    require(len(outputs) == 2 and outputs.isfinite().all(), "outputs are not finite")
    prefix = loaded.num_prefix_tokens
    tokens = taps[0].logits.shape[-1]
    patches = loaded.grid[0] * loaded.grid[1]
    require(tokens == prefix + patches, f"attention has {tokens} tokens, not {prefix} + {patches}")


def _loads(part: Any) -> None:
    _require_outputs(load(part))


def _other_sizes(part: Any) -> None:
    loaded = load(part)
    cell = loaded.image_size[0] // loaded.grid[0]
    size = (loaded.image_size[0] + cell, loaded.image_size[1] + 2 * cell)
    other = load(part, num_classes=3, image_size=size)
    require(other.image_size == size, f"at {size} it has the size {other.image_size}")
    with torch.no_grad():
        width = other.model(torch.zeros(1, 3, *size)).shape[-1]
    require(width == 3, f"with 3 classes it returns {width} values")
    _require_outputs(other)


def _deterministic(part: Any) -> None:
    first, second = weights_of(part).tensors, weights_of(part).tensors
    if first is None or second is None:
        return
    require(first.keys() == second.keys(), "weights() returns other tensors the second time")
    differ = [n for n in first if not torch.equal(first[n], second[n])]
    require(not differ, f"weights() returns another {', '.join(differ[:2])} the second time")


def _process_alone(part: Any) -> None:
    weights_of(part)
    with unchanged_process("weights()"):
        try:
            part().weights()
        except GtaError as error:
            raise NotApplicable(f"its weights are not here: {error}") from error
