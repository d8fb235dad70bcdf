"""Parts that break a promise each, and the check that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ConfigDict, Field
from torch import Tensor

from gtacli.config.parts import DiscoveryOptions, RegularizerOptions
from gtacli.data import DatasetReader, ImageDataset, Record
from gtacli.demo.model import DemoModel
from gtacli.discovery import Discovery, ObjectMaps
from gtacli.errors import GtaError, UsageError
from gtacli.executors import Executor, ExecutorOptions
from gtacli.models import ModelProvider, Request
from gtacli.models.weights import Weights
from gtacli.regularizers import Needs, Regularizer, StepOutputs
from gtacli.runtime.fetching import require_fetching
from gtacli.testing import BrokenPromise, NotApplicable, check_part, checks


def broken(part: Any, **arguments: Any) -> dict[str, str]:
    """Return the text of each broken promise."""
    found = {}
    for check in checks(part, **arguments):
        if "all processes" in check.promise:
            continue
        try:
            check()
        except BrokenPromise as error:
            found[check.promise] = str(error)
        except NotApplicable:
            pass
    assert "\n" not in "".join(found.values())
    return found


class Sound(Regularizer[RegularizerOptions]):
    """A regularizer that keeps its promises."""

    def penalty(self, step: StepOutputs) -> Tensor:
        assert step.target.logits is not None
        return step.target.logits.float().square().mean()


class Vector(Sound):
    def penalty(self, step: StepOutputs) -> Tensor:
        return super().penalty(step)[None]


class Number(Sound):
    def penalty(self, step: StepOutputs) -> Any:
        return 0.0


class NotFinite(Sound):
    def penalty(self, step: StepOutputs) -> Tensor:
        return super().penalty(step) / 0


class Half(Sound):
    def penalty(self, step: StepOutputs) -> Tensor:
        assert step.target.logits is not None
        return step.target.logits.abs().mean()


class Root(Sound):
    """The gradient of a norm is not finite at 0, where each training begins."""

    needs_source = True

    @property
    def needs(self) -> Needs:
        return Needs(Request(), Request())

    def penalty(self, step: StepOutputs) -> Tensor:
        assert step.source is not None
        assert step.target.logits is not None
        assert step.source.logits is not None
        return (step.target.logits - step.source.logits).float().square().sum().sqrt()


class Detached(Sound):
    def penalty(self, step: StepOutputs) -> Tensor:
        return super().penalty(step).detach()


class Head(Sound):
    reaches_head = False


class Dropping(Sound):
    def penalty(self, step: StepOutputs) -> Tensor:
        return super().penalty(step) * torch.rand(())


class Threads(Sound):
    def penalty(self, step: StepOutputs) -> Tensor:
        os.environ["TORCH_THREADS_OF_A_PLUGIN"] = str(id(step))
        return super().penalty(step)


class Printing(Sound):
    def penalty(self, step: StepOutputs) -> Tensor:
        print("hello")
        return super().penalty(step)


class Hooked(Sound):
    def penalty(self, step: StepOutputs) -> Tensor:
        self.target.register_forward_hook(lambda *_: None)
        return super().penalty(step)


class Writing(Sound):
    def penalty(self, step: StepOutputs) -> Tensor:
        with torch.no_grad():
            next(self.target.parameters()).add_(1)
        return super().penalty(step)


class FarBlock(Sound):
    @property
    def needs(self) -> Needs:
        return Needs(Request(hidden=(11,)))


class Borrowing(Sound):
    @property
    def needs(self) -> Needs:
        return Needs(source=Request())


class Spread(Sound):
    """The batch's variance has no value for one image."""

    def penalty(self, step: StepOutputs) -> Tensor:
        assert step.target.logits is not None
        return step.target.logits.float().std(0).mean()


class Negative(Sound):
    def strength(self, progress: float) -> float:
        return 1 - 2 * progress


class Graph(Sound):
    def penalty(self, step: StepOutputs) -> Tensor:
        self.last = super().penalty(step)
        return self.last

    def metrics(self) -> dict[str, Tensor]:
        return {"last": self.last}


class Square(Sound):
    """It takes the grid for a square."""

    @property
    def needs(self) -> Needs:
        return Needs(Request(hidden=(0,)))

    def penalty(self, step: StepOutputs) -> Tensor:
        prefix = int(self.target.num_prefix_tokens)  # type: ignore[arg-type]
        tokens = step.target.hidden[0][:, prefix:].float()
        side = int(tokens.shape[1] ** 0.5)
        return tokens.unflatten(1, (side, side)).square().mean()


