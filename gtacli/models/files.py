"""Read the tensors of weights files: safetensors, pickles, and both in shards with an index."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gtacli.errors import GtaError, reason_of_library
from gtacli.models.search import Found, Network, find_network, flatten, fullest_level
from gtacli.runtime.archives import read_archive
from gtacli.runtime.pickles import ArchiveError
from gtacli.runtime.regular import open_regular, opened_path
from gtacli.runtime.strict_json import read_json, reason_of

log = logging.getLogger(__name__)
INDEX = ".index.json"
# Files of a folder that can hold its weights, as transformers and the hub name them.
NAMES = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_OTHER_FORMATS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; `git lfs pull` "
    "fetches it",
    b"<!DOCTYPE": "is a web page, not weights: the download has failed",
    b"<html": "is a web page, not weights: the download has failed",
    b"\x89HDF": "is a file of Keras (HDF5), which is not read",
    **dict.fromkeys(
        (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd"),
        "is compressed: unpack it",
    ),
}
_TAR = slice(257, 262), b"ustar"  # files of torch before 0.1.10 were such archives
_PICKLES = (b"PK\x03\x04", b"\x80\x02")  # of torch: an archive, or the format before it
_SNIFFED = 512
_SHARD = re.compile(r"(?!\.\.?$)[^/\\:\0]+")
Suits = Callable[[tuple[int, ...]], bool]


class _SafeTensor:
    """A tensor of an opened safetensors file that has not been read yet."""

    def __init__(self, file: Any, name: str) -> None:
        self._file, self._name = file, name

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._file.get_slice(self._name).get_shape())

    def read(self) -> Tensor:
        return self._file.get_tensor(self._name)


class Opened(NamedTuple):
    """The tensors of an opened file, by name; they can be read until it is closed."""

    found: Mapping[str, Found]
    metadata: dict[str, str]
    keys: tuple[str, ...] = ()


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a weights file.

    Those of safetensors by their own names; of a pickled checkpoint those of its network (see
    `search`), else those of the dictionary with the most tensors.

    Raises GtaError for a missing, truncated or unknown file, and for one without tensors.
    """
    with ExitStack() as files:
        opened = _open(path, files)
        if path.suffix == ".safetensors":
            return _read_all(opened, path), opened.metadata
        return _network(opened, path, None).tensors, opened.metadata


def read_network(path: Path, suits: Suits | None = None) -> tuple[Network[Tensor], dict[str, str]]:
    """Return the network of a weights file and the header of a safetensors file.

    Args:
        path: a file, an index of shards, or the folder of one of them.
        suits: see `find_network`.

    Raises GtaError for a missing, truncated or unknown file, and for one without tensors.
    """
    path = weights_in(path)
    with ExitStack() as files:
        opened = _open_shards(path, files) if path.name.endswith(INDEX) else _open(path, files)
        if "architecture" in opened.metadata:  # ours: its names are timm's
            return Network(_read_all(opened, path)), opened.metadata
        return _network(opened, path, suits), opened.metadata


def weights_in(path: Path) -> Path:
    """Return the weights file, or index of shards, of a folder; other paths as they are.

    Raises GtaError for a folder with none of the usual names unless it has only one file of
    weights.
    """
    if not os.path.isdir(path):
        return path
    usual = next((path / name for name in NAMES if os.path.isfile(path / name)), None)
    if usual is not None:
        return usual
    files = sorted(f for f in path.iterdir() if f.suffix in _SUFFIXES or f.name.endswith(INDEX))
    indices = [f for f in files if f.name.endswith(INDEX)]
    if len(indices or files) == 1:
        return (indices or files)[0]
    if any(path.glob("*.distcp")):
        raise GtaError(
            f"{path} is a distributed checkpoint; `python -m torch.distributed.checkpoint."
            "format_utils dcp_to_torch FOLDER FILE` makes one file of it"
        )
    what = f"several weights files ({files[0].name}, {files[1].name}, ...)" if files else "none"
    raise GtaError(f"{path} is a folder with {what} of {', '.join(NAMES)}; name the file")


def is_sharded(folder: Path) -> bool:
    """Return whether a folder's weights are in shards with an index."""
    return os.path.isdir(folder) and any(
        os.path.isfile(folder / name) for name in NAMES if INDEX in name
    )


def _other_format(start: bytes) -> str | None:
    """Return what a file is that begins so, if it is known to be no weights file."""
    if not start:
        return "is empty"
    if start[_TAR[0]] == _TAR[1]:
        return "is a tar archive: unpack it"
    signs = (sign for sign in _OTHER_FORMATS if start.lower().startswith(sign.lower()))
    return next((_OTHER_FORMATS[sign] for sign in signs), None)


