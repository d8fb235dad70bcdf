"""Measure shards that are read as a stream, beside the index of the same shards; prints JSON.

    python benchmarks/streaming.py WORK [--shards 1000 100000 --repeats 7]

`reading`: images per second of 20 tars of 250 photographs' bytes (100 kB of noise each, in the disk
cache), as a stream and as an index whose records are opened one by one, in turn, in CPU time and of
the clock; and of Parquet files with the same bytes. No image is decoded.

`start`: for each number of shards (of one image each, all but the first ones links), the seconds of
the clock and of the CPU until a stream gives its first image, and an index is complete; each in
a process of its own, after its imports.

`training`: images per second of batches for a pre-training, decoded and cropped, from 20 tars of
100 JPEGs of 256 px: of the stream, and of the indexed loader, in this process and in turn.

`first batch`: for each number of shards the seconds of the clock and of the CPU until a training on
the stream has its first batch (64 images) and its hundredth, and the largest memory.

`discover`, `embed`: for each number of shards the seconds from the start of the process to the
first result (a batch in the journal; `embed` begins its file) and the largest memory (MB), of
`gta discover` to its end with a network of random weights, whose images are known after the first
ones, and of `gta embed`, ended after its first result. Linux only (`/proc`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from interleaved import time_interleaved

TARS, IMAGES, BYTES = 20, 250, 100_000
DIFFERENT = 64
MOST_LINKS = 30_000  # as many links of a file as any file system allows
TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}
START = """
import json, sys, time
from pathlib import Path
from gtacli.data.spec import find_stream
from gtacli.data.unlabeled import load_images
from gtacli.data.streams.stream import ImageStream
start, used = time.perf_counter(), time.process_time()
if sys.argv[1] == "stream":
    next(find_stream(sys.argv[2]).images())
else:
    next(load_images(sys.argv[2]).records())[1].open().read()
