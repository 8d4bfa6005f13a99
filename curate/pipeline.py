"""The stages of curation as a list. Each maps batches of rows to rows; this process alone writes the ledger.

scan -> detect -> screen -> embed -> dedupe -> group -> split -> pair -> check
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import polars as pl

from curate import screen as screening
from curate.config import CurateConfig
from curate.dedupe import REASON as NEAR_DUPLICATE
from curate.dedupe import near_duplicates
from curate.detect import crop_batch, detect_batch, resolved
from curate.embed import batches, embed_batch, shard_name
from curate.faces.models import FaceModels
from curate.group import group, histogram
from curate.identities import make_identities
from curate.pairs import make_pairs
from curate.scan import mark_same_files, offered, scan_batch
from curate.splits import check_splits, make_splits
from manifests.errors import BadInput
from manifests.ledger import Ledger
from manifests.progress import Report
from manifests.records import TABLES, Face, File, Identity, Membership, Model, Pair, Photo, Record, Split
from manifests.storage import crop_path, sha256_bytes, uri_of
from manifests.workers import Map, mapper

FILES_A_BATCH = 32
PHOTOS_A_BATCH = 16


@dataclass(frozen=True)
class Summary:
    """What a curation run leaves behind."""

    faces_from: str
    files: dict[str, int]  # status or reason -> files
    photos: dict[str, int]
    faces: dict[str, int]
    identities: int  # people with two photos or more
    alone: int  # people with one photo
    largest: int
    pairs: dict[str, int]  # split -> targets with references
    set_aside: int  # faces in splits that were set aside
    threshold: float
    notices: tuple[str, ...]


def curate(
    photos: Sequence[Path], dataset: Path, config: CurateConfig, workers: int = 1, report: Report = lambda *_: None
) -> Summary:
    """Curate every file under `photos` into the dataset folder; the same call again resumes where it ended.

    Raises BadInput, LedgerError or FaceModelError, always before anything of the stage at hand is recorded.
    """
    with Ledger.open(dataset, write=True) as ledger, mapper(workers, _start_worker) as run:
        scan(ledger, photos, run, report)
        models = choose_faces(ledger, config.faces)
        rules = config.screen
        if rules.min_det_score is None:
            rules = replace(rules, min_det_score=models.min_score)
        config = replace(config, faces=models.spec, screen=rules)
        detect(ledger, config, models, run, report)
        screen(ledger, config, run, report)
        embed(ledger, config, models, run, report)
        dedupe(ledger, config)
        group_faces(ledger, config, models, report)
        split(ledger, config)
        pair(ledger)
        check_splits(_rows(ledger, Face), _rows(ledger, Split))
        return summarise(ledger, models)


def scan(ledger: Ledger, photos: Sequence[Path], run: Map, report: Report) -> None:
    """A row for every file offered; files whose size and time have not changed since their row are not read again."""
    known = {file.uri: (file.bytes, file.mtime_ns) for file in _rows(ledger, File)}
    found, refused = [], []
    for item in offered(photos):
        if isinstance(item, File):
            refused.append(item)
        elif not _unchanged(item, known.get(uri_of(item))):
            found.append(item)
    if refused:
        ledger.record("scan", "refused", {}, _first_of_each(refused))
    have = {photo.photo_id: photo for photo in _rows(ledger, Photo)}
    chunks = _chunks(found, FILES_A_BATCH)
    for done, (chunk, rows) in enumerate(zip(chunks, run(scan_batch, chunks), strict=True), 1):
        new = [row for row in rows if not (isinstance(row, Photo) and row.photo_id in have)]
        ledger.record("scan", sha256_bytes(" ".join(uri_of(path) for path in chunk).encode()), {}, _first_of_each(new))
        report("scan", min(done * FILES_A_BATCH, len(found)), len(found))
    if changed := mark_same_files(_rows(ledger, File)):
        ledger.record("scan", "same files", {}, changed)


def choose_faces(ledger: Ledger, spec: str) -> FaceModels:
    """Load the face models and note them; a dataset keeps the recognizer it began with."""
    earlier = [model for model in _rows(ledger, Model) if model.role == "recognizer"]
    if spec == "auto" and earlier:
        spec = earlier[0].spec
    models = resolved(spec)
    if earlier and earlier[0].sha256 != models.recognizer_sha256():
        raise BadInput(
            f"{ledger.dataset} was made with the recognizer {earlier[0].file} of {earlier[0].spec}; embeddings of another "
            f"cannot be compared with it: say --faces {earlier[0].spec}, or start a new dataset."
        )
    rows = [
        Model(
            file.role,
            file.path.name,
            models.spec,
            file.sha256,
            file.licence,
            models.dim if file.role == "recognizer" else None,
        )
        for file in models.files
    ]
    ledger.record("models", models.recognizer_sha256(), {}, rows)
    return models


def detect(ledger: Ledger, config: CurateConfig, models: FaceModels, run: Map, report: Report) -> None:
    """Faces of every photo that was not yet looked at by this detector."""
    told = {"detector": next(f.sha256 for f in models.files if f.role == "detector"), "landmarks": config.landmarks}
    if config.landmarks not in (None, "dlib"):
        raise BadInput(f"--landmarks {config.landmarks}: only dlib is known.")
    if config.landmarks == "dlib":
        from curate.faces.dlib_models import landmark_models

        rows = [Model(file.role, file.path.name, "dlib", file.sha256, file.licence) for file in landmark_models()]
        ledger.record("models", "landmarks", {}, rows)
    finished = ledger.done("detect", told)
    uris = {file.photo_id: file.uri for file in _rows(ledger, File) if file.status == "ok"}
    todo = [
        (photo, uris[photo.photo_id])
        for photo in _rows(ledger, Photo)
        if photo.photo_id not in finished and photo.photo_id in uris
    ]
    earlier = {face.face_id: face for face in _rows(ledger, Face)}
    work = partial(
        detect_batch, faces=config.faces, landmarks=config.landmarks, rules=config.screen, dataset=ledger.dataset
    )
    chunks = _chunks(todo, PHOTOS_A_BATCH)
    for done, (chunk, rows) in enumerate(zip(chunks, run(work, chunks), strict=True), 1):
        rows = [_keep_embedding(row, earlier) for row in rows]
        units = [photo.photo_id for photo, _ in chunk]
        again = {row.face_id for row in rows if isinstance(row, Face)}
        gone = [face_id for face_id, face in earlier.items() if face.photo_id in set(units) and face_id not in again]
        ledger.record("detect", units, told, rows, forget=[("faces", "face_id", gone)] if gone else ())
        report("detect", min(done * PHOTOS_A_BATCH, len(todo)), len(todo))


def screen(ledger: Ledger, config: CurateConfig, run: Map, report: Report) -> None:
    """The screen's rules over the recorded measures: loosening a rule brings faces back without a new detection."""
    photos = {photo.photo_id: photo for photo in _rows(ledger, Photo)}
    uris = {file.photo_id: file.uri for file in _rows(ledger, File) if file.status == "ok"}
    changed, to_crop = [], {}
    for face in _rows(ledger, Face):
        if face.status == "failed":
            continue
        photo = photos[face.photo_id]
        reason = screening.screen(face, config.screen, (photo.width, photo.height))
        if reason is not None and reason != face.reason:
            changed.append(replace(face, status="dropped", reason=reason, duplicate_of=None))
        elif reason is None and face.reason in screening.REASONS:
            face = replace(face, status="ok", reason=None)
            if crop_path(ledger.dataset, face.face_id).exists():
                changed.append(face)
            else:
                to_crop.setdefault(uris[face.photo_id], []).append(face)
    chunks = _chunks(sorted(to_crop.items()), PHOTOS_A_BATCH)
    for done, rows in enumerate(run(partial(crop_batch, dataset=ledger.dataset), chunks), 1):
        changed += rows
        report("crop", min(done * PHOTOS_A_BATCH, len(to_crop)), len(to_crop))
    ledger.record("screen", "all", config.screen, changed)