def _open(path: Path, files: ExitStack) -> Opened:
    try:
        file = files.enter_context(open_regular(path))
        start = file.peek(_SNIFFED)[:_SNIFFED]  # type: ignore[attr-defined]
        safe = start[8:9] == b"{"  # a header of JSON behind its length
        if not safe and (what := _other_format(start)):
            raise GtaError(f"weights file {path} {what}")
        named_so = path.suffix == ".safetensors" and not start.startswith(_PICKLES)
        if safe or named_so:
            return _open_safetensors(file, path, files)
        return _open_pickle(file, path)
    except FileNotFoundError as e:
        raise GtaError(f"no weights file {path}") from e
    except OSError as e:
        raise GtaError(f"cannot read weights file {path}: {e.strerror or e}") from e


def _open_safetensors(file: BinaryIO, path: Path, files: ExitStack) -> Opened:
    with _damage_reported(path):
        opened = files.enter_context(safe_open(opened_path(file, path), framework="pt"))
        # safe_open's own order is that of the file; get_tensor copies out of the map.
        found = {k: Found(_SafeTensor(opened, k), "") for k in opened.keys()}  # noqa: SIM118
        return Opened(found, dict(opened.metadata() or {}), tuple(found))


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    try:
        yield
    except ArchiveError as e:
        raise GtaError(f"weights file {path} {e}") from e
    except (SafetensorError, RuntimeError, ValueError, KeyError) as e:
        reason = reason_of_library(e)
        raise GtaError(
            f"weights file {path} is damaged or not a safetensors file ({reason})"
        ) from e


def _open_pickle(file: BinaryIO, path: Path) -> Opened:
    with _damage_reported(path):
        content = read_archive(file)
    if content.foreign:
        log.info("%s: objects beside the weights were not read (%s)", path, _some(content.foreign))
    payload = content.payload
    found = flatten(payload)
    if not found and any(name.endswith("multiarray._reconstruct") for name in content.foreign):
        raise GtaError(
            f"weights file {path} has arrays of NumPy, which are not read from pickled files; save "
            "tensors: torch.save({name: torch.from_numpy(array) for ...})"
        )
    keys = tuple(str(k) for k in payload if isinstance(k, str)) if isinstance(payload, dict) else ()
    return Opened(found, {}, keys)


def _open_shards(index: Path, files: ExitStack) -> Opened:
    """Open the shards that an index names; they lie in its folder."""
    try:
        content = read_json(index)
    except FileNotFoundError as e:
        raise GtaError(f"no weights file {index}") from e
    except (OSError, ValueError) as e:
        raise GtaError(f"weights file {index} cannot be read ({reason_of(e)})") from e
    shard_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shard_of, dict) or not shard_of:
        raise GtaError(f"weights file {index} is no index of shards (it has no `weight_map`)")
    names_of: dict[str, list[str]] = {}
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise GtaError(f"weights file {index} names a shard outside its folder: {shard!r:.80}")
        names_of.setdefault(shard, []).append(name)
    found: dict[str, Found] = {}
    for shard, names in names_of.items():
        inner = _open(index.with_name(shard), files).found
        for name in names:
            if name not in inner:
                raise GtaError(f"weights file {index.with_name(shard)} lacks {name!r:.80}")
            found[name] = Found(inner[name].leaf, "")
    return Opened(found, {}, tuple(found))


def _network(opened: Opened, path: Path, suits: Suits | None) -> Network[Tensor]:
    """Find and read the network; without one, what the fullest dictionary holds."""
    if not opened.found:
        keys = f"; it holds {_some(opened.keys)}" if opened.keys else ""
        raise GtaError(f"weights file {path} holds no tensors of a model{keys}")
    with _damage_reported(path):
        network = find_network(opened.found, lambda leaf: leaf.read(), suits)
        if network is None:
            network = fullest_level(opened.found)
        if network.others:
            log.info(
                "%s holds several networks: %s is read, not %s",
                *(path, network.label or "the first", ", ".join(filter(None, network.others))),
            )
        return replace(network, tensors={n: leaf.read() for n, leaf in network.tensors.items()})


def _read_all(opened: Opened, path: Path) -> dict[str, Tensor]:
    with _damage_reported(path):
        return {name: one.leaf.read() for name, one in opened.found.items()}


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(name[:80] for name in names[:4]) + (", ..." if len(names) > 4 else "")
