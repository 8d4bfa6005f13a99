"""Photos -> faces: found, aligned, measured, screened; crops are written for accepted faces only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from curate.faces import measure
from curate.faces.align import FFHQ_512, FFHQ_SIZE, align, scale_of, similarity
from curate.faces.decode import UndecodableImage, decode
from curate.faces.errors import FaceModelError
from curate.faces.models import Detection, FaceModels, load_faces
from curate.screen import screen
from manifests.filters import FilterSet
from manifests.records import Face, Photo
from manifests.storage import crop_path, path_of, sha256_bytes, write_atomically

VANISHED = "file_vanished_or_changed"
REDETECTED = "not_found_again"  # by another detector than the one that found it

FACES_A_SCREENING = 64  # a question to the filters costs 2 ms however many faces it is about; 64 crops are 50 MB

# a worker keeps its models between batches; every process has its own
cached_models = cache(load_faces)


def detect_batch(
    photos: Sequence[tuple[Photo, Sequence[str]]], faces: str, landmarks: str | None, filters: FilterSet, dataset: Path
) -> list[Photo | Face]:
    """Every face of every photo as a measured, screened row; the photo's own row says where none was found.

    `photos` holds each photo with the uris it may be read from; `faces` is a resolved --faces spec. A detection whose
    landmarks coincide or are not finite is no face, and leaves no row.
    """
    models = cached_models(faces)
    rows: list[Photo | Face] = []
    waiting: list[tuple[Face, np.ndarray, tuple[int, int]]] = []
    for photo, uris in photos:
        image = read_photo(photo.photo_id, uris)
        if image is None:
            rows.append(replace(photo, status="failed", reason=VANISHED))
            continue
        try:
            detections = models.detect(image)
        except FaceModelError:
            raise
        except Exception:  # three libraries' detectors, on pictures of any shape: one photo must not end the run
            rows.append(replace(photo, status="failed", reason="detector_failed"))
            continue
        found: dict[str, tuple[Face, np.ndarray]] = {}
        for detection in detections:
            measured = _measured(image, photo.photo_id, detection, landmarks)
            if measured is not None:
                found.setdefault(measured[0].face_id, measured)
        status, missing = ("ok", None) if found else ("dropped", "no_face")
        rows.append(replace(photo, status=status, reason=missing))
        waiting += [(face, crop, (photo.width, photo.height)) for face, crop in found.values()]
        if len(waiting) >= FACES_A_SCREENING:
            rows += _screened(waiting, filters, dataset)
            waiting.clear()
    return rows + _screened(waiting, filters, dataset)


def read_photo(photo_id: str, uris: Sequence[str]) -> np.ndarray | None:
    """RGB uint8 (H, W, 3) from the first of the photo's files that still holds these very bytes; None without one."""
    for uri in uris:
        try:
            data = path_of(uri).read_bytes()
            if sha256_bytes(data) == photo_id:
                return decode(data)
        except (UndecodableImage, OSError):
            continue
    return None


def crop_batch(photos: Sequence[tuple[str, Sequence[str], Sequence[Face]]], dataset: Path) -> list[Face]:
    """Write the crops of faces accepted later, from their recorded landmarks. Rows as they end.

    `photos` holds (photo_id, the uris it may be read from, its faces).
    """
    rows: list[Face] = []
    for photo_id, uris, faces in photos:
        image = read_photo(photo_id, uris)
        if image is None:
            rows += [replace(face, status="failed", reason=VANISHED, duplicate_of=None) for face in faces]
            continue
        for face in faces:
            landmarks5 = np.array(face.landmarks5).reshape(5, 2)
            write_crop(dataset, face.face_id, align(image, landmarks5, FFHQ_512, FFHQ_SIZE))
            rows.append(face)
    return rows


def face_id_of(photo_id: str, box: np.ndarray) -> str:
    """128 bits of the sha256 of the photo and the box rounded to integers: the same face has the same id everywhere."""
    return sha256_bytes(f"{photo_id} {' '.join(str(round(float(edge))) for edge in box)}".encode())[:32]


