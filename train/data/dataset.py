"""Builds the samples and batches of training.

Sample number i of a run has the same bytes on every machine and with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from curate.faces.errors import FaceModelError
from curate.faces.interface import FaceDetector
from degrade.operations.apply import apply
from degrade.operations.pixels import to_float, to_uint8
from degrade.presets import find_preset
from degrade.sampling import make_generator
from degrade.theta import Theta
from manifests.errors import BadInput
from train.data.augment import augmented, check_augment
from train.data.landmarks import find_landmarks
from train.data.sampling import MILD, Sample, draw_sample, draw_theta, drawn_mildly
from train.data.snapshot import Snapshot, load_snapshot
from train.data.warp import warp_to
from train.models.io import Places, find_places
from train.recipes import Recipe

Batch = dict[str, Any]  # tensors by name; `theta` is a list of Theta objects


class TrainingFaces(Dataset[Batch]):
    """Builds the samples of a run: item `index` is a target face with its LQ image and its references.

    Every sample is a dict. `lq` and `target` are (3,S,S) uint8. `references` is (Kmax,3,S,S) uint8, and `embeddings` is
    (Kmax,d) float32; both are zero in empty slots. `present`, (Kmax,) bool, is True if the slot has a reference. `row`
    is the row of the target in the snapshot. `right`, bool, is False if the references show another person.
    `landmarks`, (5,2) float32, are the landmarks of the target in pixels.

    If the recipe warps the references, a sample also has `found` and `warped`. `found` is True if the detector found
    landmarks on the LQ image. `warped`, (Kmax,) bool, is True for each reference that was warped to these landmarks. If
    the recipe has the loss `cycle`, a sample has `theta`, the parameters of its degradation. If the recipe has several
    steps, a sample has `step`, the number of the step that learns from the sample.

    Raises BadInput if the snapshot has another size than the recipe. Raises FaceModelError if the recipe warps the
    references and the detector cannot be loaded.
    """

    def __init__(self, snapshot: Snapshot, recipe: Recipe, seed: int, split: str = "train") -> None:
        if snapshot.size != recipe.size:
            raise BadInput(
                f"{snapshot.folder} holds {snapshot.size} px crops and recipe {recipe.name} wants {recipe.size}: "
                "take a snapshot for it."
            )
        if recipe.augment == "each":
            check_augment()
        self.folder, self.seed, self.recipe = snapshot.folder, seed, recipe
        self.targets = snapshot.targets(split)
        self.preset = find_preset(recipe.preset)
        self._snapshot: Snapshot | None = snapshot
        self._finder: FaceDetector | None = None
        if self.warps:
            self._finder = snapshot.load_finder()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_snapshot": None, "_finder": None}  # each worker opens the files itself

    @property
    def warps(self) -> bool:
        """Returns True if the recipe warps the references to the landmarks that the detector finds on the LQ image."""
        return "warped" in self.recipe.parts

    @property
    def snapshot(self) -> Snapshot:
        if self._snapshot is None:
            self._snapshot = load_snapshot(self.folder)
        return self._snapshot

    def __getitem__(self, index: int) -> Batch:
        sample = draw_sample(self.snapshot, self.targets, self.recipe, self.seed, index)
        epoch, face_id = index // len(self.targets), self.snapshot.face_ids[sample.target]
        preset = MILD if drawn_mildly(self.recipe, self.seed, epoch, face_id) else self.preset
        return self.pack(sample, draw_theta(preset, self.seed, epoch, face_id), max(self.recipe.reference_counts))

    def pack(self, sample: Sample, theta: Theta, slots: int) -> Batch:
        """Returns the tensors of a sample with `slots` reference slots; `theta` makes the LQ image from the target."""
        snapshot, size = self.snapshot, self.snapshot.size
        target, landmarks = _turned(snapshot, sample.target, sample.flip)
        lq = to_uint8(apply(to_float(target), theta))
        seen_at = self._landmarks_on(lq) if self.warps else None
        references = np.zeros((slots, size, size, 3), np.uint8)
        embeddings = np.zeros((slots, snapshot.embeddings.shape[1]), np.float32)
        warped = np.zeros(slots, bool)
        for slot, row in enumerate(sample.references):
            crop, points = _turned(snapshot, row, sample.flip)
            if sample.seeds:
                crop, points = augmented(crop, points, sample.seeds[slot])
            if seen_at is not None:
                with suppress(ValueError):  # if the warp is refused, the reference stays as aligned
                    crop, warped[slot] = warp_to(crop, points, seen_at), True
            references[slot] = crop
            embeddings[slot] = snapshot.embeddings[row]  # the embedding is from the photo without augmentation
        packed: Batch = {
            "lq": torch.from_numpy(lq).permute(2, 0, 1).contiguous(),
            "target": torch.from_numpy(target).permute(2, 0, 1).contiguous(),
            "references": torch.from_numpy(references).permute(0, 3, 1, 2).contiguous(),
            "present": torch.arange(slots) < len(sample.references),
            "embeddings": torch.from_numpy(embeddings),
            "row": torch.tensor(sample.target),
            "right": torch.tensor(sample.right),
            "landmarks": torch.from_numpy(landmarks),
        }
        if self.warps:
            packed["found"] = torch.tensor(seen_at is not None)
            packed["warped"] = torch.from_numpy(warped)
        if "cycle" in self.recipe.losses:
            packed["theta"] = theta
        if self.recipe.steps > 1:
            packed["step"] = torch.tensor(sample.step)
        return packed

    def _landmarks_on(self, lq: np.ndarray) -> np.ndarray | None:
        if self._finder is None:
            self._finder = self.snapshot.load_finder()
        return find_landmarks(lq, self._finder)


def warping(snapshot: Snapshot, recipe: Recipe) -> str:
    """Returns a notice if the recipe warps its references and the snapshot has no detector, or else "".

    Raises BadInput if the recipe warps its references and no detector can be loaded.
    """
    if "warped" not in recipe.parts:
        return ""
    spec = snapshot.recognizer["spec"]
    try:
        snapshot.load_finder()
    except FaceModelError as error:
        raise BadInput(
            f"Recipe {recipe.name} warps references to landmarks found on the input, and what finds them, {spec}, "
            f"cannot be loaded: {error}"
        ) from error
    if snapshot.detector_onnx is not None:
        return ""
    return f"Notice: the snapshot carries no detector, so landmarks are found by {spec} as it is on this machine."


def _turned(snapshot: Snapshot, row: int, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the crop and the landmarks of a row, mirrored if `flip` is True.

    In a mirrored crop, the two eyes and the two mouth corners are swapped in the landmarks. The landmark on the left of
    the crop is then first again.
    """
    crop, points = np.array(snapshot.crops[row]), snapshot.landmarks[row]  # a copy, because the file is read-only
    if not flip:
        return crop, points.copy()
    turned = points[[1, 0, 2, 4, 3]]
    turned[:, 0] = snapshot.size - 1 - turned[:, 0]
    return np.ascontiguousarray(crop[:, ::-1]), turned


