"""Drawing of all images of a world, with their masks and a table of their sceneries."""

import csv
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from gtacli.runtime.interrupts import signals_held
from gtacli.runtime.machine import usable_cores
from gtacli.runtime.processes import begin_worker
from gtacli.scenes.scene import paint
from gtacli.scenes.world import World

SPLITS = ("train", "val", "test")  # the order seeds the random streams of the images


def draw_world(world: World, folder: Path) -> None:
    """Write every image, mask and `scenes.csv` of `world` into the existing `folder`."""
    jobs = [
        (world, folder, split, label)
        for split in world.counts
        for label in range(len(world.species))
    ]
    cores = min(8, usable_cores())
    if "fork" in multiprocessing.get_all_start_methods() and cores > 1:
        # Unlike spawning, forking needs no importable main module; elsewhere one process draws.
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(cores, context, begin_worker) as pool:
            with signals_held():
                drawing = pool.map(_draw_class, jobs)
            drawn = list(drawing)
    else:
        drawn = [_draw_class(job) for job in jobs]
    with (folder / "scenes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("key", "class", "scenery"))
        for rows in drawn:
            writer.writerows(rows)


def _draw_class(job: tuple[World, Path, str, int]) -> list[tuple[str, str, str]]:
    world, folder, split, label = job
    species = world.species[label]
    images, masks = folder / split / species.name, folder / "masks" / split / species.name
    for place in (images, masks):
        place.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(world.counts[split]):
        # Each image has its own stream, so that neither order nor number of images matters.
        rng = np.random.default_rng((world.seed, SPLITS.index(split), label, index))
        scenery = world.scenery(split, label, index)
        image, mask = paint(species, scenery, rng)
        image.save(images / f"{index:03d}.png", compress_level=1)
        mask.save(masks / f"{index:03d}.png", compress_level=1)
        rows.append((f"{split}/{species.name}/{index:03d}.png", species.name, scenery))
    return rows