status = Path("/proc/self/status").read_text().splitlines()
peak = next(line for line in status if line.startswith("VmHWM"))
print(json.dumps({"seconds": round(time.perf_counter() - start, 3),
                  "cpu_seconds": round(time.process_time() - used, 3),
                  "peak_mb": int(peak.split()[1]) // 1024}))
"""


BATCH = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from streaming import crop, stream_loader
from gtacli.data import stream_loader as _
from gtacli.data.spec import find_stream
crop(32)
def measure():
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM"))
    return {"seconds": round(time.perf_counter() - start, 2),
            "cpu_seconds": round(time.process_time() - used, 2),
            "peak_mb": int(peak.split()[1]) // 1024}
start, used = time.perf_counter(), time.process_time()
batches = iter(stream_loader(sys.argv[2], 32, 100))
next(batches)
first = measure()
for batch in batches:
    pass
print(json.dumps({"first": first, "hundredth": measure()}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--shards", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"what": "reading", **measure_reading(work, args.repeats)}), flush=True)
    print(json.dumps({"what": "training", **measure_training(work, args.repeats)}), flush=True)
    for count in args.shards:
        folder = work / f"links-{count}"
        if not folder.is_dir():
            make_links(folder, count)
        pattern = f"wds/{folder}/{{000000..{count - 1:06}}}.tar"
        for way, spec in (("stream", pattern), ("stream", f"wds/{folder}"), ("index", pattern)):
            found = run_json([sys.executable, "-c", START, way, spec])
            form = "folder" if spec != pattern else "braces"
            print(json.dumps({"what": "start", "shards": count, "way": way, "form": form, **found}))
        found = run_json([sys.executable, "-c", BATCH, str(Path(__file__).parent), pattern])
        print(json.dumps({"what": "first batch", "shards": count, **found}), flush=True)
        model = save_model(work / "model")
        for command in ("discover", "embed"):
            measured = measure_command(command, pattern, model, work / "out")
            print(json.dumps({"what": command, "shards": count, **measured}), flush=True)


def measure_reading(work: Path, repeats: int) -> dict[str, Any]:
    """Compare streams and an index in reading the bytes of the same images."""
    from gtacli.data.spec import find_stream
    from gtacli.data.unlabeled import load_images

    folder = work / "reading"
    if not folder.is_dir():
        make_shards(folder)
    tars, parquets = f"wds/{folder}", f"parquet/{folder}"

    def read(spec: str) -> int:
        stream = find_stream(spec)
        assert stream is not None
        return sum(len(item[0].data) for item in stream.images())

    def read_index() -> int:
        return sum(len(record.open().read()) for _, record in load_images(tars).records())

    variants: dict[str, Callable[[], object]] = {
        "stream": lambda: read(tars),
        "index": read_index,
        "parquet": lambda: read(parquets),
    }
    timed = time_interleaved(variants, repeats)
    assert set(timed.results.values()) == {TARS * IMAGES * BYTES}
    count = TARS * IMAGES
    return {
        "images_per_second": {name: round(count / s) for name, s in timed.medians().items()},
        "cpu_time_of_index": {
            name: timed.ratio(name, "index") for name in variants if name != "index"
        },
    }


def crop(size: int) -> Any:
    """Return the view of a pre-training."""
    from gtacli.data.augment.augmentation import Augmentation
    from gtacli.data.augment.transforms import TrainTransform

    return Augmentation(TrainTransform((size, size), (0.2, 1.0), load_ratio=0.2**-0.5))


def stream_loader(spec: str, size: int, batches: int) -> Any:
    """Return batches of 64 images of a stream."""
    from gtacli.data.spec import find_stream
    from gtacli.data.store import ImageNotes
    from gtacli.data.stream_loader import StreamLoader, StreamPlan
    from gtacli.data.streams.lanes import count_lanes

    stream = find_stream(spec)
    assert stream is not None
    plan = StreamPlan(
        stream=stream,
        transform=crop(size),
        interpolation="bicubic",
        seed=0,
        lanes=count_lanes(64, len(stream)),
        images=64,
        batches=batches,
        epochs=1,
    )
    return StreamLoader(plan, {}, 0, ImageNotes())


def measure_training(work: Path, repeats: int) -> dict[str, Any]:
    """Compare batches of a stream and of an index of the same JPEGs."""
    from gtacli.data.loader import make_loader
    from gtacli.data.store import ImageStore
    from gtacli.data.unlabeled import load_images

    folder, images = work / "training", 2000
    if not folder.is_dir():
        make_photographs(folder, images)
    spec, batches = f"wds/{folder}", images // 64
    view = crop(224)
    store = ImageStore(load_images(spec)["train"], view.load_size, cache="none")

    def stream() -> int:
        return sum(len(batch.images) for batch in stream_loader(spec, 224, batches))

    def index() -> int:
        loader = make_loader(store, view, 64, train=True, drop_last=True)
        return sum(len(batch.images) for batch in loader)

    timed = time_interleaved({"stream": stream, "index": index}, repeats)
    assert set(timed.results.values()) == {64 * batches}
    rates = {name: round(64 * batches / s) for name, s in timed.medians().items()}
    return {"images_per_second": rates, "cpu_time_of_index": timed.ratio("stream", "index")}


def make_photographs(folder: Path, count: int) -> None:
    """Write smooth noise of 256 px as JPEG into tars of 100."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(0, count, 100):
        with tarfile.open(folder / f"{number:05}.tar", "w") as tar:
            for key in range(number, number + 100):
                file, pixels = BytesIO(), rng.integers(0, 255, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).resize((256, 256)).save(file, "JPEG")
                add(tar, f"{key:05}.jpg", file.getvalue())


def make_shards(folder: Path) -> None:
    """Write the same images into tars and into Parquet files."""
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir()
    for number in range(TARS):
        images = [os.urandom(BYTES) for _ in range(IMAGES)]
        with tarfile.open(folder / f"{number:02}.tar", "w") as tar:
            for key, data in enumerate(images):
                add(tar, f"{key:04}.jpg", data)
        table = pa.table({"image": [{"bytes": data, "path": None} for data in images]})
        parquet.write_table(table, folder / f"{number:02}.parquet", row_group_size=100)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, BytesIO(data))


def make_links(folder: Path, count: int) -> None:
    """Create tars with one image each: different ones at first, so that a batch of new images is
    soon complete, then many names of the same few tars."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:06}.tar"
        if number >= DIFFERENT and number % MOST_LINKS:
            os.link(folder / f"{number // MOST_LINKS * MOST_LINKS:06}.tar", path)
            continue
        file = BytesIO()
        pixels = rng.integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        with tarfile.open(path, "w") as tar:
            add(tar, "a.png", file.getvalue())


def save_model(folder: Path) -> Path:
    """Save a tiny network with random weights; return its spec."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY)
    metadata = {"architecture": "vit_tiny_patch16_224", "kwargs": json.dumps(TINY)}
    save_file(model.state_dict(), folder / "model.safetensors", {**metadata, "num_classes": "0"})
    return folder


def run_json(words: list[str]) -> dict[str, Any]:
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, env=environment())
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def measure_command(command: str, data: str, model: Path, out: Path) -> dict[str, Any]:
    """Run a command; return when its first result came, and what it took."""
    remove(out)
    words = [sys.executable, "-m", "gtacli", command, "--data", data, "-m", str(model), "--json"]
    words += ["-q"]
    if command == "discover":
        words += ["-o", str(out), "--layer", "-1", "--tau", "0.2"]
    else:
        words += ["-o", str(out / "e.csv")]
    start, first, peak, used = time.perf_counter(), None, 0, 0.0
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment()) as process:
        while process.poll() is None:
            time.sleep(0.02)
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM")]
            peak = max([peak, *(int(line[1]) // 1024 for line in lines)])
            if first is None and has_result(out):
                first = time.perf_counter() - start
                used = sum(map(int, times[11:13])) / os.sysconf("SC_CLK_TCK")
                if command == "embed":
                    process.terminate()
        assert process.stdout is not None
        said = process.stdout.read().splitlines()
    seconds = time.perf_counter() - start
    result = {
        "first_result_seconds": round(first or seconds, 2),
        "of_these_cpu": round(used, 2),
        "peak_mb": peak,
        "status": process.returncode,
    }
    if command == "discover":
        result["seconds"] = round(seconds, 1)
        result["images"] = json.loads(said[-1])["images"]
    remove(out)
    return result


def has_result(out: Path) -> bool:
    """Return whether a map is in the journal, or a line in the file of embeddings."""
    try:
        return any(
            f.stat().st_size
            for f in [*out.glob("journal-*"), *out.glob("maps/*"), *out.glob(".*csv")]
        )
    except OSError:  # a draft was renamed meanwhile
        return False


def remove(out: Path) -> None:
    import shutil

    shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
