"""Compare variants of `gta finetune` on the same seeds: accuracy, drift, cost.

    python benchmarks/finetune_variants.py --seeds 1 2 3 \
        --common "--data CUB_200_2011 --model vit_small_patch16_224.dino --sampling-rate 15" \
        "logits: --guide logits" "msa: --guide msa --lam 0.01" "transmix: --mix transmix" \
        "auto: --lam auto"

Every run is the command in its own process, stored in --out, so an interrupted benchmark continues
where it stopped. The variants take turns within a seed, so that other load slows all of them alike.
Prints one JSON line.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

REPORTED = ("test_top1", "attention_drift", "seconds", "lam")


def run(name: str, flags: str, seed: int, out: Path) -> dict[str, Any]:
    """Return the summary of one run; train only if it is not finished."""
    folder = out / f"{name}-seed{seed}"
    if not (folder / "summary.json").is_file():
        options = ["--resume", str(folder)] if (folder / "state.pt").is_file() else [
            *shlex.split(flags), "--seed", str(seed), "--out", str(folder), "--overwrite"
        ]  # fmt: skip
        command = [sys.executable, "-m", "gtacli", "finetune", "--quiet", "--json", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    print(json.dumps({"variant": name, "seed": seed, **summary}), file=sys.stderr)
    return summary


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("variants", nargs="+", metavar="NAME: FLAGS")
    p.add_argument("--common", default="", help="flags of every variant")
    p.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    p.add_argument("--out", type=Path, default=Path("runs/finetune_variants"))
    args = p.parse_args()
    variants = {name.strip(): flags for name, _, flags in (v.partition(":") for v in args.variants)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for seed in args.seeds:
        for name, flags in variants.items():
            runs[name].append(run(name, f"{args.common} {flags}", seed, args.out))
    results = {}
    for name, summaries in runs.items():
        top1 = [f["test_top1"] for f in summaries]
        results[name] = {
            "flags": variants[name].strip(),
            **{key: [f[key] for f in summaries] for key in REPORTED if key in summaries[0]},
            "mean": round(statistics.fmean(top1), 4),
            "std": round(statistics.stdev(top1), 4) if len(top1) > 1 else None,
        }
    print(json.dumps({"benchmark": "finetune_variants", "common": args.common, "results": results}))


if __name__ == "__main__":
    main()