def write_crop(dataset: Path, face_id: str, crop: np.ndarray) -> None:
    """A 512 px crop as PNG at DATASET/faces/ab/<face_id>.png, without metadata."""
    _, data = cv2.imencode(".png", crop[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    write_atomically(crop_path(dataset, face_id), data.tobytes())


def read_crop(dataset: Path, face_id: str) -> np.ndarray:
    """RGB uint8 (512, 512, 3) of a face. Raises OSError where the crop is missing, ValueError where it is broken."""
    data = np.frombuffer(crop_path(dataset, face_id).read_bytes(), np.uint8)
    crop = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if crop is None:
        raise ValueError(f"{crop_path(dataset, face_id)} is not a PNG")
    return np.asarray(crop)


def noise_batch(photos: Sequence[tuple[str, Sequence[str], Sequence[Face]]]) -> list[Face]:
    """Faces recorded before their noise was measured, measured now; none of a photo that cannot be read any more.

    `photos` holds (photo_id, the uris it may be read from, its faces).
    """
    rows: list[Face] = []
    for photo_id, uris, faces in photos:
        image = read_photo(photo_id, uris)
        if image is not None:
            rows += [replace(face, noise=measure.noise(_native_luma(image, face.box))) for face in faces]
    return rows


def _screened(
    found: Sequence[tuple[Face, np.ndarray, tuple[int, int]]], filters: FilterSet, dataset: Path
) -> list[Photo | Face]:
    """Faces as the filters leave them; the crops of those they keep are written."""
    reasons = screen([face for face, _, _ in found], [size for _, _, size in found], filters)
    for (face, crop, _), reason in zip(found, reasons, strict=True):
        if reason is None:
            write_crop(dataset, face.face_id, crop)
    return [
        replace(face, status="ok" if reason is None else "dropped", reason=reason)
        for (face, _, _), reason in zip(found, reasons, strict=True)
    ]


def _native_luma(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Luma float32 (h, w), 0..255, of a box in the photo's own pixels; empty where the box lies outside."""
    x0, y0, x1, y1 = (max(0, round(float(edge))) for edge in box)
    native = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return measure.luma(native) if native.size else np.zeros((0, 0), np.float32)


def _measured(
    image: np.ndarray, photo_id: str, found: Detection, landmarks: str | None
) -> tuple[Face, np.ndarray] | None:
    """The row of one detection and its 512 px crop; None where its landmarks coincide or are not finite."""
    try:
        matrix = similarity(found.landmarks5, FFHQ_512)
    except ValueError:
        return None
    if not (np.isfinite(found.box).all() and 1e-3 < scale_of(matrix) < 1e3):
        return None
    crop = align(image, found.landmarks5, FFHQ_512, FFHQ_SIZE)
    yaw, pitch, roll = measure.pose(found.landmarks5)
    native = _native_luma(image, found.box.tolist())
    points68: tuple[float, ...] | None = None
    if landmarks == "dlib":
        from curate.faces.dlib_models import landmarks68

        points68 = tuple(landmarks68(image, found.box).ravel().tolist())
    face = Face(
        face_id=face_id_of(photo_id, found.box),
        photo_id=photo_id,
        box=tuple(found.box.tolist()),
        landmarks5=tuple(found.landmarks5.ravel().tolist()),
        landmarks68=points68,
        det_score=found.score,
        inter_ocular_px=measure.inter_ocular(found.landmarks5),
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        sharpness=measure.sharpness(crop),
        blockiness=measure.blockiness(native),
        noise=measure.noise(native),
        exposure=measure.exposure(crop),
        upsample=scale_of(matrix),
        phash=measure.picture_hash(measure.face_region(crop), side=16),
    )
    return face, crop


def resolved(faces: str) -> FaceModels:
    """The models behind a --faces spec, loaded once in this process."""
    return cached_models(faces)
