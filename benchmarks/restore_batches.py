"""Compares `likeness restore`, which restores faces in batches, with a loop that restores one face at a time.

    python benchmarks/restore_batches.py PHOTOS RUN [--faces 200] [--photos 60] [--rounds 3] [--memory 100 1000]

PHOTOS has a folder for each person. The script reads photos that show one face, and puts three or four of them side by
side, so that `--photos` pictures show `--faces` faces. Four photos of the person with the most photos are the
references. Both ways restore the same pictures with the same functions, and both encode each reference once. The loop
reads, searches, restores and writes one picture after the other, with all cores for torch and OpenCV. The two ways run
alternately. The rates are medians. The script also compares the restored faces of both ways.

For each number of `--memory`, a new process restores this number of photos, and the script prints the peak memory of
the process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from record_result import record_result

from curate.faces.find_faces import find_usable_faces
from curate.faces.interface import FaceModels
from manifests.errors import BadInput
from manifests.pictures.untrusted_images import read_picture
from train.restore.batches.face_batches import FaceBatches
from train.restore.batches.photo_pipeline import Steps, run_steps
from train.restore.restore_photos import restore
from train.restore.restorers.face_restorer import load_restorer_faces
from train.restore.restorers.load_restorer import load_restorer

HEIGHT = 640  # of a picture, in pixels
REFERENCES = 4
GOAL = 1.3  # batches should restore at least this many times as many faces per second as the loop


def restore_one_by_one(
    photos: Sequence[Callable[[], Steps[Any]]], batches: FaceBatches, finished: dict[int, Any]
) -> Generator[None]:
    """Takes the place of `restore_in_batches`, without threads."""
    for index, start in enumerate(photos):
        (finished[index],) = run_steps([start()], batches)
        yield


def list_faces(folder: Path, models: FaceModels, count: int) -> tuple[list[Path], list[np.ndarray]]:
    """Returns the references, and `count` other photos that show one face. A photo is repeated if there are too few."""
    people = sorted((one for one in folder.iterdir() if one.is_dir()), key=lambda one: -len(list(one.iterdir())))
    references, singles = list[Path](), list[np.ndarray]()
    for path in (path for person in people for path in sorted(person.iterdir())):
        try:
            image = read_picture(path)
        except BadInput:
            continue
        if len(find_usable_faces(image, models)) != 1:
            continue
        if len(references) < REFERENCES:
            references.append(path)
            continue
        singles.append(image)
        if len(singles) == count:
            break
    return references, list(itertools.islice(itertools.cycle(singles), count))


def write_pictures(singles: Sequence[np.ndarray], count: int, folder: Path) -> None:
    """Writes `count` JPEG pictures, each with some of the photos side by side."""
    folder.mkdir()
    for index, part in enumerate(np.array_split(np.arange(len(singles)), count)):
        tiles = [singles[one] for one in part]
        resized = [cv2.resize(one, (round(one.shape[1] * HEIGHT / one.shape[0]), HEIGHT)) for one in tiles]
        cv2.imwrite(str(folder / f"{index:04}.jpg"), np.hstack(resized)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def time_call(
    pictures: Path, references: list[Path], run: Path, out: Path, alone: bool, batch: int | None
) -> tuple[float, list[np.ndarray], int]:
    """Restores the pictures. Returns the seconds, the restored faces, and the number of faces of all pictures."""
    faces: list[np.ndarray] = []
    began = time.perf_counter()
    with ExitStack() as changes:
        if alone:
            changes.enter_context(patch("train.restore.restore_photos.restore_in_batches", restore_one_by_one))
            changes.enter_context(
                patch("train.restore.restorers.load_restorer.leave_cores", lambda model: nullcontext())
            )
        rows = restore(
            [pictures],
            references,
            run,
            out,
            batch=1 if alone else batch,
            limited=True,
            on_face=lambda path, lq, own, restored: faces.append(restored),
        )
    seconds = time.perf_counter() - began
    return seconds, faces, sum(len(row.faces) for row in rows)


def measure_memory(pictures: Path, references: list[Path], run: Path, count: int, folder: Path) -> dict[str, Any]:
    """Returns the peak memory of a process that restores `count` photos, which are links to the photos of a folder."""
    links = folder / f"links-{count}"
    links.mkdir()
    for index, path in zip(range(count), itertools.cycle(sorted(pictures.iterdir())), strict=False):
        (links / f"{index:05}{path.suffix}").symlink_to(path)
    words = [
        sys.executable,
        __file__,
        str(links),
        str(run),
        "--one",
        str(folder / f"out-{count}"),
        *map(str, references),
    ]
    ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    facts: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return facts


def restore_alone(links: Path, run: Path, out: Path, references: list[Path]) -> None:
    """Restores a folder in this process, and prints the peak memory."""
    rows = restore([links], references, run, out, limited=True)
    peaks = {
        name: round(resource.getrusage(who).ru_maxrss / 1024)
        for name, who in (("peak_mib", resource.RUSAGE_SELF), ("reader_peak_mib", resource.RUSAGE_CHILDREN))
    }
    print(json.dumps({"photos": len(rows), "restored": sum(row.status == "ok" for row in rows), **peaks}))


def compare_ways(
    people: Path, run: Path, faces: int, photos: int, rounds: int, batch: int | None, memory: Sequence[int]
) -> dict[str, Any]:
    """Restores `photos` pictures with `faces` faces in both ways, `rounds` times, and returns the figures.

    `people` has a folder of photos for each person. `batch` is as in `restore`. The peak memory is measured for each
    number of photos in `memory`.
    """
    model = load_restorer(run)
    references, singles = list_faces(people, load_restorer_faces(model.facts, None), faces)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(singles, photos, folder / "pictures")
        write_pictures(singles[: min(len(singles), 100)], min(len(singles), 100), folder / "singles")
        seconds: dict[str, list[float]] = {"batches": [], "one_by_one": []}
        restored: dict[str, list[np.ndarray]] = {}
        found = 0
        for round_ in range(rounds):
            for way in seconds:
                out = folder / f"{way}-{round_}"
                needed, restored[way], found = time_call(
                    folder / "pictures", references, run, out, way == "one_by_one", batch
                )
                seconds[way].append(needed)
                print(f"{way}: {found / needed:.2f} faces/s", file=sys.stderr)
        apart = np.abs(np.stack(restored["batches"]).astype(int) - np.stack(restored["one_by_one"]).astype(int))
        peaks = [measure_memory(folder / "singles", references, run, count, folder) for count in memory]
    rates = {way: found / median(own) for way, own in seconds.items()}
    return {
        "recipe": model.facts.get("recipe"),
        "pixels": model.config.size,
        "photos": photos,
        "faces": found,
        "restored": len(restored["batches"]),
        "threads_of_torch": torch.get_num_threads(),
        "batch": batch or "automatic",
        "faces_per_second": {way: round(rate, 2) for way, rate in rates.items()},
        "seconds_of_each_round": {way: [round(one, 1) for one in own] for way, own in seconds.items()},
        "ratio": round(rates["batches"] / rates["one_by_one"], 2),
        "goal": GOAL,
        "largest_difference": int(apart.max()),
        "share_of_values_that_differ": round(float((apart > 0).mean()), 7),
        "memory": peaks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos_of_people", type=Path, metavar="PHOTOS")
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--faces", type=int, default=200)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--memory", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/restore_batches.json")
    parser.add_argument("--one", nargs="+", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        restore_alone(options.photos_of_people, options.run, options.one[0], options.one[1:])
        return
    if options.rounds < 1 or not 1 <= options.photos <= options.faces:
        parser.error("--rounds must be 1 or more, and --photos must be 1 to --faces.")
    result = compare_ways(
        options.photos_of_people,
        options.run,
        options.faces,
        options.photos,
        options.rounds,
        options.batch,
        options.memory,
    )
    record_result("restore_batches", result, options.keep)


if __name__ == "__main__":
    main()