def collate(samples: list[Batch]) -> Batch:
    """Returns a batch of the samples: the tensors are stacked, and `theta` becomes a list."""
    return {
        name: [one[name] for one in samples] if name == "theta" else torch.stack([one[name] for one in samples])
        for name in samples[0]
    }


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Returns the batch on the device, with images as float32 in 0..1; `theta` and `row` stay on the CPU.

    The function computes two more entries on the CPU: `places` (see `find_places`) and `usable_rows`. `usable_rows` has
    one tensor for each reference slot, (n,) int64. The tensor lists the images of the batch that have a reference of
    the target's person in this slot.
    """
    if "present" in batch and batch["present"].device.type == "cpu":
        usable = batch["present"] & batch["right"][:, None] if "right" in batch else batch["present"]
        rows = [slot.nonzero()[:, 0] for slot in usable.unbind(1)]
        batch = {**batch, "places": find_places(batch["present"], batch.get("step")), "usable_rows": rows}

    def moved(value: Any) -> Any:
        if isinstance(value, Places):
            return Places(*(moved(tensor) for tensor in value))
        if isinstance(value, list) and all(isinstance(part, torch.Tensor) for part in value):
            return [moved(part) for part in value]
        if not isinstance(value, torch.Tensor):
            return value
        there = value.to(device, non_blocking=True)
        return there.float() / 255 if there.dtype == torch.uint8 else there

    return {name: value if name == "row" else moved(value) for name, value in batch.items()}


def batches(
    faces: TrainingFaces, start: int, batch: int, workers: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Returns an endless iterator of batches; the first batch starts with sample `start`.

    `batch` is the number of samples in a batch of all `world` processes. The process `rank` gets its equal share.
    """

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
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin_worker,
    )
    return iter(loader)


class _Endless(torch.utils.data.Sampler[list[int]]):
    def __init__(self, indices) -> None:  # type: ignore[no-untyped-def]
        self._indices = indices

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._indices())


def _begin_worker(_: int) -> None:
    import signal

    import cv2

    cv2.setNumThreads(0)
    worker = get_worker_info()
    assert worker is not None
    worker.dataset._finder = None  # type: ignore[attr-defined]  # a session of onnxruntime does not survive a fork
    # The trainer decides when to stop. A signal to the whole process group must not end the workers before the trainer.
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)


def fixed_batch(faces: TrainingFaces, split: str, count: int, references: int) -> Batch | None:
    """Returns a batch of up to `count` targets of a split, with up to `references` references each.

    The batch is the same at every call. The targets come from as many people as possible, and no image is mirrored.
    The face id determines the degradation, so that two runs show the same pictures. Returns None if the split has no
    target.
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
        theta = faces.preset.sample(make_generator("sample grid", snapshot.face_ids[row]))
        packed.append(faces.pack(sample, theta, references))
    return collate(packed)
