"""The stage `detect` finds the faces in every photo, and writes the crops and embeddings of the accepted faces."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from curate.config import CurateConfig
from curate.detection.crops import write_crop
from curate.detection.filter_files import find_min_inter_ocular
from curate.detection.measure_faces import measure_face
from curate.detection.read_photos import Source, gather_photos, list_sources, rank_place, read_photos
from curate.detection.reasons import DETECTOR_FAILED, NO_FACE, NOT_FOUND_AGAIN, PHOTO_VANISHED
from curate.detection.screen import find_reasons
from curate.detection.shards import FaceBatch, embed_and_write
from curate.faces.align import crop_for_recognizer
from curate.faces.errors import FaceModelError
from curate.faces.find_faces import MIN_EYES, find_faces
from curate.faces.interface import Detection, FaceModels
from curate.faces.load import load_faces_once
from curate.photos.batches import PHOTOS_A_BATCH, collect, split_into_batches
from curate.photos.consent import find_usable_photos
from curate.photos.optout_faces import strip_identity
from manifests.ledger.filters import FilterSet, PhotoFacts, list_photo_facts
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Model, Photo, Record
from manifests.privacy.erase import OPTED_OUT
from manifests.privacy.kept_out import NOBODY_KEPT_OUT, KeptOutList, read_kept_out_list
from manifests.runtime.progress import Progress
from manifests.runtime.workers import BatchMap, FailedUnit, is_retry

# The filters screen at least FACES_A_QUERY faces (ours) in one query. A query takes 2 ms for any number of faces, so a
# larger value of FACES_A_QUERY saves time. With a smaller value, more crops are written while the detector works.
FACES_A_QUERY = 16


def start_worker() -> None:
    """Makes OpenCV use one thread, because there is one worker process for each core."""
    cv2.setNumThreads(1)


def detect(
    ledger: Ledger, config: CurateConfig, models: FaceModels, map_batches: BatchMap, progress: Progress
) -> list[str]:
    """Searches every photo that this detector has not searched yet, and records the faces.

    If an earlier detector found a face and this detector does not find the face, the face is dropped. Returns
    notices about failures of the device.
    """
    settings = {
        "detector": next(file.sha256 for file in models.files if file.role == "detector"),
        "landmarks": config.landmarks,
    }
    if config.landmarks == "dlib":
        _record_landmark_models(ledger)
    finished = ledger.find_finished("detect", settings)
    if config.landmarks is None:  # a search with 68 landmarks also counts as a search without them
        finished |= ledger.find_finished("detect", {**settings, "landmarks": "dlib"})
    min_eyes = choose_min_eyes(config)
    photos = _list_photos(ledger, finished, min_eyes)
    earlier: dict[str, dict[str, Face]] = defaultdict(dict)  # photo_id -> face_id -> row
    for face in ledger.read_rows(Face):
        earlier[face.photo_id][face.face_id] = face
    detect_one_batch = partial(
        detect_batch,
        faces=config.faces,
        device=models.device_to_load,
        landmarks=config.landmarks,
        min_eyes=min_eyes,
        filters=config.screen,
        dataset=ledger.dataset,
        kept_out=read_kept_out_list(ledger, models.recognizer_sha256(), models.same_person),
    )
    batches = split_into_batches(photos, PHOTOS_A_BATCH)
    failures: dict[str, None] = {}  # a dict, because it keeps the order and drops repeated sentences
    done = 0
    for results in collect(zip(batches, map_batches(detect_one_batch, batches), strict=True)):
        rows = [row for _, batch in results for row in batch.rows]
        finished_photos, rows_to_record = _merge_with_earlier(rows, earlier)
        ledger.record("detect", finished_photos, settings, rows_to_record)
        failures |= dict.fromkeys(sentence for _, batch in results for sentence in batch.failures)
        done += sum(len(photos_of_batch) for photos_of_batch, _ in results)
        progress("detect", done, len(photos))
    return list(failures)


def _record_landmark_models(ledger: Ledger) -> None:
    from curate.faces.models.dlib_models import list_landmark_files

    rows = [Model(file.role, file.path.name, "dlib", file.sha256, file.licence) for file in list_landmark_files()]
    ledger.record("models", "landmarks", {}, rows)


def choose_min_eyes(config: CurateConfig) -> float:
    """Returns the smallest distance between the eyes, in pixels, of the faces that the detection looks for."""
    if config.min_face is not None:
        return config.min_face
    return min(MIN_EYES, find_min_inter_ocular(config.screen))


def _list_photos(ledger: Ledger, finished: set[str], min_eyes: float) -> list[tuple[Photo, tuple[Source, ...]]]:
    """Returns the usable photos to search, with the files that contain them.

    A photo in `finished` is searched again if the earlier search left out faces as small as `min_eyes`.
    """
    rows = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    coarse = {photo.photo_id for photo in rows.values() if photo.min_eyes is None or photo.min_eyes > min_eyes}
    finished = finished - coarse
    sources = list_sources(ledger)
    usable_photos = find_usable_photos(rows)
    photos = [
        (photo, sources[photo.photo_id])
        for photo in rows.values()
        if photo.photo_id in sources and photo.photo_id in usable_photos and photo.photo_id not in finished
    ]
    return sorted(photos, key=lambda item: rank_place(item[1]))


def _merge_with_earlier(
    rows: Sequence[Photo | Face], earlier: dict[str, dict[str, Face]]
) -> tuple[list[str], list[Record]]:
    """Returns the ids of the finished photos, and the rows to record.

    A face that an earlier detector found, and this detector did not find, gets a row with the status dropped. A photo
    that cannot be read does not count as finished, so a later run reads the photo again.
    """
    rows_to_record: list[Record] = []
    finished: list[str] = []
    for row in rows:
        faces_before = earlier[row.photo_id]
        if isinstance(row, Face):
            rows_to_record.append(_keep_embedding(row, faces_before))
        elif row.reason != PHOTO_VANISHED:
            finished.append(row.photo_id)
            rows_to_record.append(row)
        elif not faces_before:  # if the photo has earlier faces, its earlier row stays
            rows_to_record.append(row)
    new_faces = {row.face_id for row in rows if isinstance(row, Face)}
    rows_to_record += [
        replace(face, status="dropped", reason=NOT_FOUND_AGAIN, duplicate_of=None)
        for photo in finished
        for face_id, face in earlier[photo].items()
        if face_id not in new_faces and face.reason != OPTED_OUT
    ]
    return finished, rows_to_record


def _keep_embedding(face: Face, earlier: dict[str, Face]) -> Face:
    """Returns the row of a face. If the landmarks did not change, the row keeps the embedding of the earlier row."""
    before = earlier.get(face.face_id)
    if face.reason == OPTED_OUT or before is None or before.shard is None or before.landmarks5 != face.landmarks5:
        return face
    return replace(
        face,
        shard=before.shard,
        shard_row=before.shard_row,
        embedding_norm=before.embedding_norm,
        embedding_device=before.embedding_device,
    )


# --- functions that run in a worker process ---


@dataclass(frozen=True)
class _Candidate:
    """A detected face that the filters have not accepted or dropped yet."""

    face: Face
    crop: np.ndarray  # RGB uint8 (512, 512, 3)
    photo: PhotoFacts


def detect_batch(
    photos: Sequence[tuple[Photo, Sequence[Source]] | FailedUnit],
    faces: str,
    device: str,
    landmarks: str | None,
    min_eyes: float,
    filters: FilterSet,
    dataset: Path,
    kept_out: KeptOutList = NOBODY_KEPT_OUT,
) -> FaceBatch:
    """Detects, measures and screens the faces of a batch of photos. Returns a row for every photo and every face.

    Each item of `photos` is a photo with the files that contain it. `faces` is the spec of the face models, and
    `device` is the name of the device on which the models run. The detection looks for faces whose eyes are at least
    `min_eyes` pixels apart. The crop of each accepted face is written to a file. The embeddings of all accepted faces
    are written as one shard. No crop and no embedding is written for a face that opted out. A detection gets no row if
    its landmarks coincide or are not finite. While the models work, other threads decode the next photo and write
    crops.
    """
    models = load_faces_once(faces, device)
    rows: list[Photo | Face] = []
    candidates: list[_Candidate] = []
    accepted_faces: list[Face] = []
    chips: list[np.ndarray] = []  # Crops of the accepted faces, aligned for the recognizer.
    crop_hashes: dict[str, Future[str]] = {}  # Accepted face -> sha256 of the file of its crop.
    with ThreadPoolExecutor(1) as writer:
        crop_writes: list[Future[str]] = []

        def screen_candidates() -> None:
            """Applies the filters to the candidates, and starts to write the crops of the accepted faces."""
            photo_facts = [candidate.photo for candidate in candidates]
            reasons = find_reasons([candidate.face for candidate in candidates], photo_facts, filters)
            reasons = _add_optouts(candidates, reasons, models, kept_out)
            # Wait until the earlier crops are written, so that few crops are in memory. If a write failed, its error is
            # raised here.
            for crop_write in crop_writes:
                crop_write.result()
            crop_writes.clear()
            for candidate, reason in zip(candidates, reasons, strict=True):
                face = candidate.face
                if reason is None:
                    crop_hashes[face.face_id] = writer.submit(write_crop, dataset, face.face_id, candidate.crop)
                    crop_writes.append(crop_hashes[face.face_id])
                    chips.append(crop_for_recognizer(candidate.crop, models.template, models.size))
                    accepted_faces.append(replace(face, status="ok", reason=None))
                elif reason == OPTED_OUT:
                    rows.append(strip_identity(face))
                else:
                    rows.append(replace(face, status="dropped", reason=reason))
            candidates.clear()

        for photo, image, detections in _search_photos(photos, models, min_eyes):
            if isinstance(image, str):
                rows.append(replace(photo, status="failed", reason=image))
                continue
            if detections is None:
                rows.append(replace(photo, status="failed", reason=DETECTOR_FAILED))
                continue
            in_photo: dict[str, _Candidate] = {}
            for detection in detections:
                if (face_and_crop := measure_face(image, photo.photo_id, detection, landmarks)) is not None:
                    face, crop = face_and_crop
                    in_photo.setdefault(face.face_id, _Candidate(face, crop, list_photo_facts(photo)))
            status, reason = ("ok", None) if in_photo else ("dropped", NO_FACE)
            reach = 0.0 if models.measure_reach is None else models.measure_reach(photo.width, photo.height)
            rows.append(replace(photo, status=status, reason=reason, min_eyes=min(min_eyes, reach)))
            candidates += in_photo.values()
            del image  # frees the memory before the next photo is decoded
            if len(candidates) >= FACES_A_QUERY:
                screen_candidates()
        screen_candidates()
        if accepted_faces:
            new_rows = embed_and_write(dataset, accepted_faces, chips, models)
            rows += [replace(face, crop_sha256=crop_hashes[face.face_id].result()) for face in new_rows]
    return FaceBatch(rows, models.list_failures())


def _search_photos(
    photos: Sequence[tuple[Photo, Sequence[Source]] | FailedUnit], models: FaceModels, min_eyes: float
) -> Iterator[tuple[Photo, np.ndarray | str, list[Detection] | None]]:
    """Yields each photo, its pixels or the reason why it cannot be read, and its detections.

    The detections are None if the photo cannot be read or if the detector raised an error. On a device that computes
    several photos at once, the detector first searches a group of photos. Then `find_faces` does the rest of the search
    for each photo alone: second looks, and searches of the turned photo.
    """
    size = 1 if is_retry() else models.photos_at_once
    for group in gather_photos(read_photos(photos), len(photos), size):
        images = [image for _, image in group if not isinstance(image, str)]
        upright = iter(_search_together(models, images, min_eyes))
        for photo, image in group:
            if isinstance(image, str):
                yield photo, image, None
            else:
                yield photo, image, _detect_faces(models, image, min_eyes, next(upright))
        del group, images, image  # frees the memory before the next photos are decoded


def _search_together(
    models: FaceModels, images: Sequence[np.ndarray], min_eyes: float
) -> Sequence[list[Detection] | None]:
    """Returns what the detector finds in each upright photo, or None for each photo that is searched alone."""
    alone = [None] * len(images)
    if models.detect_many is None or len(images) < 2:
        return alone
    try:
        return models.detect_many(images, min_eyes)
    except (FaceModelError, MemoryError):
        raise
    except Exception:  # the search of each photo alone shows which photo causes the error
        return alone


def _detect_faces(
    models: FaceModels, image: np.ndarray, min_eyes: float, upright: list[Detection] | None
) -> list[Detection] | None:
    """Returns the detections in a photo, or None if the detector raised an error."""
    try:
        return find_faces(image, models, min_eyes, upright)
    except (FaceModelError, MemoryError):
        raise
    except Exception:  # detectors raise many kinds of errors, and an error on one photo must not end the run
        return None


def _add_optouts(
    candidates: Sequence[_Candidate], reasons: Sequence[str | None], models: FaceModels, kept_out: KeptOutList
) -> list[str | None]:
    """Returns for each candidate OPTED_OUT if the face opted out, and otherwise the value in `reasons`.

    A face counts as opted out if a face with the same box opted out earlier, or if the face is similar to a remembered
    example.
    """
    reasons = [
        OPTED_OUT if kept_out.covers(candidate.face.photo_id, candidate.face.box) else reason
        for candidate, reason in zip(candidates, reasons, strict=True)
    ]
    to_compare = [index for index, reason in enumerate(reasons) if reason is None]
    if kept_out.examples is not None and to_compare:
        crops = [candidates[index].crop for index in to_compare]
        chips = np.stack([crop_for_recognizer(crop, models.template, models.size) for crop in crops])
        for index, is_match in zip(to_compare, kept_out.matches(models.embed(chips)), strict=True):
            reasons[index] = OPTED_OUT if is_match else None
    return reasons
