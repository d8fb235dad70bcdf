"""The search for a ViT among all that a checkpoint holds.

Every dictionary of a checkpoint is looked through for the patch embedding of a ViT, by its name in
any known layout, with blocks beside it. What stands before that name is the network's root:

    state_dict.module.base_encoder.  patch_embed.proj.weight
    -------------- root -----------  ------- name ----------

So prefixes need not be known. Within names the attributes of wrappers are skipped (`module` and
whatever begins with an underscore: `_orig_mod`, `_fsdp_wrapped_module`, `_modules` of a pickled
module); no layout has such names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from gtacli.models.layouts import Layout, find_layout
from gtacli.runtime.pickles import StoredTensor, Stub

_DEEPEST = 32
_WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:module|_\w+)\.")
_EMBEDDING = re.compile(
    r"(?:^|\.)("
    r"patch_embed\.(?:proj|projection)"  # timm and most publishers; MMPretrain
    r"|conv_proj"  # torchvision
    r"|embeddings\.patch_embeddings?(?:\.projection)?"  # Hugging Face
    r"|conv1"  # CLIP, where a class embedding is beside it
    r")\.weight$"
)
_WORDS = re.compile(
    r"^(blocks\.\d+\.)?(?:(?:model|net|network|encoder|backbone|trunk|base_encoder|vit)\.)+"
)
_BLOCK = re.compile(r"(?:\.|^)[a-z_]*\d+\.")
# Of several networks: averages of the weights, then those that each method evaluates (BYOL's online
# encoder; the teacher of DINO and iBOT, the target encoder of MSN and I-JEPA), then those without
# such a name (the base encoder of MoCo-v3, encoder_q of MoCo, the backbone of solo-learn), then the
# others.
_EVALUATED = (
    re.compile(r"(^|[._])(ema|averaged?|averaging|swa|polyak)([._]|$)"),
    re.compile(r"(^|[._])online"),
    re.compile(r"(^|[._])(teacher|target_encoder)([._]|$|_)"),
    re.compile(r"^(?!.*(student|momentum|target|current_model|raw_state|encoder_k|key_encoder))"),
)
_TELLING = re.compile(r"ema|averag|swa|online|teacher|target|base_encoder|student|momentum")
Leaf = TypeVar("Leaf")


@dataclass(frozen=True)
class Network(Generic[Leaf]):
    """The tensors of one network of a checkpoint.

    Attributes:
        tensors: by name, without wrappers; those of the whole level that the layout is about.
        layout: None for timm's own or an unknown one.
        label: the words of its root that tell it from the others, "" for the only one.
        others: those of the other networks.
        beside: names of tensors at the same level that are not part of the network.
    """

    tensors: dict[str, Leaf]
    layout: Layout | None = None
    label: str = ""
    others: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


class Found(NamedTuple):
    """A tensor of a checkpoint and the path of the dictionary that holds it ("state_dict.")."""

    leaf: Any
    level: str


def flatten(payload: Any) -> dict[str, Found]:
    """Return every tensor in nested dictionaries, lists and objects, by its path with dots."""
    found: dict[str, Found] = {}
    seen: set[int] = set()
    left: list[tuple[str, int, Any]] = [("", 0, payload)]
    while left:
        path, depth, value = left.pop()
        if id(value) in seen or depth > _DEEPEST:
            continue
        seen.add(id(value))
        inner = []
        for key, one in _entries(value):
            if isinstance(one, StoredTensor | Tensor):
                found.setdefault(f"{path}{key}", Found(one, path))
            elif isinstance(one, dict | list | tuple | Stub):
                inner.append((f"{path}{key}.", depth + 1, one))
        left += reversed(inner)
    return found


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list | tuple):
        yield from ((str(index), one) for index, one in enumerate(value))
        return
    entries = value.entries if isinstance(value, Stub) else value
    for key, one in entries.items() if isinstance(entries, dict) else ():
        if isinstance(key, str | int):
            yield str(key), one


def find_network(
    found: Mapping[str, Found],
    read: Callable[[Any], Tensor],
    suits: Callable[[tuple[int, ...]], bool] | None = None,
) -> Network[Any] | None:
    """Return the ViT among the tensors of a checkpoint, None if there is none.

    Args:
        found: see `flatten`.
        read: reads a tensor, for layouts that are recognized by values.
        suits: tells by the shape of its patch embedding whether a network can be the wanted one;
            those that can come first. Asked only if the shapes differ.
    """
    roots = _roots(found)
    if not roots:
        return None
    labels = _labels(list(roots))

    differ = len({tuple(leaf.shape) for leaf in roots.values()}) > 1

    def rank(root: str) -> tuple[bool, int]:
        misfit = suits is not None and differ and not suits(tuple(roots[root].shape))
        name = _telling_name(root, found)
        last = len(_EVALUATED)
        return misfit, next((i for i, p in enumerate(_EVALUATED) if p.search(name)), last)

    root = min(roots, key=rank)
    nested = [other for other in roots if other != root and not root.startswith(other)]
    own = {name: f for name, f in found.items() if not name.startswith(tuple(nested))}
    network = _recognize(root, own, read)
    others = tuple(labels[other] for other in roots if other != root)
    return Network(network.tensors, network.layout, labels[root], others, network.beside)


def fullest_level(found: Mapping[str, Found]) -> Network[Any]:
    """Return the tensors of the dictionary with the most of them."""
    counts = Counter(one.level for one in found.values())
    level = max(counts, key=lambda each: counts[each])
    return Network(_below(level, {n: one for n, one in found.items() if one.level == level}))


def _roots(found: Mapping[str, Found]) -> dict[str, Any]:
    """Return the roots of networks and their patch embeddings."""
    roots = {}
    for name, one in found.items():
        plain = _EMBEDDING.search(_WRAPPER.sub("", name))
        if plain is None:
            continue
        # The embedding's own words again, with the wrappers between them.
        words = plain[1].split(".")
        own = r"\.(?:(?:module|_\w+)\.)*".join(map(re.escape, [*words, "weight"]))
        # A pickled module has its own parameters beside `_modules`.
        root = re.sub(rf"(_modules\.)?{own}$", "", name)
        if plain[1] == "conv1" and f"{root}class_embedding" not in found:
            continue
        if any(_BLOCK.search(n[len(root) :]) for n in found if n.startswith(root)):
            roots[root] = one.leaf
    return roots


def _telling_name(root: str, found: Mapping[str, Found]) -> str:
    """Return the root with a word for what the counters beside it say."""
    if root.startswith("ema_state_dict.") and "ema_state_dict.steps" in found:
        return "raw_state."  # MMEngine saves the average as state_dict, and here what it replaces
    if any(f"{before}n_averaged" in found for before in _ancestors(root)):
        return f"{root}ema"  # torch's AveragedModel
    return root


def _labels(roots: list[str]) -> dict[str, str]:
    """Return the words of each root that are not those of all others."""
    words = {root: [w for w in root.split(".") if w] for root in roots}
    common = set.intersection(*(set(w) for w in words.values())) if len(roots) > 1 else set()
    plain = {
        root: [w for w in own if w not in common and not _WRAPPER.match(f"{w}.")]
        for root, own in words.items()
    }
    if len(roots) == 1:
        plain = {root: [w for w in own if _TELLING.search(w)] for root, own in plain.items()}
    return {root: ".".join(own) for root, own in plain.items()}


def _recognize(
    root: str, found: Mapping[str, Found], read: Callable[[Any], Tensor]
) -> Network[Any]:
    """Return the tensors of a root, at the outermost level at which a layout recognizes them."""
    level = next(f.level for n, f in found.items() if _is_embedding_of(root, n))
    for above in _ancestors(root):
        inner = _below(above, found)
        part = above.rstrip(".").rpartition(".")[2] if above == level else ""
        layout = find_layout(_Lazy(inner, read), part)
        if layout is not None and layout.reaches_network(inner):
            return Network(inner, layout)
    others = {n: f for n, f in found.items() if not n.startswith(root)}
    return Network(_without_words(_below(root, found)), beside=tuple(_below(level, others)))


def _without_words(tensors: dict[str, Any]) -> dict[str, Any]:
    """Leave out words of larger programs between a root and timm's own names.

    A program may hold the patch embedding itself and the blocks in a part of it ("encoder.").
    """
    plain: dict[str, Any] = {}
    for name, leaf in tensors.items():
        short = _WORDS.sub(r"\1", name)
        plain[name if short in tensors or short in plain else short] = leaf
    return plain


def _is_embedding_of(root: str, name: str) -> bool:
    return (
        name.startswith(root) and _EMBEDDING.match(_WRAPPER.sub("", name[len(root) :])) is not None
    )


def _ancestors(root: str) -> list[str]:
    """Return the beginnings of a root, from "" to the root itself."""
    ends = [m.end() for m in re.finditer(r"\.", root)]
    return ["", *(root[:end] for end in ends)]


def _below(root: str, found: Mapping[str, Found]) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for name, one in found.items():
        if name.startswith(root):
            inner.setdefault(_WRAPPER.sub("", name[len(root) :]), one.leaf)
    return inner


class _Lazy(Mapping[str, Tensor]):
    """Tensors that are read when they are asked for."""

    def __init__(self, leaves: Mapping[str, Any], read: Callable[[Any], Tensor]) -> None:
        self._leaves, self._read = leaves, read

    def __getitem__(self, name: str) -> Tensor:
        return self._read(self._leaves[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)
