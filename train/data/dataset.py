"""Builds the samples and batches of training.

Sample number i of a run has the same bytes on every machine and with any number of workers. If the degradation runs on
the device of the training, the workers deliver the clean image, and train/data/to_device.py makes the LQ image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from traceback import clear_frames
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from curate.faces.align import MIRRORED_LANDMARKS
from curate.faces.errors import FaceModelError
from curate.faces.interface import FaceDetector
from degrade.operations.apply import apply
from degrade.operations.pixels import shrink, to_float, to_uint8
from degrade.sampling import make_generator
from degrade.theta import Theta
from manifests.errors import BadInput
from train.data.augment import augment_reference, check_albumentations
from train.data.landmarks import find_landmarks
from train.data.mesh import MESH, check_landmark_model, find_warp_points, warp_reference, warps_references
from train.data.sampling import (
    Sample,
    draw_gray,
    draw_identity_map,
    draw_preset_name,
    draw_sample,
    draw_theta,
    repeat_fine_targets,
)
from train.data.snapshot import Snapshot, reopen_snapshot
from train.recipes.model_configs import encodes_targets, find_encoder_shape
from train.recipes.recipes import Recipe
from train.recipes.training_presets import find_training_preset

Batch = dict[str, Any]  # tensors by name; `theta` is a list of Theta objects


class TrainingFaces(Dataset[Batch]):
    """Builds the samples of a run: item `index` is a target face with its LQ image and its references.

    Every sample is a dict. `lq` and `target` are (3,S,S) uint8. `references` is (Kmax,3,S,S) uint8, where Kmax is the
    recipe's largest number of references. `embeddings`, (Kmax,d) float32, are the embeddings of the references. Empty
    slots are zero in `references` and in `embeddings`. `present`, (Kmax,) bool, is True for each slot that has a
    reference. `row` is the row of the target in the snapshot. `right`, bool, is False if the references show another
    person. `landmarks`, (5,2) float32, are the landmarks of the target in pixels. `valid`, (1,S,S) bool, is False for
    pixels of the crop that lie outside its photo. `upsample`, float32, is the number of crop pixels per photo pixel
    along a side.

    If the recipe warps the references, a sample also has `found` and `warped`. `found` is True if landmarks for the
    warp were found on the LQ image. `warped`, (Kmax,) bool, is True for each reference that was warped to the landmarks
    on the LQ image. If the recipe uses IR-SE50, a sample has `unwarped`, (Kmax,3,S,S) uint8: the references before
    augmentation and warp, some of them mirrored. If the recipe has the loss `cycle`, a sample has `theta`, the
    parameters of its degradation. If the recipe has `identity_jitter`, a sample has `identity_map`, (2,3) float32, see
    `draw_identity_map`. If a training step encodes the targets, a sample has `target_hash`, (2,) int64, a
    hash of the pixels of the target.

    If `on_device` is True, a sample has no `lq`. In its place, the sample has `source`, (3,S',S') uint8, the image that
    `to_device` degrades, and `theta`. If a recipe warps the references, `on_device` must be False, because the detector
    needs the LQ image in the worker process.

    Raises BadInput if the snapshot and the recipe have different crop sizes. Raises FaceModelError if the recipe warps
    the references and the detector cannot be loaded.
    """

    def __init__(
        self, snapshot: Snapshot, recipe: Recipe, seed: int, split: str = "train", on_device: bool = False
    ) -> None:
        if snapshot.size != recipe.size:
            raise BadInput(
                f"The crops in {snapshot.folder} have {snapshot.size} px, but recipe {recipe.name} needs crops of "
                f"{recipe.size} px: give the dataset instead of the snapshot, or take another snapshot for this recipe."
            )
        if recipe.augment == "each":
            check_albumentations()
        self.folder, self.seed, self.recipe, self.on_device = snapshot.folder, seed, recipe, on_device
        self.snapshot_hash = snapshot.hash
        self.targets, self.fine_from = repeat_fine_targets(snapshot, split, recipe)
        names = (recipe.preset, *recipe.mixture)
        self.presets = {name: find_training_preset(name, recipe.presets) for name in names}
        self._snapshot: Snapshot | None = snapshot
        if recipe.wrong_share:
            _ = snapshot.people  # computed once here, because worker processes that are forked later share the result
        self._detector: FaceDetector | None = None
        if self.warps_references:
            self._detector = snapshot.load_detector()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_snapshot": None, "_detector": None}  # each worker process opens the files itself

    @property
    def warps_references(self) -> bool:
        """Returns True if the recipe warps the references to the landmarks that the detector finds on the LQ image."""
        return warps_references(self.recipe.parts)

    @property
    def snapshot(self) -> Snapshot:
        if self._snapshot is None:
            self._snapshot = reopen_snapshot(self.folder, self.snapshot_hash)
        return self._snapshot

    def __getitem__(self, index: int) -> Batch:
        sample = draw_sample(self.snapshot, self.targets, self.recipe, self.seed, index)
        turn, face_id = sample.turn, self.snapshot.face_ids[sample.target]
        is_fine = bool(self.snapshot.resolution[sample.target] >= self.fine_from)
        preset = self.presets[draw_preset_name(self.recipe, self.seed, turn, face_id, is_fine)]
        theta = draw_theta(preset, self.seed, turn, face_id)
        gray = draw_gray(self.recipe, self.seed, turn, face_id)
        # The cycle loss degrades the restored face, at the size of the crop, with the θ of the target. Therefore the
        # target is also degraded at this size and not at 512 px.
        large = "cycle" not in self.recipe.losses
        packed = self.pack(sample, theta, max(self.recipe.reference_counts), gray, large, self.on_device)
        if self.recipe.identity_jitter:
            identity_map = draw_identity_map(self.recipe, self.seed, turn, face_id)
            packed["identity_map"] = torch.from_numpy(identity_map)
        return packed

    def pack(
        self,
        sample: Sample,
        theta: Theta,
        slots: int,
        gray: bool = False,
        large: bool = False,
        on_device: bool = False,
    ) -> Batch:
        """Returns the tensors of a sample with `slots` reference slots.

        The LQ image is the target, degraded with the parameters `theta`. If `gray` is True, the target and the LQ image
        are gray. If `large` is True and the snapshot has a crop of the target at 512 px, this larger crop is degraded
        and then shrunk. If `on_device` is True, the sample has the image to degrade in place of the LQ image.
        """
        snapshot, size = self.snapshot, self.snapshot.size
        target, landmarks = _read_face(snapshot, sample.target, sample.flip)
        source, large_row = target, snapshot.large_rows[sample.target]
        if large and large_row >= 0:
            source = np.array(snapshot.large_crops[large_row])
            source = cv2.flip(source, 1) if sample.flip else source
        if gray:
            target, source = _to_gray(target), _to_gray(source)
        valid = snapshot.valid(sample.target)
        valid = np.ascontiguousarray(valid[:, ::-1]) if sample.flip else valid
        lq = None if on_device else shrink(to_uint8(apply(to_float(source), theta)), size)
        parts = self.recipe.parts
        to = None
        if self.warps_references:
            assert lq is not None  # ensured by train.fit.settings.resolve_degrade_on
            to = find_warp_points(parts, lq, self._find_lq_landmarks(lq))
        references = np.zeros((slots, size, size, 3), np.uint8)
        embeddings = np.zeros((slots, snapshot.embeddings.shape[1]), np.float32)
        warped = np.zeros(slots, bool)
        unwarped = np.zeros_like(references) if find_encoder_shape(self.recipe) is not None else None
        for slot, row in enumerate(sample.references):
            crop, points = _read_face(snapshot, row, sample.flip)
            if unwarped is not None:
                unwarped[slot] = _read_face(snapshot, row, bool(sample.mirrors) and sample.mirrors[slot])[0]
            if sample.seeds:
                crop, points = augment_reference(crop, points, sample.seeds[slot])
            own = find_warp_points(parts, crop, points) if to is not None else None
            moved = warp_reference(parts, crop, own, to)
            warped[slot] = moved is not None
            references[slot] = crop if moved is None else moved
            embeddings[slot] = snapshot.embeddings[row]  # the embedding of the crop before augmentation
        name, degraded = ("source", source) if lq is None else ("lq", lq)
        packed: Batch = {
            name: torch.from_numpy(degraded).permute(2, 0, 1).contiguous(),
            "target": torch.from_numpy(target).permute(2, 0, 1).contiguous(),
            "references": torch.from_numpy(references).permute(0, 3, 1, 2).contiguous(),
            "present": torch.arange(slots) < len(sample.references),
            "embeddings": torch.from_numpy(embeddings),
            "row": torch.tensor(sample.target),
            "right": torch.tensor(sample.right),
            "landmarks": torch.from_numpy(landmarks),
            "valid": torch.from_numpy(valid)[None],
            "upsample": torch.tensor(float(snapshot.upsample[sample.target])),
        }
        if self.warps_references:
            packed["found"] = torch.tensor(to is not None)
            packed["warped"] = torch.from_numpy(warped)
        if unwarped is not None:
            packed["unwarped"] = torch.from_numpy(unwarped).permute(0, 3, 1, 2).contiguous()
        if "cycle" in self.recipe.losses or on_device:
            packed["theta"] = theta
        if encodes_targets(self.recipe):
            packed["target_hash"] = _hash_pixels(target)
        return packed

    def _find_lq_landmarks(self, lq: np.ndarray) -> np.ndarray | None:
        if self._detector is None:
            self._detector = self.snapshot.load_detector()
        return find_landmarks(lq, self._detector)


def check_detector(snapshot: Snapshot, recipe: Recipe) -> str:
    """If the recipe warps references, checks that a face detector can be loaded.

    Returns a notice if the recipe needs a detector and the snapshot contains no detector, otherwise "". Raises BadInput
    if the recipe needs a detector and no detector can be loaded, or if the recipe needs dlib's landmarks and dlib is
    not installed.
    """
    if not warps_references(recipe.parts):
        return ""
    if MESH in recipe.parts:
        check_landmark_model(f"Recipe {recipe.name}")
    spec = snapshot.recognizer["spec"]
    try:
        snapshot.load_detector()
    except FaceModelError as error:
        raise BadInput(
            f"Recipe {recipe.name} needs a face detector to warp references, but the detector of {spec} cannot be "
            f"loaded: {error}"
        ) from error
    if snapshot.detector_onnx is not None:
        return ""
    return f"Notice: the snapshot contains no detector, so the detector of {spec} on this machine finds the landmarks."


def _read_face(snapshot: Snapshot, row: int, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the crop and the landmarks of a row, mirrored if `flip` is True.

    Mirroring exchanges left and right. Therefore the two eyes change places in the list of landmarks, and the two mouth
    corners change places. The eye on the left of the crop is always first.
    """
    crop, points = (
        np.array(snapshot.crops[row]),
        snapshot.landmarks[row],
    )  # copied, because the file is read-only
    if not flip:
        return crop, points.copy()
    mirrored = points[MIRRORED_LANDMARKS]
    mirrored[:, 0] = snapshot.size - 1 - mirrored[:, 0]
    return cv2.flip(crop, 1), mirrored


