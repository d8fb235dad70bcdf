"""Compare `gta finetune` without options to its parts and to other methods, on few labels.

    python benchmarks/few_labels.py DATA --model ARCH@FILE --sampling-rate 15 --image-size 160

Every method trains on all images that the rate leaves, with the same splits. The runs are stored in
--out, so that an interrupted benchmark continues and several processes can share one (`--methods`).
Prints one JSON line: for each method the figures of every seed, their means, and the difference of
the default to it with the p-value of a paired t-test over the seeds. The linear probe is the one
that the default's runs report. CPU seconds are those of the process, with the test.
"""

import argparse
import json
import logging
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from scipy.stats import ttest_rel

from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.run import finetune
from gtacli.training.loop import SilentObserver

BARE = {"linear_probe": False}
METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"regularizer": "none", "head_init": "random", **BARE},
    "gta 0.1 as before": {"lam": 0.1, "head_init": "random", **BARE},
    "lp-ft": {"regularizer": "none", "head_init": "probe", **BARE},
    "gta 0.1": {"lam": 0.1, **BARE},
    "a fifth held out": {"hold_out": 20.0, **BARE},
    "lora": {"regularizer": "none", "train": "lora", **BARE},
    "plain, lr 3e-5": {"regularizer": "none", "head_init": "random", "lr": 3e-5, **BARE},
    "lam auto": {"lam": "auto", **BARE},
}
REPORTED = ("test_top1", "test_mean_class_top1", "attention_drift", "cpu_seconds", "peak_memory_mb")


def run(args: argparse.Namespace, method: str, seed: int) -> dict[str, Any]:
    """Return a run's summary with its CPU seconds; train only if it is not in --out."""
    out = Path(args.out) / f"{method.replace(' ', '-').replace(',', '')}-seed{seed}"
    if not (out / "cpu.json").is_file():
        if args.collect:
            return {}
        config = FinetuneConfig(
            model=args.model,
            data=args.data,
            sampling_rate=args.sampling_rate,
            image_size=args.image_size,
            epochs=args.epochs,
            precision=args.precision,
            out=out,
            seed=seed,
            overwrite=True,
            workers=0,
            **METHODS[method],
        )
        started = time.process_time()
        finetune(config, SilentObserver())
        seconds = time.process_time() - started
        (out / "cpu.json").write_text(json.dumps({"cpu_seconds": round(seconds, 1)}))
    return {
        **json.loads((out / "summary.json").read_text()),
        **json.loads((out / "cpu.json").read_text()),
    }


def cell(runs: list[dict[str, Any]], default: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one method, and how the default compares."""
    result: dict[str, Any] = {"seeds": len(runs)}
    for key in REPORTED:
        values = [r[key] for r in runs if r.get(key) is not None]
        if values:
            result[key] = [round(v, 4) for v in values]
            result[f"{key}_mean"] = round(statistics.fmean(values), 4)
    top1, others = ([r["test_top1"] for r in side] for side in (runs, default))
    if len(top1) == len(others) > 1:
        result["default_is_better_by"] = round(statistics.fmean(others) - statistics.fmean(top1), 4)
        if top1 != others:
            result["p"] = round(float(ttest_rel(others, top1).pvalue), 4)
    return result


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data")
    p.add_argument("--model", required=True)
    p.add_argument("--sampling-rate", type=float, default=15.0)
    p.add_argument("--image-size", type=int)
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--precision", default="auto")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    p.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--collect", action="store_true", help="only read the runs that are there")
    p.add_argument("--out", default="runs/few_labels")
    args = p.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(args.threads)
    runs = {
        method: [found for seed in args.seeds if (found := run(args, method, seed))]
        for method in args.methods
    }
    default = runs.get("default", [])
    table = {method: cell(found, default) for method, found in runs.items() if found}
    if default and all("linear_probe_top1" in r for r in default):
        probe = [{"test_top1": r["linear_probe_top1"]} for r in default]
        table["linear probe"] = cell(probe, default)
        table["default"]["why"] = [r.get("why") for r in default]
    print(json.dumps({"benchmark": "few_labels", **vars(args), "results": table}))


if __name__ == "__main__":
    main()
