"""The stages of curation as a list. Each maps batches of rows to rows; this process alone writes the ledger.

scan -> label -> detect -> screen -> embed -> dedupe -> group -> split -> pair -> check
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from curate import screen as screening
from curate.config import CurateConfig, DedupeRules
from curate.decisions import REASON as DECIDED
from curate.decisions import Act, Links, dropped_faces, links_of, read_act
from curate.dedupe import REASON as NEAR_DUPLICATE
from curate.dedupe import near_duplicates, pictures
from curate.detect import REDETECTED, VANISHED, crop_batch, detect_batch, noise_batch, resolved, start_worker
from curate.embed import CROP_MISSING, batches, embed_batch, intact_shards, remove_shards, shard_name
from curate.faces.models import FaceModels
from curate.group import group, histogram
from curate.identities import make_identities
from curate.labels import doubts, label_faces, labels_told, told_doubts
from curate.pairs import make_pairs
from curate.scan import mark_replaced, mark_same_files, offered, scan_batch, still_holding
from curate.splits import check_splits, make_splits
from curate.uphold import uphold
from manifests.errors import BadInput
from manifests.filters import check_filters, columns_of, removals
from manifests.ledger import Ledger
from manifests.progress import Report
from manifests.records import (
    TABLES,
    Decision,
    Face,
    File,
    Identity,
    Label,
    Membership,
    Model,
    Pair,
    Photo,
    Record,
    Split,
)
from manifests.storage import crop_path, sweep, uri_of
from manifests.workers import Map, mapper

FILES_A_BATCH = 32
PHOTOS_A_BATCH = 32  # and so about as many faces a shard of embeddings


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
    with Ledger.open(dataset, write=True) as ledger, mapper(workers, start_worker) as run:
        for folder in ("faces", "embeddings"):
            sweep(ledger.dataset / folder)
        scan(ledger, photos, run, report)
        label(ledger, config)
        models = choose_faces(ledger, config.faces)
        config = with_models(config, models)
        check_filters(config.screen)
        # noted before a face is given one of its reasons, so that a later run knows whose reason that was
        ledger.record("filters", config.screen.name, config.screen, detail=asdict(config.screen))
        detect(ledger, config, models, run, report)
        screen(ledger, config, run, report)
        embed(ledger, config, models, run, report)
        told = {
            "config": asdict(config),
            "same_person": models.same_person,
        }  # `likeness decide` groups as this run does
        ledger.record("told", "all", told, detail=told)
        dedupe(ledger, config, models)
        group_faces(ledger, config, models.same_person, report)
        split(ledger, config)
        pair(ledger, config)
        check_splits(ledger.rows(Face), ledger.rows(Split))
        return summarise(ledger, models)


def with_models(config: CurateConfig, models: FaceModels) -> CurateConfig:
    """The configuration with what the models decide filled in."""
    return replace(config, faces=models.spec, screen=screening.resolved(config.screen, models.min_score))


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


def label(ledger: Ledger, config: CurateConfig) -> None:
    """What folders or a CSV say of the photos; made anew each time, so that it lasts as long as it is said."""
    rows, notices = labels_told(config.labels, ledger.rows(File))
    ledger.record("label", "all", {"labels": config.labels}, rows, replace=(Label,), detail={"notices": notices})


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
        detect_batch, faces=config.faces, landmarks=config.landmarks, filters=config.screen, dataset=ledger.dataset
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
    """The filters over the recorded measures: loosening one brings faces back without a new detection.

    A face whose crop has gone is cropped again, from the photo. Where a filter asks for the noise, faces recorded
    before it was measured are measured first, from their photos.
    """
    photos = {photo.photo_id: photo for photo in ledger.rows(Photo)}
    uris = _uris(ledger)
    given = {rule["reason"] for filters in ledger.details("filters") for rule in filters["filters"]}
    ours = {None, NEAR_DUPLICATE, DECIDED, VANISHED, CROP_MISSING, *screening.BUILT_IN, *given}
    known = {face.face_id: face for face in ledger.rows(Face) if face.reason in ours}

    def from_photos(what: str, work: Callable[[Any], list[Face]], faces: Iterable[Face]) -> Iterator[Face]:
        by_photo: dict[str, list[Face]] = defaultdict(list)
        for face in faces:
            by_photo[face.photo_id].append(face)
        chunks = _chunks([(photo, uris.get(photo, ()), own) for photo, own in sorted(by_photo.items())], PHOTOS_A_BATCH)
        for done, rows in enumerate(run(work, chunks), 1):
            yield from rows
            report(what, min(done * PHOTOS_A_BATCH, len(by_photo)), len(by_photo))

    measured: dict[str, Face] = {}
    if "noise" in columns_of(config.screen):
        unmeasured = [face for face in known.values() if face.noise is None]
        measured = {face.face_id: face for face in from_photos("measure", noise_batch, unmeasured)}
    faces = [measured.get(face_id, face) for face_id, face in known.items()]
    sizes = [(photos[face.photo_id].width, photos[face.photo_id].height) for face in faces]
    removed = removals(faces, sizes, config.screen)
    changed: list[Face] = []
    to_crop: list[Face] = []
    for face, reason in zip(faces, screening.first_reasons(removed, config.screen), strict=True):
        if reason is not None:
            wanted = replace(face, status="dropped", reason=reason, duplicate_of=None)
        elif face.reason in (NEAR_DUPLICATE, DECIDED):
            wanted = face
        else:
            wanted = replace(face, status="ok", reason=None)
        if reason is None and not crop_path(ledger.dataset, face.face_id).exists():
            to_crop.append(wanted)
        elif wanted != known[face.face_id]:
            changed.append(wanted)
    changed += from_photos("crop", partial(crop_batch, dataset=ledger.dataset), to_crop)
    ledger.record("screen", "all", config.screen, changed, detail=screening.tally(removed, config.screen))


def embed(ledger: Ledger, config: CurateConfig, models: FaceModels, run: Map, report: Report) -> None:
    """Embeddings of accepted faces that were not given one when they were found, and of those whose shard has gone."""
    told = {"recognizer": models.recognizer_sha256()}
    faces = ledger.rows(Face)
    intact = intact_shards(ledger.dataset, faces)
    broken = [face for face in faces if face.shard is not None and face.shard not in intact]
    if broken:
        ledger.record("embed", "lost shards", told, [replace(face, shard=None, shard_row=None) for face in broken])
    todo = [
        face
        for face in faces
        if face.shard not in intact and (face.status == "ok" or face.reason in (NEAR_DUPLICATE, DECIDED))
    ]
    work = partial(embed_batch, faces=config.faces, dataset=ledger.dataset)
    chunks, done = batches(todo), 0
    for chunk, rows in zip(chunks, run(work, chunks), strict=True):
        ledger.record("embed", shard_name(chunk), told, rows)
        done += len(chunk)
        report("embed", done, len(todo))
    remove_shards(ledger.dataset, {face.shard for face in ledger.rows(Face)})


def dedupe(ledger: Ledger, config: CurateConfig, models: FaceModels) -> None:
    """Near-duplicates point to the face that stands for them; faces that a decision drops leave with their copies."""
    acts = [read_act(row) for row in ledger.rows(Decision)]
    rules, changed = deduped(ledger, ledger.rows(Face), acts, config, models.same_person)
    ledger.record("dedupe", "all", rules, changed)


def deduped(
    ledger: Ledger, faces: Sequence[Face], acts: Sequence[Act], config: CurateConfig, same_person: float
) -> tuple[DedupeRules, list[Face]]:
    """The rules and the rows of faces that change."""
    rules = replace(config.dedupe, min_cosine_same_face=max(config.dedupe.min_cosine_same_face, same_person))
    photos = {photo.photo_id: photo for photo in ledger.rows(Photo)}
    faces = [
        face
        for face in faces
        if face.shard is not None and (face.status == "ok" or face.reason in (NEAR_DUPLICATE, DECIDED))
    ]
    _, vectors = ledger.embeddings([face.face_id for face in faces])
    rows = near_duplicates(faces, [photos[face.photo_id] for face in faces], vectors, rules)
    unwanted = dropped_faces(acts, rows)
    rows = [
        replace(row, status="dropped", reason=DECIDED, duplicate_of=None)
        if (row.duplicate_of or row.face_id) in unwanted
        else row
        for row in rows
    ]
    return rules, [row for row, face in zip(rows, faces, strict=True) if row != face]


@dataclass(frozen=True)
class Grouped:
    """What grouping found: rows, and figures worth keeping."""

    identities: list[Identity]
    memberships: list[Membership]
    links: Links
    detail: dict[str, Any]


def group_faces(ledger: Ledger, config: CurateConfig, same_person: float, report: Report) -> None:
    """Identities and memberships, with the threshold and the similarity histogram noted."""
    acts = [read_act(row) for row in ledger.rows(Decision)]
    found = grouped(ledger, ledger.rows(Face), acts, config, same_person, report)
    rows: list[Record] = [*found.identities, *found.memberships]
    ledger.record("group", "all", config.group, rows, replace=(Identity, Membership), detail=found.detail)


def grouped(
    ledger: Ledger,
    all_faces: Sequence[Face],
    acts: Sequence[Act],
    config: CurateConfig,
    same_person: float,
    report: Report,
) -> Grouped:
    """The faces that are ok, grouped, with labels and decisions replayed; nothing is written.

    Raises BadInput for decisions that contradict each other.
    """
    # two people of one picture are two people, also where the faces that stand for them lie in two copies of it
    faces = [face for face in all_faces if face.status == "ok" or face.reason == NEAR_DUPLICATE]
    face_ids, vectors = ledger.embeddings([face.face_id for face in faces if face.status == "ok"])
    photos = {photo.photo_id: photo for photo in ledger.rows(Photo)}
    picture_of = pictures(faces, photos, config.dedupe.max_photo_bits)
    picture_of = {face.face_id: picture_of[face.photo_id] for face in faces}
    rules = config.group
    labels = ledger.rows(Label)
    labelled, notices = label_faces(labels, faces)
    truth = bool(labels) and labels[0].truth
    links = links_of(acts, all_faces, face_ids, labelled if truth else {})
    report("group", 0, len(face_ids))
    found = group(
        vectors,
        None if rules.one_person_may_appear_twice else [picture_of[face] for face in face_ids],
        must_link=links.must,
        cannot_link=links.cannot,
        same_person=same_person if rules.same_person is None else rules.same_person,
        neighbours=rules.neighbours,
    )
    stands = {face.face_id: face.duplicate_of or face.face_id for face in faces}
    # where another face stands for a picture now, it is still the one that belonged to somebody
    earlier = sorted(ledger.rows(Membership), key=lambda row: stands.get(row.face_id) == row.face_id)  # own rows win
    by_face = {stands.get(row.face_id, row.face_id): row for row in earlier}
    before = [replace(row, face_id=face) for face, row in sorted(by_face.items())]
    was = {row.face_id: row.identity_id for row in before}
    found = uphold(vectors, found, links, [was.get(face) for face in face_ids])
    identities, memberships = make_identities(face_ids, found, before, links)
    if missing := sorted({one.number for one in links.missing}):
        notices.append(
            f"{len(links.missing)} faces that decisions name are not in use now (decisions "
            f"{', '.join(map(str, missing))}); the decisions are kept: `likeness decide DATASET list` says which."
        )
    disagreeing = [] if truth else doubts(labelled, memberships, {face.face_id: face.photo_id for face in faces})
    detail = {
        "threshold": found.threshold,
        "false_match_rate": found.false_match_rate,
        "histogram": histogram(vectors, found.labels),
        "label_doubts": [asdict(one) for one in disagreeing],
        "notices": [*notices, *links.notices, *told_doubts(disagreeing, len(labelled))],
    }
    report("group", len(face_ids), len(face_ids))
    return Grouped(identities, memberships, links, detail)


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
    notices = [
        *models.notices,
        *(said for stage in ("label", "group") for said in ledger.detail(stage).get("notices", ())),
    ]
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
    if same is None or same.shard is None or same.landmarks5 != face.landmarks5:
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
