"""Time the discovery back-ends on the same images: found, lost and object-dino beside tokencut.

    python benchmarks/backends.py --model SPEC --image-size 480

Every back-end runs from the normalized images to masks, with the model's forward pass, at the last
block (TokenCut's published one), so that all run the whole network. object-dino cuts the keys of
as many heads as one block has and one more, which is what its clusters of a ViT-Tiny have.

Prints one JSON line: medians of interleaved repeats in milliseconds per image, and the ratio of
tokencut's CPU time, which other processes disturb little, to each in the same run.
"""

import argparse
import json
import statistics
from functools import partial

import numpy as np
import torch
from interleaved import time_interleaved

from gtacli import load_model
from gtacli.discovery.build import make_backend
from gtacli.runtime.devices import choose_compute
from gtacli.scenes.trials import draw_trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--image-size", type=int, default=480)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--tau", type=float, default=0.4)
    args = parser.parse_args()

    model = load_model(args.model, image_size=args.image_size)
    drawn = [draw_trial(k, args.image_size)[0] for k in range(args.images)]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
    images = model.view(torch.device("cpu"))(pixels)
    last = len(model.model.blocks) - 1  # type: ignore[arg-type]
    count = int(model.model.blocks[last].attn.num_heads)  # type: ignore[index, union-attr, arg-type]
    heads = (f"{last - 1}.0", *(f"{last}.{h}" for h in range(count)))
    common = {"layer": last, "tau": args.tau}
    options = {
        "tokencut": {**common, "side": "center"},
        "tokencut, two blocks": {"vote": (last - 1, last), "tau": args.tau, "side": "center"},
        "object-dino": {**common, "heads": heads, "side": "center"},
        "lost": {**common, "k": 100},
        "found": common,
    }
    runs = {
        name: partial(make_backend(name.split(",")[0], given, model).find, images)
        for name, given in options.items()
    }
    timings = time_interleaved(runs, args.repeats, choose_compute("cpu", "fp32"))
    seconds = {name: statistics.median(cpu) for name, cpu in timings.cpu.items()}
    result = {
        "benchmark": "backends",
        "model": args.model,
        "patches": model.grid[0] * model.grid[1],
        "threads": torch.get_num_threads(),
        "cpu_milliseconds_per_image": {
            name: round(1000 * t / args.images, 2) for name, t in seconds.items()
        },
        "wall_milliseconds_per_image": {
            name: round(1000 * t / args.images, 2) for name, t in timings.medians().items()
        },
        "tokencut_over": {name: timings.ratio("tokencut", name) for name in runs},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
