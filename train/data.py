"""What the trainer sees: sample number i of a run, the same bytes on any machine and at any worker count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from degrade.operations import apply, to_float, to_uint8
from degrade.presets import find_preset, seeded
from manifests.errors import BadInput
from train.recipes import Recipe
from train.snapshot import Snapshot, load_snapshot

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sample:
    """What was decided for one sample before any pixel was touched."""

    target: int  # row
    references: tuple[int, ...]  # rows, as many as were drawn
    flip: bool  # target and references together, so that a lopsided face stays consistent


def draw_sample(snapshot: Snapshot, targets: np.ndarray, counts: tuple[int, ...], seed: int, index: int) -> Sample:
    """Sample number `index` (images seen so far): the target by an epoch's permutation, the rest by its own draw."""
    epoch, place = divmod(index, len(targets))
    target = int(targets[_order(seed, epoch, len(targets))[place]])
    rng = seeded(seed, "train", "sample", index)
    count = int(rng.choice(np.asarray(counts)))
    known = snapshot.references[target]
    chosen = rng.choice(known, min(count, len(known)), replace=False)
    return Sample(target, tuple(int(row) for row in chosen), bool(rng.integers(2)))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return seeded(seed, "train", "epoch", epoch).permutation(count)


class TrainingFaces(Dataset[Batch]):
    """Sample `index` as uint8 tensors: lq and target (3,S,S), references (Kmax,3,S,S); present (Kmax,) bool;
    embeddings (Kmax,d) float32; row, the target's row. Empty slots are zero."""

    def __init__(self, snapshot: Snapshot, recipe: Recipe, seed: int, split: str = "train") -> None:
        if snapshot.size != recipe.size:
            raise BadInput(
                f"{snapshot.folder} holds {snapshot.size} px crops and recipe {recipe.name} wants {recipe.size}: "
                "take a snapshot for it."
            )
        self.folder, self.seed, self.counts = snapshot.folder, seed, recipe.reference_counts
        self.targets = snapshot.targets(split)
        self.preset = find_preset(recipe.preset)
        self._snapshot: Snapshot | None = snapshot

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_snapshot": None}  # a worker maps the files itself

    @property
    def snapshot(self) -> Snapshot:
        if self._snapshot is None:
            self._snapshot = load_snapshot(self.folder)
        return self._snapshot

    def __getitem__(self, index: int) -> Batch:
        sample = draw_sample(self.snapshot, self.targets, self.counts, self.seed, index)
        theta = self.preset.sample(seeded(self.seed, "train", "degrade", index))
        return pack(
            self.snapshot, sample, to_uint8(apply(to_float(_crop(self.snapshot, sample)), theta)), max(self.counts)
        )


def _crop(snapshot: Snapshot, sample: Sample) -> np.ndarray:
    return _flipped(snapshot.crops[sample.target], sample.flip)


def _flipped(crop: np.ndarray, flip: bool) -> np.ndarray:
    return np.array(crop[:, ::-1] if flip else crop)  # a copy: the file is mapped read-only


def pack(snapshot: Snapshot, sample: Sample, lq: np.ndarray, slots: int) -> Batch:
    """The tensors of a sample whose low-quality picture (S,S,3) uint8 is given."""
    size, dim = snapshot.size, snapshot.embeddings.shape[1]
    references = np.zeros((slots, size, size, 3), np.uint8)
    embeddings = np.zeros((slots, dim), np.float32)
    for slot, row in enumerate(sample.references):
        references[slot] = _flipped(snapshot.crops[row], sample.flip)
        embeddings[slot] = snapshot.embeddings[row]
    return {
        "lq": torch.from_numpy(lq).permute(2, 0, 1).contiguous(),
        "target": torch.from_numpy(_crop(snapshot, sample)).permute(2, 0, 1).contiguous(),
        "references": torch.from_numpy(references).permute(0, 3, 1, 2).contiguous(),
        "present": torch.arange(slots) < len(sample.references),
        "embeddings": torch.from_numpy(embeddings),
        "row": torch.tensor(sample.target),
    }


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Pictures as float32 in 0..1 on the device."""
    moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    return {n: t.float() / 255 if t.dtype == torch.uint8 else t for n, t in moved.items()}


def batches(
    faces: TrainingFaces, start: int, batch: int, workers: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Batches for ever, the first one beginning with sample `start`."""

    def indices() -> Iterator[list[int]]:
        first = start
        while True:
            share = batch // world
            yield list(range(first + rank * share, first + (rank + 1) * share))
            first += batch

    loader: DataLoader[Batch] = DataLoader(
        faces,
        batch_sampler=_Endless(indices),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread,
    )
    return iter(loader)


class _Endless(torch.utils.data.Sampler[list[int]]):
    def __init__(self, indices) -> None:  # type: ignore[no-untyped-def]
        self._indices = indices

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._indices())


def _one_thread(_: int) -> None:
    import signal

    import cv2

    cv2.setNumThreads(0)
    # the trainer decides when to stop: a signal to the whole process group must not end its workers first
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)


def fixed_batch(faces: TrainingFaces, split: str, count: int, references: int) -> Batch | None:
    """The same few pictures of a split every time, spread over its people, with up to `references` references each.

    None where the split has no target. No flips; θ is keyed by the face, so that two runs show the same pictures.
    """
    snapshot = faces.snapshot
    by_person: dict[str, list[int]] = {}
    for row in snapshot.targets(split):
        by_person.setdefault(snapshot.identity_ids[row], []).append(int(row))
    turns = [rows[turn] for turn in range(count) for rows in by_person.values() if turn < len(rows)]
    if not turns:
        return None
    packed = []
    for row in turns[:count]:
        sample = Sample(row, tuple(int(r) for r in snapshot.references[row][:references]), False)
        theta = faces.preset.sample(seeded("sample grid", snapshot.face_ids[row]))
        packed.append(pack(snapshot, sample, to_uint8(apply(to_float(_crop(snapshot, sample)), theta)), references))
    return {name: torch.stack([one[name] for one in packed]) for name in packed[0]}