class Bare(RegularizerOptions):
    factor: float = 1.0


class BareOptions(Sound):
    Options: ClassVar[type[RegularizerOptions]] = Bare


class Loose(RegularizerOptions):
    model_config = ConfigDict(extra="ignore")


class LooseOptions(Sound):
    Options: ClassVar[type[RegularizerOptions]] = Loose


class Required(RegularizerOptions):
    file: str = Field(description="a file")


class RequiredOptions(Sound):
    Options: ClassVar[type[RegularizerOptions]] = Required


class Exiting(Sound):
    def penalty(self, step: StepOutputs) -> Tensor:
        raise SystemExit(3)


REGULARIZERS: list[tuple[type[Regularizer[Any]], str, str]] = [
    (Vector, "finite scalar", r"the shape \(1,\), not a scalar"),
    (Number, "finite scalar", "penalty.. returns float"),
    (NotFinite, "finite scalar", "penalty.. is inf"),
    (Half, "bfloat16 autocast", "penalty.. is torch.bfloat16 in autocast"),
    (Root, "gradient is finite", "where target and source are equal is not finite"),
    (Detached, "gradient is finite", "has no gradient in the target"),
    (Head, "reaches the classifier", "head.weight.*but reaches_head is False"),
    (Dropping, "equal steps", "two equal steps of the same object give"),
    (Dropping, "state of the process", "changes the random numbers of torch"),
    (Threads, "state of the process", "changes environment variables"),
    (Printing, "state of the process", "prints on stdout"),
    (Hooked, "leaves both networks", "changes forward hooks of the network.*the target"),
    (Writing, "leaves both networks", "changes the values of"),
    (FarBlock, "asks for blocks", r"block \[11\]"),
    (Borrowing, "asks for blocks", "needs_source is False"),
    (Spread, "one image", "nan"),
    (Negative, "strength", r"strength\(1.0\) is -1"),
    (Graph, "strength", "metric last has a gradient"),
    (Square, "other networks", "a ViT for images that are not square: it raises RuntimeError"),
    (BareOptions, "help line", "options without a help line.*factor"),
    (LooseOptions, "unknown option", "raises no error"),
    (RequiredOptions, "finite scalar", "file: is required.*checks"),
    (Exiting, "finite scalar", "SystemExit: 3"),
]


def test_a_sound_regularizer() -> None:
    assert broken(Sound) == {}


