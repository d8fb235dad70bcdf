"""Convert a run to the file of the built-in source model: half precision, with its origin.

gta finetune --recipe demo-source --out runs/demo-source
python docs/scripts/demo_model.py runs/demo-source
"""

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from gtacli.demo.model import WEIGHTS
from gtacli.models.weights import read_weights
from gtacli.runtime.run_files import WEIGHTS_FILE
from gtacli.scenes.digest import drawing_digest

RECIPE = "demo-source"


def main(run: str) -> None:
    """Write the weights of a run folder to the package."""
    folder = Path(run)
    tensors, metadata = read_weights(folder / WEIGHTS_FILE)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    metadata |= {
        "recipe": RECIPE,
        "command": f"gta finetune --recipe {RECIPE}",
        "seed": str(record["config"]["seed"]),
        "epochs": str(summary["epochs"]),
        "drawing": drawing_digest(),
        "data": record["data"]["name"],
        "data_fingerprint": record["data"]["fingerprint"],
        "test_top1": f"{summary['test_top1']:.4f}",
        "licence": "Apache-2.0",
    }
    halves = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    save_file(halves, WEIGHTS, metadata)
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
