"""Measures how long a training needs to start on a large snapshot, its memory, and how fast it draws samples.

    python benchmarks/sampling_scale.py [--targets N] [--plain-targets N] [--keep]

The script writes two synthetic snapshots into a temporary folder. The first has as many targets as `--targets` says,
and the second, which is smaller, as many as `--plain-targets` says. The tables have values for every face. The arrays
of crops, masks, landmarks and embeddings are sparse files, so they take no space, and the system reads them without a
disk. The peer is the plain way: it reads all columns into Python lists, and looks through all people to choose
references of another person. The peer gets the smaller snapshot, and must draw the same samples as Likeness.

Each measurement runs in a process of its own. `start_s` is the time until the first sample is drawn, without imports.
`start_cpu_s` and `samples_per_s` count the processor time of the process, because other programs may run on the
machine. The script reads the memory of the process and of its worker from /proc/PID/smaps_rollup. `private` is the
memory that no other process uses: the sum of Private_Clean and Private_Dirty. `rss` also counts the memory that
processes share, and the pages of mapped files that are in memory. `anonymous` is the memory that is not a page of a
file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from record_result import record_result

from degrade.sampling import make_generator
from manifests.runtime.snapshot_files import (
    CROPS,
    EMBEDDINGS,
    FACES,
    FACTS,
    LANDMARKS,
    LARGE_CROPS,
    VALID,
    VERSION,
    read_faces,
)
from train.data.sampling import MAX_SEED, Sample, draw_sample, find_turn
from train.data.snapshot import FACE_COLUMNS, LARGE_SIZE, load_snapshot

RECIPE = "tiny"
SIZE, DIM = 256, 512  # the side of a crop in pixels, and the length of an embedding
PHOTOS = (2, 8)  # The people have 2, 3, ... 8 photos, so 5 on average.
BATCH_ROWS = 65_536
DRAWS = 3_000  # number of samples in a round of the comparison
ROUNDS = 5
WORKER_IMAGES = 256  # number of images that a worker process prepares before its memory is measured


def write_snapshot(folder: Path, count: int, seed: int = 0) -> None:
    """Writes a snapshot with at least `count` faces, which are all training targets."""
    rng = np.random.default_rng(seed)
    sizes = np.resize(np.arange(PHOTOS[0], PHOTOS[1] + 1), -(-count * 2 // sum(PHOTOS)))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    count = int(starts[-1])
    # The rows of person i are rows_by_person[starts[i]:starts[i + 1]]. The rows of a person are anywhere in the table.
    rows_by_person = rng.permutation(count).astype(np.int32)
    persons = np.empty(count, np.int32)
    persons[rows_by_person] = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    lengths = (sizes - 1)[persons]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    references = np.empty(offsets[-1], np.int32)
    for size in range(PHOTOS[0], PHOTOS[1] + 1):
        groups = rows_by_person[starts[:-1][sizes == size][:, None] + np.arange(size)]
        for own in range(size):
            others = np.delete(groups, own, axis=1)
            references[offsets[groups[:, own]][:, None] + np.arange(size - 1)] = others

    high = np.sort(rng.integers(0, 2**63, count)).astype(">u8")
    ids = np.stack([high, rng.integers(0, 2**63, count).astype(">u8")], 1).tobytes().hex().encode()
    face_ids = pa.StringArray.from_buffers(
        count, pa.py_buffer(np.arange(count + 1, dtype=np.int32) * 32), pa.py_buffer(ids)
    )
    people = pa.array([f"p-{number:012x}" for number in range(len(sizes))])
    resolution = rng.choice(np.array([64, 91, 128, 181], np.int32), count)
    folder.mkdir(parents=True)
    with (folder / FACES).open("wb") as file, pa.ipc.new_file(file, FACE_COLUMNS) as writer:
        for start in range(0, count, BATCH_ROWS):
            end = min(start + BATCH_ROWS, count)
            n = end - start
            columns = {
                "face_id": face_ids.slice(start, n),
                "identity_id": pa.DictionaryArray.from_arrays(persons[start:end], people),
                "split": pa.DictionaryArray.from_arrays(np.zeros(n, np.int8), pa.array(["train"])),
                "is_target": pa.array(np.ones(n, bool)),
                "references": pa.ListArray.from_arrays(
                    (offsets[start : end + 1] - offsets[start]).astype(np.int32),
                    references[offsets[start] : offsets[end]],
                ),
                "upsample": pa.array(np.ones(n, np.float32)),
                "large_row": pa.array(np.full(n, -1, np.int32)),
                "resolution": pa.array(resolution[start:end]),
                "version": pa.nulls(n, pa.int32()),
            }
            writer.write_batch(pa.record_batch([columns[name] for name in FACE_COLUMNS.names], schema=FACE_COLUMNS))
    write_sparse(folder / CROPS, np.uint8, (count, SIZE, SIZE, 3))
    write_sparse(folder / LARGE_CROPS, np.uint8, (0, LARGE_SIZE, LARGE_SIZE, 3))
    write_sparse(folder / VALID, np.uint8, (count, SIZE * SIZE // 8))
    write_sparse(folder / EMBEDDINGS, np.float32, (count, DIM))
    write_sparse(folder / LANDMARKS, np.float32, (count, 5, 2))
    facts = {"version": VERSION, "hash": "synthetic", "config": {"size": SIZE}}
    (folder / FACTS).write_text(json.dumps(facts))


def write_sparse(path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    """Writes an .npy file of zeros that takes no space on the disk."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        )
        file.truncate(file.tell() + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)