def _hash_pixels(image: np.ndarray) -> torch.Tensor:
    """Returns a hash of 128 bits as two numbers, (2,) int64."""
    return torch.from_numpy(np.frombuffer(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), np.int64).copy())


def _to_gray(image: np.ndarray) -> np.ndarray:
    """Returns the image with its luma (BT.601) in all channels, uint8 (S,S,3)."""
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)


def collate(samples: list[Batch]) -> Batch:
    """Returns the samples as one batch. The tensors are stacked. The values of `theta` and `source` become lists,
    because two sources can differ in size."""
    return {
        name: [one[name] for one in samples]
        if name in ("theta", "source")
        else torch.stack([one[name] for one in samples])
        for name in samples[0]
    }


def batches(
    faces: TrainingFaces, start: int, batch: int, workers: int, rank: int = 0, world: int = 1
) -> Generator[Batch, None, None]:
    """Returns an endless generator of batches. The first batch starts with sample `start`.

    `batch` is the number of samples that all `world` processes together get in a batch. Each process gets an equal
    share, and the generator yields the share of the process `rank`. Closing the generator ends the worker processes.
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
    return _read_ahead(iter(loader)) if workers else (one for one in loader)


def _read_ahead(stream: Iterator[Batch]) -> Generator[Batch, None, None]:
    """Yields the batches of an endless stream. A thread reads the next batch while the caller uses the current batch.

    The training process requests each tensor of a batch from a worker process. The worker process answers a request
    only between two steps of its own work. Without the thread, the training would wait for these answers.
    """
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(next, stream)]
        while True:
            # `pop` removes the Future before `result` raises an error of a worker process. Otherwise there would be a
            # cycle of references: this frame holds the Future, the Future holds the error, and the error holds this
            # frame.
            try:
                batch = coming.pop().result()
            except Exception as error:
                # `stream` ends its worker processes when no reference to `stream` is left. The frames of an unhandled
                # error would keep such references until the program ends, and the program waits for the worker
                # processes.
                clear_frames(error.__traceback__)
                del stream
                raise
            coming.append(pool.submit(next, stream))
            yield batch


class _Endless(torch.utils.data.Sampler[list[int]]):
    def __init__(self, indices) -> None:  # type: ignore[no-untyped-def]
        self._indices = indices

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._indices())


def _begin_worker(_: int) -> None:
    import signal

    cv2.setNumThreads(0)
    worker = get_worker_info()
    assert worker is not None
    worker.dataset._detector = None  # type: ignore[attr-defined]  # a session of onnxruntime cannot be used after a fork
    # The workers ignore SIGINT and SIGTERM, because only the trainer decides when to stop. Otherwise a signal to the
    # whole process group would end the workers before the trainer.
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)


def fixed_batch(faces: TrainingFaces, split: str, count: int, references: int) -> Batch | None:
    """Returns a batch of up to `count` targets of a split, with up to `references` references each.

    The batch is the same at every call. The targets come from as many people as possible, and no image is mirrored. The
    degradation of a target depends only on its face id, so two runs of a recipe show the same pictures. Returns None if
    the split has no target.
    """
    snapshot = faces.snapshot
    targets = snapshot.targets(split)
    if not len(targets):
        return None
    packed = []
    for row in _alternate_people(snapshot.person_numbers[targets], targets)[:count].tolist():
        sample = Sample(row, tuple(int(r) for r in snapshot.references[row][:references]), False)
        theta = faces.presets[faces.recipe.preset].sample(make_generator("sample grid", snapshot.face_ids[row]))
        packed.append(faces.pack(sample, theta, references))
    return collate(packed)


def _alternate_people(persons: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns `rows` in a new order: first one row of each person, then a second row of each person, and so on.

    `persons` has the number of the person of each row. The people come in the order of their first rows.
    """
    _, first, person = np.unique(persons, return_index=True, return_inverse=True)
    by_person = np.argsort(person, kind="stable")
    turns = np.empty(len(rows), np.int64)
    turns[by_person] = np.arange(len(rows)) - np.searchsorted(person[by_person], person[by_person])
    return rows[np.lexsort((first[person], turns))]
