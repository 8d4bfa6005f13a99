"""Photos -> faces: found, aligned, measured, screened; crops and embeddings are made for accepted faces only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from curate.detection.crops import write_crop
from curate.detection.embed import write_shard
from curate.detection.screen import screen
from curate.faces import measure
from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, compute_scale, crop_for_recognizer, fit_similarity
from curate.faces.errors import FaceModelError
from curate.faces.interface import Detection, FaceModels
from curate.faces.load import load_faces_once
from manifests.ledger.filters import FilterSet
from manifests.ledger.records import Face, Photo
from manifests.privacy.erase import OPTED_OUT
from manifests.privacy.kept_out import NOBODY_KEPT_OUT, KeptOutList
from manifests.runtime.archives import ArchiveError, read_bytes
from manifests.runtime.files import sha256_bytes
from manifests.runtime.images import UndecodableImage, decode
from manifests.runtime.uris import parse_member_uri, path_of
from manifests.runtime.workers import OUT_OF_MEMORY, FailedUnit, guard_units, is_retry

VANISHED = "file_vanished_or_changed"
REDETECTED = "not_found_again"  # by another detector than the one that found it

# A question to the filters costs 2 ms however many faces it is about; the fewer faces wait for it, the more of their
# crops are written beside the detector's work (ours)
FACES_A_SCREENING = 16
# Pixels of two photos of which one is decoded while the other is worked on (ours): more, and the memory of one unit
# would not do for both
AHEAD = 64_000_000


def start_worker() -> None:
    """One thread a worker process for OpenCV: there is a process for each core."""
    cv2.setNumThreads(1)


def detect_batch(
    photos: Sequence[tuple[Photo, Sequence[str]] | FailedUnit],
    faces: str,
    landmarks: str | None,
    filters: FilterSet,
    dataset: Path,
    kept_out: KeptOutList = NOBODY_KEPT_OUT,
) -> list[Photo | Face]:
    """Every face of every photo as a measured, screened row; the photo's own row says where none was found.

    `photos` holds each photo with the uris it may be read from; `faces` is a resolved --faces spec. A detection whose
    landmarks coincide or are not finite is no face, and leaves no row. The accepted faces' crops are written, and their
    embeddings as one shard; nothing is written of faces that opted out. The next photo is decoded, and crops are
    written, beside the models' work.
    """
    models = load_faces_once(faces)
    rows: list[Photo | Face] = []
    waiting: list[tuple[Face, np.ndarray, tuple[int, int]]] = []
    accepted: list[Face] = []
    seen: list[np.ndarray] = []
    with ThreadPoolExecutor(1) as writer:
        written: list[Future[str]] = []
        crops: dict[str, Future[str]] = {}  # accepted face -> sha256 of its crop

        def screen_waiting() -> None:
            """The faces that the filters keep are noted, and their crops written once the last ones are on the disk."""
            reasons = screen([face for face, _, _ in waiting], [size for _, _, size in waiting], filters)
            reasons = _opted_out(waiting, reasons, models, kept_out)
            _wait_for(written)
            written.clear()
            for (face, crop, _), reason in zip(waiting, reasons, strict=True):
                if reason is None:
                    crops[face.face_id] = writer.submit(write_crop, dataset, face.face_id, crop)
                    written.append(crops[face.face_id])
                    seen.append(crop_for_recognizer(crop, models.template, models.size))
                    accepted.append(replace(face, status="ok", reason=None))
                else:
                    dropped = replace(face, status="dropped", reason=reason)
                    rows.append(nameless(dropped) if reason == OPTED_OUT else dropped)
            waiting.clear()

        for photo, image in _decoded(photos):
            if isinstance(image, str):
                rows.append(replace(photo, status="failed", reason=image))
                continue
            try:
                detections = models.detect(image)
            except (FaceModelError, MemoryError):
                raise
            except Exception:  # three libraries' detectors, on pictures of any shape: one photo must not end the run
                rows.append(replace(photo, status="failed", reason="detector_failed"))
                continue
            found: dict[str, tuple[Face, np.ndarray]] = {}
            for detection in detections:
                try:
                    measured = _measured(image, photo.photo_id, detection, landmarks)
                except cv2.error as error:
                    if error.code == cv2.Error.StsNoMem:
                        raise MemoryError from None
                    raise
                if measured is not None:
                    found.setdefault(measured[0].face_id, measured)
            status, missing = ("ok", None) if found else ("dropped", "no_face")
            rows.append(replace(photo, status=status, reason=missing))
            waiting += [(face, crop, (photo.width, photo.height)) for face, crop in found.values()]
            if len(waiting) >= FACES_A_SCREENING:
                screen_waiting()
        screen_waiting()
        if accepted:
            embedded = write_shard(dataset, accepted, models.embed(np.stack(seen)))
            rows += [replace(face, crop_sha256=crops[face.face_id].result()) for face in embedded]
    return rows


def _opted_out(
    waiting: Sequence[tuple[Face, np.ndarray, tuple[int, int]]],
    reasons: list[str | None],
    models: FaceModels,
    kept_out: KeptOutList,
) -> list[str | None]:
    """The reasons, with those of faces that opted out: where one lay before, or as alike to an example as one person's
    photos are."""
    found = [
        OPTED_OUT if kept_out.covers(face.photo_id, face.box) else reasons[i] for i, (face, *_) in enumerate(waiting)
    ]
    asked = [i for i, reason in enumerate(found) if reason is None]
    if kept_out.examples is not None and asked:
        chips = np.stack([crop_for_recognizer(waiting[i][1], models.template, models.size) for i in asked])
        for i, alike in zip(asked, kept_out.matches(models.embed(chips)), strict=True):
            found[i] = OPTED_OUT if alike else None
    return found


def nameless(face: Face) -> Face:
    """The row that a face which opted out leaves: where it lies, so that it is known again, and not who it is."""
    bare = replace(face, landmarks68=None, phash="", duplicate_of=None, shard=None, shard_row=None, crop_sha256=None)
    return replace(bare, status="dropped", reason=OPTED_OUT)


def _decoded(photos: Sequence[tuple[Photo, Sequence[str]] | FailedUnit]) -> Iterator[tuple[Photo, np.ndarray | str]]:
    """Each photo with its pixels, or the reason why it has none; the next one is decoded while the caller works on this
    one, where both are no larger than AHEAD."""
    with ThreadPoolExecutor(1) as reader:
        ahead: Future[np.ndarray | None] | None = None
        for index, item in enumerate(guard_units(photos)):
            if isinstance(item, FailedUnit):
                yield item.unit[0], item.reason
                continue
            photo, uris = item
            image = read_photo(photo.photo_id, uris) if ahead is None else ahead.result()
            ahead = None
            following = photos[index + 1] if index + 1 < len(photos) and not is_retry() else None
            if isinstance(following, tuple) and _pixels(photo) + _pixels(following[0]) <= AHEAD:
                ahead = reader.submit(read_photo, following[0].photo_id, following[1])
            yield photo, VANISHED if image is None else image


def _pixels(photo: Photo) -> int:
    return photo.width * photo.height


def _wait_for(written: Sequence[Future[str]]) -> None:
    """Raises what a writer raised."""
    for future in written:
        future.result()


def read_photo(photo_id: str, uris: Sequence[str]) -> np.ndarray | None:
    """RGB uint8 (H, W, 3) from the first of the photo's files that still holds these very bytes; None without one.

    Raises MemoryError where decoding needs more than there is.
    """
    for uri in uris:
        try:
            if parse_member_uri(uri) is not None:
                data = read_bytes(uri)
                if sha256_bytes(data) == photo_id:
                    return decode(data)
                continue
            with path_of(uri).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == photo_id:
                    return decode(file)
        except UndecodableImage as error:
            if error.reason == OUT_OF_MEMORY:
                raise MemoryError from None
        except (ArchiveError, OSError):
            continue
    return None


def crop_batch(photos: Sequence[tuple[str, Sequence[str], Sequence[Face]] | FailedUnit], dataset: Path) -> list[Face]:
    """Write the crops of faces accepted later, from their recorded landmarks. Rows as they end.

    `photos` holds (photo_id, the uris it may be read from, its faces).
    """
    rows: list[Face] = []
    for item in guard_units(photos):
        photo_id, uris, faces = item.unit if isinstance(item, FailedUnit) else item
        image = None if isinstance(item, FailedUnit) else read_photo(photo_id, uris)
        if image is None:
            reason = item.reason if isinstance(item, FailedUnit) else VANISHED
            rows += [replace(face, status="failed", reason=reason, duplicate_of=None) for face in faces]
            continue
        for face in faces:
            landmarks5 = np.array(face.landmarks5).reshape(5, 2)
            sha256 = write_crop(dataset, face.face_id, align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE))
            rows.append(replace(face, crop_sha256=sha256))
    return rows


def face_id_of(photo_id: str, box: np.ndarray) -> str:
    """128 bits of the sha256 of the photo and the box rounded to integers: the same face has the same id everywhere."""
    return sha256_bytes(f"{photo_id} {' '.join(str(round(float(edge))) for edge in box)}".encode())[:32]


def noise_batch(photos: Sequence[tuple[str, Sequence[str], Sequence[Face]] | FailedUnit]) -> list[Face]:
    """Faces recorded before their noise was measured, measured now; none of a photo that cannot be read any more.

    `photos` holds (photo_id, the uris it may be read from, its faces).
    """
    rows: list[Face] = []
    for item in guard_units(photos):
        if isinstance(item, FailedUnit):
            continue
        photo_id, uris, faces = item
        image = read_photo(photo_id, uris)
        if image is not None:
            rows += [replace(face, noise=measure.measure_noise(_native_luma(image, face.box))) for face in faces]
    return rows


def _native_luma(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Luma float32 (h, w), 0..255, of a box in the photo's own pixels; empty where the box lies outside."""
    x0, y0, x1, y1 = (max(0, round(float(edge))) for edge in box)
    native = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return measure.compute_luma(native) if native.size else np.zeros((0, 0), np.float32)