def read_memory(pid: int) -> dict[str, float]:
    """Returns the resident and the private memory of a process in GiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {
        "rss_gib": round(kib["Rss"] / 2**20, 3),
        "private_gib": round((kib["Private_Clean"] + kib["Private_Dirty"]) / 2**20, 3),
        "anonymous_gib": round(kib["Anonymous"] / 2**20, 3),
    }


class PlainFaces:
    """Reads all columns of a snapshot into Python lists, and draws samples from the lists.

    Likeness drew samples in this way before 2026-11-30. Embeddings are left out.
    """

    def __init__(self, folder: Path) -> None:
        from train.recipes.recipes import find_recipe

        self.recipe = find_recipe(RECIPE)
        columns = read_faces(folder / FACES).to_pydict()
        self.face_ids, self.identity_ids, self.splits = (columns[n] for n in ("face_id", "identity_id", "split"))
        self.references = [np.array(rows, np.int64) for rows in columns["references"]]
        resolution = np.array(columns["resolution"], np.int64)
        is_target = np.array(columns["is_target"], bool)
        targets = np.array([i for i, s in enumerate(self.splits) if s == "train" and is_target[i]], np.int64)
        fine = targets[resolution[targets] >= SIZE // 2]
        self.targets = np.sort(np.concatenate([targets, np.repeat(fine, self.recipe.fine_repeats - 1)]))
        people: dict[str, list[int]] = {}
        for row, person in enumerate(self.identity_ids):
            people.setdefault(person, []).append(row)
        self.people = {person: np.array(rows, np.int64) for person, rows in sorted(people.items())}

    def draw(self, index: int) -> Sample:
        target, turn = find_turn(self.targets, 0, index)
        rng = make_generator(0, "train", "sample", turn, self.face_ids[target])
        possible = self.references[target]
        count = min(int(rng.choice(np.asarray(self.recipe.reference_counts))), len(possible))
        flip, wrong = bool(rng.integers(2)), bool(rng.uniform() < self.recipe.wrong_share)
        strangers: list[str] = []
        if wrong and count:
            own = self.identity_ids[target]
            strangers = [person for person, rows in self.people.items() if person != own and len(rows) >= count]
        if strangers:
            possible = self.people[strangers[int(rng.integers(len(strangers)))]]
        references = tuple(int(row) for row in rng.choice(possible, count, replace=False))
        seeds = tuple(int(s) for s in rng.integers(MAX_SEED, size=count)) if self.recipe.augment == "each" else ()
        return Sample(target, references, flip, not strangers, seeds, turn)


class MappedFaces:
    """Draws samples as `likeness train` does."""

    def __init__(self, folder: Path) -> None:
        from train.data.dataset import TrainingFaces
        from train.recipes.recipes import find_recipe

        self.faces = TrainingFaces(load_snapshot(folder), find_recipe(RECIPE), 0)

    def draw(self, index: int) -> Sample:
        return draw_sample(self.faces.snapshot, self.faces.targets, self.faces.recipe, 0, index)


def answer_questions(folder: Path, way: str) -> None:
    """Opens the snapshot, and then serves a process that measures. Each line of standard input is a request, and each
    line of standard output is the answer to it."""
    import train.data.dataset as data
    from train.data.augment import check_albumentations

    check_albumentations()  # imports albumentations before the clock starts
    began, began_cpu = time.monotonic(), time.process_time()
    faces = PlainFaces(folder) if way == "plain" else MappedFaces(folder)
    faces.draw(0)
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - began_cpu
    print(json.dumps({"start_s": round(seconds, 2), "start_cpu_s": round(cpu_seconds, 2)}), flush=True)
    drawn = 0
    for question in sys.stdin:
        if question.strip() == "draw":
            samples, began = [], time.process_time()
            for index in range(drawn, drawn + DRAWS):
                samples.append(faces.draw(index))
            seconds, drawn = time.process_time() - began, drawn + DRAWS
            digest = hashlib.sha256(repr(samples).encode()).hexdigest()
            print(json.dumps({"samples_per_s": DRAWS / seconds, "digest": digest}), flush=True)
        else:
            assert isinstance(faces, MappedFaces)
            stream = data.batches(faces.faces, 0, 8, 1)
            for _ in range(WORKER_IMAGES // 8):
                next(stream)
            (worker,) = multiprocessing.active_children()
            print(json.dumps({"worker": worker.pid}), flush=True)


class Measurement:
    """A process that answers questions about one snapshot."""

    def __init__(self, folder: Path, way: str) -> None:
        command = [sys.executable, __file__, "--answer", str(folder), "--way", way]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.start = self._read()

    def ask(self, question: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("A measurement ended with an error.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(targets: int, plain_targets: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        small, large = Path(temporary, "small"), Path(temporary, "large")
        write_snapshot(small, plain_targets)
        write_snapshot(large, targets)

        # Both ways draw the same samples, in turns.
        plain, mapped = Measurement(small, "plain"), Measurement(small, "mapped")
        speeds: dict[str, list[float]] = {"plain": [], "mapped": []}
        for _ in range(ROUNDS):
            answers = {"plain": plain.ask("draw"), "mapped": mapped.ask("draw")}
            if answers["plain"]["digest"] != answers["mapped"]["digest"]:
                raise SystemExit("The two ways drew different samples.")
            for way, answer in answers.items():
                speeds[way].append(answer["samples_per_s"])
        for way, measurement in (("plain", plain), ("mapped", mapped)):
            result[f"{plain_targets}_{way}"] = {
                **measurement.start,
                "process": read_memory(measurement.process.pid),
                "samples_per_s": round(median(speeds[way])),
            }
            measurement.end()

        mapped = Measurement(large, "mapped")
        rates = [mapped.ask("draw")["samples_per_s"] for _ in range(ROUNDS)]
        process = read_memory(mapped.process.pid)
        worker = mapped.ask("worker")["worker"]
        result[f"{targets}_mapped"] = {
            **mapped.start,
            "process": process,
            "worker": read_memory(worker),
            "samples_per_s": round(median(rates)),
            "faces_file_gib": round((large / FACES).stat().st_size / 2**30, 2),
        }
        mapped.end()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=5_000_000)
    parser.add_argument("--plain-targets", type=int, default=100_000)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/sampling_scale.json")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer_questions(options.answer, options.way)
    else:
        record_result("sampling_scale", measure(options.targets, options.plain_targets), options.keep)


if __name__ == "__main__":
    main()
