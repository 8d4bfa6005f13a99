"""The stages of curation as a list. Each maps batches of rows to rows; this process alone writes the ledger.

scan -> detect -> screen -> embed -> dedupe -> group -> split -> pair -> check
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from curate import screen as screening
from curate.config import CurateConfig
from curate.dedupe import REASON as NEAR_DUPLICATE
from curate.dedupe import near_duplicates, pictures
from curate.detect import REDETECTED, VANISHED, crop_batch, detect_batch, resolved
from curate.embed import CROP_MISSING, batches, embed_batch, intact_shards, remove_shards, shard_name
from curate.faces.models import FaceModels
from curate.group import group, histogram
from curate.identities import make_identities
from curate.options import check_options
from curate.pairs import make_pairs
from curate.scan import mark_replaced, mark_same_files, offered, scan_batch, still_holding
from curate.splits import check_splits, make_splits
from manifests.errors import BadInput
from manifests.ledger import Ledger
from manifests.progress import Report
from manifests.records import TABLES, Face, File, Identity, Membership, Model, Pair, Photo, Record, Split
from manifests.storage import LEDGER_NAME, crop_path, sweep, uri_of
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
    unpaired: dict[str, int] = field(default_factory=dict)  # reason -> faces in splits that are no targets


def curate(
    photos: Sequence[Path], dataset: Path, config: CurateConfig, workers: int = 1, report: Report = lambda *_: None
) -> Summary:
    """Curate every file under `photos` into the dataset folder; the same call again resumes where it ended.

    Raises BadInput, LedgerError or FaceModelError; every unit that was finished before stays recorded.
    """
    check_options(photos, dataset, config, workers)
    if not (dataset / LEDGER_NAME).exists():
        resolved(config.faces)  # models that cannot be had leave no dataset behind
    with Ledger.open(dataset, write=True) as ledger, mapper(workers, _start_worker) as run:
        for folder in ("faces", "embeddings"):
            sweep(ledger.dataset / folder)
        scan(ledger, photos, run, report)
        models = choose_faces(ledger, config.faces)
        rules = config.screen
        if rules.min_det_score is None:
            rules = replace(rules, min_det_score=models.min_score)
        config = replace(config, faces=models.spec, screen=rules)
        detect(ledger, config, models, run, report)
        screen(ledger, config, run, report)
        embed(ledger, config, models, run, report)
        dedupe(ledger, config, models)
        group_faces(ledger, config, models, report)
        split(ledger, config)
        pair(ledger, config)
        check_splits(ledger.rows(Face), ledger.rows(Split))
        return summarise(ledger, models)


def scan(ledger: Ledger, photos: Sequence[Path], run: Map, report: Report) -> None:
    """A row for every file offered; files whose size and time have not changed since their row are not read again."""
    known = {file.uri: file for file in ledger.rows(File)}
    found: dict[str, Path] = {}
    refused: dict[str, File] = {}
    walked: set[str] = set()
    for item in offered(photos, walked):
        if isinstance(item, File):
            refused[item.uri] = still_holding(item, known.get(item.uri))
        elif not _unchanged(item, known.get(uri_of(item))):
            found[uri_of(item)] = item
    new_reasons = [row for uri, row in refused.items() if known.get(uri) != row]
    # what could not be walked and now is a folder that was has its files' rows instead of its own
    healed = [uri for uri, row in known.items() if row.bytes is None and uri in walked]
    if new_reasons or healed:
        ledger.record("scan", "not walked", {}, new_reasons, forget=[("files", "uri", healed)])
    have = {photo.photo_id for photo in ledger.rows(Photo)}
    chunks = _chunks(list(found.values()), FILES_A_BATCH)
    for done, (chunk, rows) in enumerate(zip(chunks, run(scan_batch, chunks), strict=True), 1):
        rows = [still_holding(row, known.get(row.uri)) if isinstance(row, File) else row for row in rows]
        new = [row for row in rows if not (isinstance(row, Photo) and row.photo_id in have)]
        ledger.record("scan", [uri_of(path) for path in chunk], {}, _first_of_each(new))
        report("scan", min(done * FILES_A_BATCH, len(found)), len(found))
    if changed := mark_same_files(ledger.rows(File)):
        ledger.record("scan", "same files", {}, changed)
    replaced, back = mark_replaced(ledger.rows(File), ledger.rows(Photo), ledger.rows(Face))
    if replaced or back:  # a photo that is back is looked at again, and so are its faces
        forget = [("stages", "unit", [photo.photo_id for photo in back])]
        ledger.record("scan", "replaced files", {}, [*replaced, *back], forget=forget)


def choose_faces(ledger: Ledger, spec: str) -> FaceModels:
    """Load the face models and note them; a dataset keeps the recognizer it began with."""
    noted = ledger.rows(Model)
    earlier = [model for model in noted if model.role == "recognizer"]
    if spec == "auto" and earlier:
        spec = earlier[0].spec
    models = resolved(spec)
    if earlier and earlier[0].sha256 != models.recognizer_sha256():
        raise BadInput(
            f"{ledger.dataset} was made with the recognizer {earlier[0].file} of {earlier[0].spec}; embeddings of "
            f"another cannot be compared with it: say --faces {earlier[0].spec}, or start a new dataset."
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
    used = {row.file for row in rows}
    unused = [model.file for model in noted if model.role != "landmarks" and model.file not in used]
    ledger.record("models", models.recognizer_sha256(), {}, rows, forget=[("models", "file", unused)])
    return models


def detect(ledger: Ledger, config: CurateConfig, models: FaceModels, run: Map, report: Report) -> None:
    """Faces of every photo that was not yet looked at by this detector."""
    told = {"detector": next(f.sha256 for f in models.files if f.role == "detector"), "landmarks": config.landmarks}
    if config.landmarks not in (None, "dlib"):
        raise BadInput(f"--landmarks {config.landmarks}: only dlib is known.")
    if config.landmarks == "dlib":
        from curate.faces.dlib_models import landmark_models

        used = [Model(file.role, file.path.name, "dlib", file.sha256, file.licence) for file in landmark_models()]
        ledger.record("models", "landmarks", {}, used)
    finished = ledger.done("detect", told)
    if config.landmarks is None:  # what was found with 68 landmarks serves whoever wants none
        finished |= ledger.done("detect", {**told, "landmarks": "dlib"})
    uris = _uris(ledger)
    todo = [
        (photo, uris[photo.photo_id])
        for photo in ledger.rows(Photo)
        if photo.photo_id in uris and photo.photo_id not in finished
    ]
    earlier: dict[str, dict[str, Face]] = defaultdict(dict)
    for face in ledger.rows(Face):
        earlier[face.photo_id][face.face_id] = face
    work = partial(
        detect_batch, faces=config.faces, landmarks=config.landmarks, rules=config.screen, dataset=ledger.dataset
    )
    chunks = _chunks(todo, PHOTOS_A_BATCH)
    for done, found in enumerate(run(work, chunks), 1):
        rows: list[Record] = []
        units: list[str] = []
        for row in found:
            before = earlier[row.photo_id]
            if isinstance(row, Face):
                rows.append(_keep_embedding(row, before))
            elif row.reason != VANISHED:  # a photo that can be read again is looked at again
                units.append(row.photo_id)
                rows.append(row)
            elif not before:
                rows.append(row)
        again = {row.face_id for row in found if isinstance(row, Face)}
        gone = [face for unit in units for face_id, face in earlier[unit].items() if face_id not in again]
        rows += [replace(face, status="dropped", reason=REDETECTED, duplicate_of=None) for face in gone]
        ledger.record("detect", units, told, rows)
        report("detect", min(done * PHOTOS_A_BATCH, len(todo)), len(todo))


def screen(ledger: Ledger, config: CurateConfig, run: Map, report: Report) -> None:
    """The screen's rules over the recorded measures: loosening a rule brings faces back without a new detection.

    A face whose crop has gone is cropped again, from the photo.
    """
    photos = {photo.photo_id: photo for photo in ledger.rows(Photo)}
    uris = _uris(ledger)
    changed: list[Face] = []
    to_crop: dict[str, list[Face]] = defaultdict(list)
    for face in ledger.rows(Face):
        if face.reason not in (None, NEAR_DUPLICATE, VANISHED, CROP_MISSING, *screening.REASONS):
            continue
        photo = photos[face.photo_id]
        reason = screening.screen(face, config.screen, (photo.width, photo.height))
        if reason is not None:
            wanted = replace(face, status="dropped", reason=reason, duplicate_of=None)
        elif face.reason == NEAR_DUPLICATE:
            wanted = face
        else:
            wanted = replace(face, status="ok", reason=None)
        if reason is None and not crop_path(ledger.dataset, face.face_id).exists():
            to_crop[face.photo_id].append(wanted)
        elif wanted != face:
            changed.append(wanted)
    work = [(photo_id, uris.get(photo_id, ()), faces) for photo_id, faces in sorted(to_crop.items())]
    chunks = _chunks(work, PHOTOS_A_BATCH)
    for done, rows in enumerate(run(partial(crop_batch, dataset=ledger.dataset), chunks), 1):
        changed += rows
        report("crop", min(done * PHOTOS_A_BATCH, len(work)), len(work))
    ledger.record("screen", "all", config.screen, changed)


def embed(ledger: Ledger, config: CurateConfig, models: FaceModels, run: Map, report: Report) -> None:
    """Embeddings of accepted faces that have none, and of those whose shard has gone."""
    told = {"recognizer": models.recognizer_sha256()}
    faces = ledger.rows(Face)
    intact = intact_shards(ledger.dataset, faces)
    broken = [face for face in faces if face.shard is not None and face.shard not in intact]
    if broken:
        ledger.record("embed", "lost shards", told, [replace(face, shard=None, shard_row=None) for face in broken])
    todo = [
        face
        for face in ledger.rows(Face)
        if face.shard is None and (face.status == "ok" or face.reason == NEAR_DUPLICATE)
    ]
    work = partial(embed_batch, faces=config.faces, dataset=ledger.dataset)
    chunks, done = batches(todo), 0
    for chunk, rows in zip(chunks, run(work, chunks), strict=True):
        ledger.record("embed", shard_name(chunk), told, rows)
        done += len(chunk)
        report("embed", done, len(todo))
    remove_shards(ledger.dataset, {face.shard for face in ledger.rows(Face)})


def dedupe(ledger: Ledger, config: CurateConfig, models: FaceModels) -> None:
    """Near-duplicates point to the face that stands for them."""
    rules = replace(config.dedupe, min_cosine_same_face=max(config.dedupe.min_cosine_same_face, models.same_person))
    photos = {photo.photo_id: photo for photo in ledger.rows(Photo)}
    faces = [
        face
        for face in ledger.rows(Face)
        if face.shard is not None and (face.status == "ok" or face.reason == NEAR_DUPLICATE)
    ]
    _, vectors = ledger.embeddings([face.face_id for face in faces])
    rows = near_duplicates(faces, [photos[face.photo_id] for face in faces], vectors, rules)
    ledger.record("dedupe", "all", rules, [row for row, face in zip(rows, faces, strict=True) if row != face])


def group_faces(ledger: Ledger, config: CurateConfig, models: FaceModels, report: Report) -> None:
    """Identities and memberships, with the threshold and the similarity histogram noted."""
    face_ids, vectors = ledger.embeddings()
    # two people of one picture are two people, also where the faces that stand for them lie in two copies of it
    faces = [face for face in ledger.rows(Face) if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    photos = {photo.photo_id: photo for photo in ledger.rows(Photo)}
    picture_of = pictures(faces, photos, config.dedupe.max_photo_bits)
    picture_of = {face.face_id: picture_of[face.photo_id] for face in faces}
    rules = config.group
    report("group", 0, len(face_ids))
    found = group(
        vectors,
        None if rules.one_person_may_appear_twice else [picture_of[face] for face in face_ids],
        same_person=models.same_person if rules.same_person is None else rules.same_person,
        neighbours=rules.neighbours,
    )
    identities, memberships = make_identities(face_ids, found, ledger.rows(Membership), ledger.rows(Identity))
    detail = {
        "threshold": found.threshold,
        "false_match_rate": found.false_match_rate,
        "histogram": histogram(vectors, found.labels),
    }
    ledger.record("group", "all", rules, [*identities, *memberships], replace=(Identity, Membership), detail=detail)
    report("group", len(face_ids), len(face_ids))


def split(ledger: Ledger, config: CurateConfig) -> None:
    """Train, val and test."""
    faces = [face for face in ledger.rows(Face) if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    locked = [row for row in ledger.rows(Split) if row.locked]
    rows = make_splits(faces, ledger.rows(Membership), locked, config.split)
    check_splits(faces, rows)
    ledger.record("split", "all", config.split, rows, replace=(Split,))


def pair(ledger: Ledger, config: CurateConfig) -> None:
    """Targets with their references, and how many faces are no target for which reason."""
    faces = [face for face in ledger.rows(Face) if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    photos = {photo.photo_id: photo for photo in ledger.rows(Photo)}
    picture_of = pictures(faces, photos, config.dedupe.max_photo_bits)
    face_ids, vectors = ledger.embeddings()
    embedded = {face.face_id: face for face in faces}
    shown = [embedded[face_id] for face_id in face_ids]
    rows, left_out = make_pairs(ledger.rows(Split), shown, vectors, config.pairs, picture_of)
    detail = {**asdict(config.pairs), "left_out": left_out}
    ledger.record("pair", "all", config.pairs, rows, replace=(Pair,), detail=detail)


def summarise(ledger: Ledger, models: FaceModels) -> Summary:
    """Count what the ledger now holds."""
    faces = ledger.rows(Face)
    photo_of = {face.face_id: face.photo_id for face in faces}
    sizes = Counter(
        person for person, _ in {(member.identity_id, photo_of[member.face_id]) for member in ledger.rows(Membership)}
    )
    splits, pairs, paired = ledger.rows(Split), ledger.rows(Pair), ledger.detail("pair")
    people = sum(size > 1 for size in sizes.values())
    by_split = Counter(row.split for row in pairs)
    notices = list(models.notices)
    files = _count(ledger.rows(File))
    if not files:
        notices.append("No file was found: name a folder that holds photos.")
    elif not faces:
        notices.append("No face was found in any photo: look at `likeness manifest show` for the reasons.")
    elif not pairs and people:
        notices.append(
            f"No face has the references that --pairs {paired['policy']} --min-photos {paired['min_photos']} "
            f"--min-references {paired['min_references']} asks for: ask for less, or look at what was set aside."
        )
    elif not pairs:
        notices.append("No person has two usable photos, so there are no reference pairs to train or test on.")
    elif splits and splits[0].policy == "identity" and people < 3:
        notices.append(
            f"Only {people} {'person has' if people == 1 else 'people have'} two photos or more, too few for train, "
            "val and test by identity: say --split photos for a personal restorer."
        )
    if paired["policy"] == "window" and models.spec == "dlib":
        notices.append(
            "--pairs window is in distances of ArcFace, dlib's are far smaller: say window:LOW-HIGH instead."
        )
    return Summary(
        faces_from=models.spec,
        files=files,
        photos=_count(ledger.rows(Photo)),
        faces=_count(faces),
        identities=people,
        alone=sum(size == 1 for size in sizes.values()),
        largest=max(sizes.values(), default=0),
        pairs={name: by_split.get(name, 0) for name in ("train", "val", "test")},
        set_aside=sum(row.status != "ok" for row in splits),
        threshold=float(ledger.detail("group").get("threshold", models.same_person)),
        notices=tuple(notices),
        unpaired=paired["left_out"],
    )


def _start_worker() -> None:
    cv2.setNumThreads(1)


def _unchanged(path: Path, known: File | None) -> bool:
    """Whether the file was read before and has neither grown nor been touched since."""
    if known is None or known.bytes is None:
        return False
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (known.bytes, known.mtime_ns)


def _uris(ledger: Ledger) -> dict[str, tuple[str, ...]]:
    """photo -> every file it may be read from."""
    uris: dict[str, list[str]] = defaultdict(list)
    for file in ledger.rows(File):
        if file.photo_id is not None:
            uris[file.photo_id].append(file.uri)
    return {photo_id: tuple(found) for photo_id, found in uris.items()}


def _keep_embedding(face: Face, before: dict[str, Face]) -> Face:
    """A face that is detected again keeps its embedding: its crop, and so its embedding, is the same."""
    same = before.get(face.face_id)
    if same is None or same.landmarks5 != face.landmarks5:
        return face
    return replace(face, shard=same.shard, shard_row=same.shard_row)


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