@pytest.mark.parametrize(
    ("part", "promise", "what"),
    [pytest.param(*r, id=f"{r[0].__name__}-{r[1]}") for r in REGULARIZERS],
)
def test_a_broken_regularizer(
    part: Any, promise: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_THREADS_OF_A_PLUGIN", "")
    [check] = [check for check in checks(part) if promise in check.promise]
    with pytest.raises(BrokenPromise, match=what):
        check()


class Mean(Discovery[DiscoveryOptions]):
    """A back-end that keeps its promises."""

    def __init__(self, options: DiscoveryOptions, model: Any) -> None:
        super().__init__(options, model)
        if not -len(model.blocks) <= options.layer < len(model.blocks):
            raise UsageError(f"there is no block {options.layer}")

    def find(self, images: Tensor) -> ObjectMaps:
        return ObjectMaps(self.maps(images).clamp(0, 1))

    def maps(self, images: Tensor) -> Tensor:
        grid = self.model.patch_embed.dynamic_feat_size(images.shape[-2:])
        return torch.nn.functional.adaptive_avg_pool2d(images.float().mean(1), grid).detach()


class OutOfRange(Mean):
    def find(self, images: Tensor) -> ObjectMaps:
        return ObjectMaps(self.maps(images) * 10)


class Flat(Mean):
    def find(self, images: Tensor) -> ObjectMaps:
        return ObjectMaps(self.maps(images).clamp(0, 1).flatten(1))


class Doubled(Mean):
    def find(self, images: Tensor) -> ObjectMaps:
        return ObjectMaps(self.maps(images).clamp(0, 1).double())


class DivideByZero(Mean):
    def find(self, images: Tensor) -> ObjectMaps:
        maps = self.maps(images).clamp(0, 1)
        return ObjectMaps(maps / maps.amax((1, 2), keepdim=True))


class Batchwise(Mean):
    def find(self, images: Tensor) -> ObjectMaps:
        maps = self.maps(images).clamp(0, 1)
        return ObjectMaps(maps / (1 + len(maps)))


class IntMask(Mean):
    def find(self, images: Tensor) -> ObjectMaps:
        maps = self.maps(images).clamp(0, 1)
        return ObjectMaps(maps, masks=(maps > 0.5).int())


class PixelBoxes(Mean):
    def find(self, images: Tensor) -> ObjectMaps:
        boxes = torch.tensor([[0, 0, 48, 32]]).expand(len(images), 4)
        return ObjectMaps(self.maps(images).clamp(0, 1), boxes=boxes)


class Stateful(Mean):
    def find(self, images: Tensor) -> ObjectMaps:
        import time

        self.batch = images
        time.sleep(0.01)
        return super().find(self.batch)


class Training(Mean):
    def find(self, images: Tensor) -> ObjectMaps:
        self.model.train()
        return super().find(images)


class AnyBlock(Mean):
    def __init__(self, options: DiscoveryOptions, model: Any) -> None:
        Discovery.__init__(self, options, model)


BACK_ENDS: list[tuple[type[Discovery[Any]], str, str]] = [
    (OutOfRange, "patch grid", r"maps are in \[.*not in \[0, 1\]"),
    (Flat, "patch grid", r"the shape \(4, 16\), not \(4, 4, 4\)"),
    (Doubled, "patch grid", "maps are torch.float64"),
    (DivideByZero, "without an object", "not finite"),
    (Batchwise, "alone or in a batch", "differs by"),
    (IntMask, "masks and boxes", "masks are torch.int32"),
    (PixelBoxes, "masks and boxes", "are not .*in patches"),
    (Stateful, "several threads", "maps from several threads differ"),
    (Training, "leaves the model", "changes settings of the network"),
    (AnyBlock, "does not have", "layer=99: it raises no error"),
]


def test_a_sound_back_end() -> None:
    assert broken(Mean) == {}


@pytest.mark.parametrize(
    ("part", "promise", "what"), [pytest.param(*r, id=r[0].__name__) for r in BACK_ENDS]
)
def test_a_broken_back_end(part: Any, promise: str, what: str) -> None:
    [check] = [check for check in checks(part) if promise in check.promise]
    with pytest.raises(BrokenPromise, match=what):
        check()


# --- models


class Silent(DemoModel):
    help = ""


class Pretending(DemoModel):
    pretrained = False


class Changing(DemoModel):
    def weights(self) -> Weights:
        weights = super().weights()
        assert weights.tensors is not None
        tensors = {n: torch.rand_like(t) for n, t in weights.tensors.items()}
        return Weights(weights.architecture, tensors, weights.metadata, "x", weights.kwargs)


class Downloading(ModelProvider):
    help = "from the web"

    def weights(self) -> Weights:
        import urllib.request

        urllib.request.urlopen("https://example.invalid/weights")
        raise AssertionError


class Polite(Downloading):
    def weights(self) -> Weights:
        require_fetching("the polite model")
        return super().weights()


class Elsewhere(ModelProvider):
    help = "no weights"

    def weights(self) -> Any:
        return {}


PROVIDERS: list[tuple[type[ModelProvider], str, str]] = [
    (Silent, "a line", "help is no line"),
    (Pretending, "random ones", "pretrained is False"),
    (Changing, "twice", "the second time"),
    (Changing, "state of the process", "random numbers of torch"),
    (Downloading, "downloads nothing", "opens a connection before"),
    (Elsewhere, "random ones", "returns dict, not Weights"),
]


@pytest.mark.parametrize(
    ("part", "promise", "what"), [pytest.param(*r, id=f"{r[0].__name__}-{r[1]}") for r in PROVIDERS]
)
def test_a_broken_provider(part: Any, promise: str, what: str) -> None:
    [check] = [check for check in checks(part) if promise in check.promise]
    with pytest.raises(BrokenPromise, match=what):
        check()


class SilentPretending(Silent, Pretending):
    pass


def test_the_error_has_a_line_for_each_promise() -> None:
    with pytest.raises(BrokenPromise) as caught:
        check_part(SilentPretending)
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["SilentPretending"] * 2
    assert "help is no line" in lines[0]


def test_weights_that_must_be_downloaded_are_not_checked() -> None:
    assert broken(Polite) == {}


# --- datasets


class Pictures(DatasetReader):
    """A reader of a folder of PNG files that keeps its promises."""

    help = "PNG files"

    def read(self, root: Path | None) -> ImageDataset:
        if root is None or not root.is_dir():
            raise GtaError(f"no folder {root}")
        return ImageDataset("pictures", ("thing",), {"train": tuple(self.records(root))})

    def records(self, root: Path) -> list[Record]:
        return [Record(path.name, 0, path) for path in sorted(root.glob("*.png"))]


class Absolute(Pictures):
    def records(self, root: Path) -> list[Record]:
        return [Record(str(path), 0, path) for path in sorted(root.glob("*.png"))]


class Unsorted(Pictures):
    count = 0

    def records(self, root: Path) -> list[Record]:
        type(self).count += 1
        return super().records(root)[:: 1 if self.count % 2 else -1]


class Everything(Pictures):
    def records(self, root: Path) -> list[Record]:
        return [Record(path.name, 0, path) for path in sorted(root.iterdir())]


class Crashing(Pictures):
    def read(self, root: Path | None) -> ImageDataset:
        assert root is not None
        return super().read(root)


READERS: list[tuple[type[DatasetReader], str, str]] = [
    (Absolute, "can be read", "is an absolute path"),
    (Absolute, "place of the folder", "another dataset"),
    (Unsorted, "twice", "another order the second time"),
    (Everything, "can be read", "notes.txt cannot be read"),
    (Crashing, "error in words", "without a folder: it raises AssertionError"),
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        pixels = np.full((8, 9, 3), 40 * i, np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_sound_reader(pictures: Path) -> None:
    assert broken(Pictures, data=pictures) == {}
    assert broken(Pictures) == {}


@pytest.mark.parametrize(
    ("part", "promise", "what"), [pytest.param(*r, id=f"{r[0].__name__}-{r[1]}") for r in READERS]
)
def test_a_broken_reader(part: Any, promise: str, what: str, pictures: Path) -> None:
    [check] = [check for check in checks(part, data=pictures) if promise in check.promise]
    with pytest.raises(BrokenPromise, match=what):
        check()


# --- executors


class Done:
    def __init__(self, status: int) -> None:
        self.status = status

    def done(self) -> bool:
        return True

    def result(self) -> int:
        return self.status


class Nowhere(Executor[ExecutorOptions]):
    """It says that all is well and runs nothing."""

    def submit(self, words: Any, log: Path) -> Done:
        return Done(0)


class Refusing(Nowhere):
    def __init__(self, *arguments: Any) -> None:
        raise RuntimeError("no cluster")


def test_broken_executors() -> None:
    assert "exit statuses are [0, 0], not [0, 2]" in broken(Nowhere).values()
    assert "RuntimeError: no cluster" in broken(Refusing)["it opens here or says in words why not"]


def test_options_of_another_kind() -> None:
    class Odd(Mean):
        Options = RegularizerOptions  # type: ignore[assignment]

    found = [text for text in broken(Odd).values() if "Odd.Options is" in text]
    assert found
    assert "derive from gtacli.config.parts.DiscoveryOptions, as class OddOptions(" in found[0]


def test_what_is_no_part() -> None:
    with pytest.raises(
        UsageError, match=r"Done derives from none of gtacli\.models\.ModelProvider"
    ):
        checks(Done)
    with pytest.raises(UsageError, match="is not a class"):
        checks(3)  # type: ignore[arg-type]


def test_checks_restore_what_a_part_has_changed() -> None:
    class Careless(Sound):
        def penalty(self, step: StepOutputs) -> Tensor:
            torch.set_default_dtype(torch.float64)
            torch.rand(1)
            return super().penalty(step)

    before = torch.get_rng_state()
    for check in checks(Careless):
        if "scalar" in check.promise:
            check()
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(before, torch.get_rng_state())


def test_a_class_that_no_process_can_import_is_checked_in_one() -> None:
    class Hidden(Sound):
        pass

    [check] = [check for check in checks(Hidden) if "all processes" in check.promise]
    with pytest.raises(NotApplicable, match="cannot import"):
        check()


def test_nothing_in_the_current_folder_is_imported(tmp_path: Path) -> None:
    """The server of the processes would import timm, or what timm imports, from it."""
    for name in ("timm", "gtacli", "h11", "json"):
        (tmp_path / f"{name}.py").write_text(f"open('{tmp_path}/run', 'w')", encoding="utf-8")
    code = (
        "from gtacli.regularizers.bss import BSS\n"
        "from gtacli.testing.pair import gradients_of_two\n"
        "if __name__ == '__main__':\n"
        "    assert len(gradients_of_two(BSS, {})) == 2\n"
    )
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "elsewhere" / "script.py"
    script.write_text(code, encoding="utf-8")
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, timeout=200)
    assert not (tmp_path / "run").exists()