def embed(ledger: Ledger, config: CurateConfig, models: FaceModels, run: Map, report: Report) -> None:
    """Embeddings of accepted faces that have none."""
    told = {"recognizer": models.recognizer_sha256()}
    todo = [face for face in _rows(ledger, Face) if face.status == "ok" and face.shard is None]
    work = partial(embed_batch, faces=config.faces, dataset=ledger.dataset)
    chunks, done = batches(todo), 0
    for chunk, rows in zip(chunks, run(work, chunks), strict=True):
        ledger.record("embed", shard_name(chunk), told, rows)
        done += len(chunk)
        report("embed", done, len(todo))


def dedupe(ledger: Ledger, config: CurateConfig) -> None:
    """Near-duplicates point to the face that stands for them."""
    hashes = {photo.photo_id: photo.phash for photo in _rows(ledger, Photo)}
    faces = [
        face for face in _rows(ledger, Face)
        if face.shard is not None and (face.status == "ok" or face.reason == NEAR_DUPLICATE)
    ]  # fmt: skip
    _, vectors = ledger.embeddings([face.face_id for face in faces])
    rows = near_duplicates(faces, [hashes[face.photo_id] for face in faces], vectors, config.dedupe)
    ledger.record("dedupe", "all", config.dedupe, [row for row, face in zip(rows, faces, strict=True) if row != face])


