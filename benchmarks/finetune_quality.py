"""Compare plain fine-tuning, L2-SP, BSS and GTA on few labels, each with the same tuning budget.

    python benchmarks/finetune_quality.py DATA --model ARCH@FILE --sampling-rate 15 --image-size 160

Three settings per method (plain: three learning rates; the others: three strengths at the learning
rate selected for plain) are compared on one seed by validation accuracy; the best one is trained
with `--seeds` further seeds and tested. The test images do not influence the selection. In addition
plain and GTA run with all defaults. The runs are stored in --out, so an interrupted benchmark
continues where it stopped. Prints one JSON line.
"""

import argparse
import json
import logging
import statistics
import sys
from pathlib import Path
from typing import Any

from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.run import finetune

BUDGET: dict[str, list[dict[str, Any]]] = {
    "none": [{"lr": lr} for lr in (3e-5, 1e-4, 3e-4)],
    "l2-sp": [{"lam": lam} for lam in (0.001, 0.01, 0.1)],
    "bss": [{"lam": lam} for lam in (0.0001, 0.001, 0.01)],
    "gta": [{"lam": lam} for lam in (0.01, 0.1, 1.0)],
}


class SilentObserver:
    """An observer that ignores the progress of a run."""

    def step(self, *at: float) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...


def run(
    args: argparse.Namespace, method: str, setting: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Return a run's summary with validation accuracy; train only if it is not in --out."""
    name = "-".join([method, *(f"{k}{v:g}" for k, v in setting.items()), f"seed{seed}"])
    out = Path(args.out) / name
    if not (out / "summary.json").is_file():
        config = FinetuneConfig(
            model=args.model,
            data=args.data,
            regularizer=method,
            sampling_rate=args.sampling_rate,
            image_size=args.image_size,
            epochs=args.epochs,
            hold_out=20.0,  # a setting is selected by its validation accuracy
            head_init="random",
            linear_probe=False,
            out=out,
            seed=seed,
            overwrite=True,
            **setting,
        )
        finetune(config, SilentObserver())
    summary = json.loads((out / "summary.json").read_text())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    best = next(r for r in rows if r["epoch"] == summary["best_epoch"])
    result = {**summary, "val_top1": best["val_top1"], "val_mean": mean_of_second_half(rows)}
    print(json.dumps({"method": method, **setting, "seed": seed, **result}), file=sys.stderr)
    return result


def mean_of_second_half(rows: list[dict[str, Any]]) -> float:
    """Return the mean validation accuracy over the second half of the epochs.

    With a few dozen validation images, accuracies often tie, most often in the best epochs.
    """
    last = rows[len(rows) // 2 :]
    return statistics.fmean(r["val_top1"] for r in last)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data")
    p.add_argument("--model", required=True)
    p.add_argument("--sampling-rate", type=float, default=15.0)
    p.add_argument("--image-size", type=int)
    p.add_argument("--epochs", type=int, default=20)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--out", default="runs/finetune_quality")
    args = p.parse_args()
    logging.basicConfig(level=logging.WARNING)
    table = {}
    rate: dict[str, Any] = {}
    for name in [*BUDGET, "none (defaults)", "gta (defaults)"]:
        method, _, defaults = name.partition(" ")
        settings = [] if defaults else [{**rate, **s} for s in BUDGET[method]]
        tried = [(run(args, method, s, 0), s) for s in settings]
        # Ties in the best epoch are broken by the mean of the second half.
        by_validation = sorted(tried, key=lambda t: (t[0]["val_top1"], t[0]["val_mean"]))
        chosen = by_validation[-1][1] if tried else {}
        rate = rate or chosen
        # The seed of the selection is not among the reported ones.
        finals = [run(args, method, chosen, seed) for seed in range(1, args.seeds + 1)]
        top1 = [f["test_top1"] for f in finals]
        table[name] = {
            "tried": [
                {**s, "val_top1": t["val_top1"], "val_mean": t["val_mean"]} for t, s in tried
            ],
            "chosen": chosen,
            "test_top1": [round(t, 4) for t in top1],
            "mean": round(statistics.fmean(top1), 4),
            "std": round(statistics.stdev(top1), 4) if len(top1) > 1 else None,
            "attention_drift": round(statistics.fmean(f["attention_drift"] for f in finals), 3),
        }
    print(json.dumps({"benchmark": "finetune_quality", **vars(args), "results": table}))


if __name__ == "__main__":
    main()