def _measured(
    image: np.ndarray, photo_id: str, found: Detection, landmarks: str | None
) -> tuple[Face, np.ndarray] | None:
    """The row of one detection and its 512 px crop; None where its landmarks coincide or are not finite."""
    try:
        matrix = fit_similarity(found.landmarks5, FFHQ_512)
    except ValueError:
        return None
    if not (np.isfinite(found.box).all() and 1e-3 < compute_scale(matrix) < 1e3):
        return None
    crop = align_face(image, found.landmarks5, FFHQ_512, FFHQ_SIZE)
    yaw, pitch, roll = measure.estimate_pose(found.landmarks5)
    native = _native_luma(image, found.box.tolist())
    points68: tuple[float, ...] | None = None
    if landmarks == "dlib":
        from curate.faces.dlib_models import find_landmarks68

        points68 = tuple(find_landmarks68(image, found.box).ravel().tolist())
    face = Face(
        face_id=face_id_of(photo_id, found.box),
        photo_id=photo_id,
        box=tuple(found.box.tolist()),
        landmarks5=tuple(found.landmarks5.ravel().tolist()),
        landmarks68=points68,
        det_score=found.score,
        inter_ocular_px=measure.measure_eye_distance(found.landmarks5),
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        sharpness=measure.measure_sharpness(crop),
        blockiness=measure.measure_blockiness(native),
        noise=measure.measure_noise(native),
        exposure=measure.measure_exposure(crop),
        upsample=compute_scale(matrix),
        phash=measure.hash_picture(measure.crop_inner_face(crop), side=16),
    )
    return face, crop


def resolved(faces: str) -> FaceModels:
    """The models behind a --faces spec, loaded once in this process."""
    return load_faces_once(faces)