def group_faces(ledger: Ledger, config: CurateConfig, models: FaceModels, report: Report) -> None:
    """Identities and memberships, with the threshold and the similarity histogram noted."""
    face_ids, vectors = ledger.embeddings()
    photo_of = {face.face_id: face.photo_id for face in _rows(ledger, Face)}
    rules = config.group
    report("group", 0, len(face_ids))
    found = group(
        vectors,
        None if rules.one_person_may_appear_twice else [photo_of[face] for face in face_ids],
        same_person=models.same_person if rules.same_person is None else rules.same_person,
        neighbours=rules.neighbours,
    )
    identities, memberships = make_identities(face_ids, found, _rows(ledger, Membership), _rows(ledger, Identity))
    detail = {
        "threshold": found.threshold,
        "false_match_rate": found.false_match_rate,
        "histogram": histogram(vectors, found.labels),
    }
    ledger.record("group", "all", rules, [*identities, *memberships], replace=(Identity, Membership), detail=detail)
    report("group", len(face_ids), len(face_ids))


def split(ledger: Ledger, config: CurateConfig) -> None:
    """Train, val and test."""
    faces = [face for face in _rows(ledger, Face) if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    locked = [row for row in _rows(ledger, Split) if row.locked]
    rows = make_splits(faces, _rows(ledger, Membership), locked, config.split)
    check_splits(faces, rows)
    ledger.record("split", "all", config.split, rows, replace=(Split,))


def pair(ledger: Ledger) -> None:
    """Targets with their references."""
    photo_of = {face.face_id: face.photo_id for face in _rows(ledger, Face)}
    face_ids, vectors = ledger.embeddings()
    rows = make_pairs(_rows(ledger, Split), photo_of, dict(zip(face_ids, vectors, strict=True)))
    ledger.record("pair", "all", {}, rows, replace=(Pair,))


def summarise(ledger: Ledger, models: FaceModels) -> Summary:
    """Count what the ledger now holds."""
    sizes = Counter(member.identity_id for member in _rows(ledger, Membership))
    splits, pairs = _rows(ledger, Split), _rows(ledger, Pair)
    people = sum(size > 1 for size in sizes.values())
    by_split = Counter(row.split for row in pairs)
    notices = list(models.notices)
    faces = _rows(ledger, Face)
    if not faces:
        notices.append("No face was found in any photo: look at `likeness manifest show` for the reasons.")
    elif not pairs:
        notices.append("No person has two usable photos, so there are no reference pairs to train or test on.")
    elif splits and splits[0].policy == "identity" and people < 3:
        notices.append(
            f"Only {people} {'person has' if people == 1 else 'people have'} two photos or more, too few for train, val and "
            f"test by identity: say --split photos for a personal restorer."
        )
    return Summary(
        faces_from=models.spec,
        files=_count(_rows(ledger, File)),
        photos=_count(_rows(ledger, Photo)),
        faces=_count(faces),
        identities=people,
        alone=sum(size == 1 for size in sizes.values()),
        largest=max(sizes.values(), default=0),
        pairs={name: by_split.get(name, 0) for name in ("train", "val", "test")},
        set_aside=sum(row.status != "ok" for row in splits),
        threshold=float(ledger.detail("group").get("threshold", models.same_person)),
        notices=tuple(notices),
    )


def _start_worker() -> None:
    cv2.setNumThreads(1)


def _unchanged(path: Path, known: tuple[int | None, int | None] | None) -> bool:
    if known is None or known[0] is None:
        return False
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == known


def _keep_embedding(row: Photo | Face, earlier: dict[str, Face]) -> Photo | Face:
    """A face that is detected again keeps its embedding: its crop, and so its embedding, is the same."""
    before = earlier.get(row.face_id) if isinstance(row, Face) else None
    if before is None or not isinstance(row, Face) or before.landmarks5 != row.landmarks5:
        return row
    return replace(row, shard=before.shard, shard_row=before.shard_row)


def _rows(ledger: Ledger, kind: type[Any]) -> list[Any]:
    """A table as records."""
    frame: pl.DataFrame = ledger.table(TABLES[kind][0])
    names = [field.name for field in dataclasses.fields(kind)]
    return [
        kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})
        for row in frame.select(names).iter_rows(named=True)
    ]


def _first_of_each(rows: Iterable[Any]) -> list[Record]:
    """Rows without repeated keys: the same photo may lie in one batch twice."""
    found: dict[tuple[Any, ...], Record] = {}
    for row in rows:
        keys = TABLES[type(row)][1]
        found.setdefault((type(row), *(getattr(row, key) for key in keys)), row)
    return list(found.values())


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _count(rows: Sequence[Any]) -> dict[str, int]:
    return dict(sorted(Counter(row.reason or row.status for row in rows).items()))
