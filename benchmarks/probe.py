"""Compare k-NN and the sweep of linear heads with their bare arithmetic and with other code.

    python benchmarks/probe.py --repos DIR
    python benchmarks/probe.py --what knn --keys 1281167 --queries 50000 --width 768 --device cuda

knn, random features, k = 20 of 50,000 x 20,000 x 384:
  ours     `gtacli.measures.neighbors`: search, votes, top-1 and top-5
  bare     a chunked matrix product with topk only
  product  the matrix product alone
  sklearn  KNeighborsClassifier(algorithm="brute", metric="cosine").kneighbors, if installed
  dino     `knn_classifier` of facebookresearch/dino's eval_knn.py (a checkout `dino` in DIR)
sweep, random features with clusters, cached (15,000 x 192 per column, 100 classes):
  race, full   52 heads, with poor heads dropped early or not; the best one is trained again on all
  cls, deep    one head with the narrowest and with the widest features, for as many epochs

Prints a JSON line: seconds (medians of interleaved repeats) and ratios in the same rounds, on a CPU
of CPU time, which other processes disturb less.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from interleaved import time_interleaved
from torch import Tensor
from torch.nn import functional as F

from gtacli.measures.neighbors import evaluate_knn, find_neighbors
from gtacli.models.feature_columns import FeatureColumn
from gtacli.probing.classifiers import linear as linear_module
from gtacli.probing.classifiers.linear import Sweep, linear
from gtacli.probing.features.cache import Features
from gtacli.probing.features.evaluation import ProbeData, Splits
from gtacli.runtime.devices import choose_compute

Work = Callable[[], object]
K = 20


def knn_work(args: argparse.Namespace, device: torch.device) -> dict[str, Work]:
    """Return the variants of k-NN."""
    rng = torch.Generator().manual_seed(0)
    keys, queries = (
        torch.randn(n, args.width, generator=rng).to(device) for n in (args.keys, args.queries)
    )
    of_keys, of_queries = (
        torch.randint(0, args.classes, (n,), generator=rng).to(device)
        for n in (args.keys, args.queries)
    )
    step = max(1, 2**24 // args.keys) if device.type == "cpu" else 2**30 // args.keys

    def product(then: Callable[[Tensor], object]) -> None:
        bank = F.normalize(keys, dim=1).T
        for chunk in F.normalize(queries, dim=1).split(step):
            then(chunk @ bank)

    def ours() -> None:
        evaluate_knn(find_neighbors(queries, keys, K), of_keys, of_queries, args.classes, (K,))

    work: dict[str, Work] = {
        "ours": ours,
        "bare": lambda: product(lambda similarities: similarities.topk(K)),
        "product": lambda: product(lambda similarities: None),
    }
    if device.type == "cpu" and (brute := sklearn_brute(keys, of_keys)):
        work["sklearn"] = lambda: brute.kneighbors(queries.numpy())
    if args.repos and (file := args.repos / "dino/eval_knn.py").is_file():
        classifier = load_function(file, "knn_classifier")
        work["dino"] = lambda: classifier(
            F.normalize(keys, dim=1),
            of_keys,
            F.normalize(queries, dim=1),
            of_queries,
            K,
            0.07,
            args.classes,
        )
    return work


def sklearn_brute(keys: Tensor, labels: Tensor) -> Any:
    """Return scikit-learn's classifier, None if it is not installed."""
    try:
        from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-not-found]
    except ImportError:
        return None
    brute = KNeighborsClassifier(K, algorithm="brute", metric="cosine", n_jobs=-1)
    return brute.fit(keys.numpy(), labels.numpy())


def load_function(file: Path, name: str) -> Any:
    """Load one function of a script without running the script's imports."""
    tree = ast.parse(file.read_text())
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    space: dict[str, Any] = {"torch": torch, "nn": torch.nn}
    exec(compile(ast.Module(found, []), str(file), "exec"), space)
    return space[name]


class Ready(ProbeData):
    """Data with its features in memory."""

    made: dict[Any, Features]

    def extract(self, model: Any, records: Any, columns: Any = None) -> Features:
        return self.made[records]


def sweep_work(args: argparse.Namespace, device: torch.device) -> dict[str, Work]:
    """Return the variants of the sweep."""
    rng = torch.Generator().manual_seed(0)
    deep = tuple(FeatureColumn(layer, "cls") for layer in range(4))
    columns = [*deep, FeatureColumn(3, "mean")]
    centres = torch.randn(args.classes, args.head_width, generator=rng)

    def part(name: str, count: int) -> Features:
        labels = torch.arange(count) % args.classes
        values = {
            c: centres[labels] + 3 * torch.randn(count, args.head_width, generator=rng)
            for c in columns
        }
        return Features(values, labels, tuple(f"{name}/{i}" for i in range(count)), {})

    train, val, test = ("train", args.images), ("val", args.images // 5), ("test", 100)
    parts = Splits(tuple(map(str, range(args.classes))), *(("x",),) * 3, "test")  # type: ignore[arg-type]
    cache = SimpleNamespace(compute=SimpleNamespace(device=device))
    bench = Ready(parts, cast(Any, cache), "all")
    bench.splits = cast(
        Any, SimpleNamespace(classes=parts.classes, train=train, val=val, test=test)
    )
    bench.made = {of: part(*of) for of in (train, val, test)}
    sets = ((deep[3],), (columns[4],), (deep[3], columns[4]), deep)

    def swept(chosen: tuple[tuple[FeatureColumn, ...], ...], **options: Any) -> None:
        linear_module.feature_choices = lambda model: chosen
        linear(bench, cast(Any, None), Sweep(epochs=args.epochs, **options))

    return {
        "race": lambda: swept(sets),
        "full": lambda: swept(sets, race=False),
        "cls": lambda: swept(sets[:1], rates=(0.1,)),
        "deep": lambda: swept(sets[3:], rates=(0.1,)),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--what", default="knn,sweep")
    p.add_argument("--repos", type=Path)
    p.add_argument("--device", default="auto")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--keys", type=int, default=50_000)
    p.add_argument("--queries", type=int, default=20_000)
    p.add_argument("--width", type=int, default=384)
    p.add_argument("--classes", type=int, default=100)
    p.add_argument("--images", type=int, default=15_000, help="of the sweep")
    p.add_argument("--head-width", type=int, default=192, help="of a column of the sweep")
    p.add_argument("--epochs", type=int, default=100, help="of the sweep")
    p.add_argument("--without", default="", help="variants to skip: full, sklearn, ...")
    args = p.parse_args()
    compute = choose_compute(args.device, "fp32")
    makers = {"knn": (knn_work, "ours"), "sweep": (sweep_work, "race")}
    result: dict[str, Any] = {
        "benchmark": "probe",
        "device": str(compute.device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
    for what in args.what.split(","):
        make, one = makers[what]
        work = make(args, compute.device)
        left = {name: each for name, each in work.items() if name not in args.without.split(",")}
        timings = time_interleaved(left, args.repeats, compute)
        result[what] = {
            "seconds": {n: round(s, 3) for n, s in timings.medians().items()},
            f"{one}_by": {name: timings.ratio(one, name) for name in left if name != one},
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
