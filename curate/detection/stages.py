"""The stages from files to embedded faces: scan, detect, screen, embed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from curate.config import CurateConfig
from curate.detection import screen as screening
from curate.detection.detect import REDETECTED, VANISHED, crop_batch, detect_batch, noise_batch, resolved
from curate.detection.embed import (
    CROP_MISSING,
    SHA256,
    batches,
    embed_batch,
    intact_shards,
    named_by_content,
    remove_shards,
    unit_name,
)
from curate.faces.interface import FaceModels
from curate.photos.consent import in_use
from curate.photos.scan import (
    count_batch,
    mark_replaced,
    mark_same_files,
    offered,
    scan_batch,
    still_hidden,
    still_holding,
    told_gone,
)
from manifests.errors import BadInput
from manifests.ledger.decision_log import DROPPED_BY_DECISION
from manifests.ledger.filters import columns_of, find_removals
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import NEAR_DUPLICATE, TABLES, Face, File, Model, Photo, Record
from manifests.privacy.erase import CONSENT_MISSING, NO_CONSENT, OPTED_OUT
from manifests.privacy.kept_out import read_kept_out_list
from manifests.privacy.keys import HIDDEN_PREFIX, hide_uri
from manifests.runtime.archives import ARCHIVE, Member
from manifests.runtime.files import sha256_file
from manifests.runtime.progress import Progress
from manifests.runtime.uris import parse_member_uri, path_of, uri_of
from manifests.runtime.workers import FAILURES, BatchMap

FILES_A_BATCH = 32
PHOTOS_A_BATCH = 32  # and so about as many faces a shard of embeddings


def scan(ledger: Ledger, photos: Sequence[Path], run: BatchMap, progress: Progress) -> list[str]:
    """A row for every file offered; files whose size and time have not changed since their row are not read again.

    Members of archives follow the files. An archive has its own row once all its members have theirs, so one that was
    broken off is read again. Answers what is to be told of files that were here before and are no longer there.
    """
    known = {file.uri: file for file in ledger.read_rows(File)}
    met: set[str] = set()
    found: dict[str, Path] = {}
    refused: dict[str, File] = {}
    walked: set[str] = set()
    kept_out = read_kept_out_list(ledger)
    hidden = {uri for uri in known if uri.startswith(HIDDEN_PREFIX)}
    for item in offered(photos, walked):
        if isinstance(item, File):
            if not still_hidden(item, kept_out.key, hidden):
                refused[item.uri] = still_holding(item, known.get(item.uri))
            continue
        met.add(uri_of(item))
        if not _unchanged(item, known.get(uri_of(item))):
            found[uri_of(item)] = item
    new_reasons = [row for uri, row in refused.items() if known.get(uri) != row]
    # what could not be walked and now is a folder that was has its files' rows instead of its own
    healed = [uri for uri, row in known.items() if row.bytes is None and uri in walked]
    if new_reasons or healed:
        ledger.record("scan", "not walked", {}, new_reasons, delete=[("files", "uri", healed)])
    have = {photo.photo_id for photo in ledger.read_rows(Photo)}
    archives: list[Path] = []
    members_of: dict[str, list[str]] = defaultdict(list)
    for uri in known:
        if not uri.startswith(HIDDEN_PREFIX) and parse_member_uri(uri) is not None:
            members_of[uri.partition("#")[0]].append(uri)
    work = partial(scan_batch, kept_out=kept_out)

    def record(offered: Sequence[str], rows: Sequence[File | Photo]) -> None:
        """Write what became of the files of these uris."""
        rows = [row for row in rows if isinstance(row, Photo) or not still_hidden(row, kept_out.key, hidden)]
        rows = [still_holding(row, known.get(row.uri)) if isinstance(row, File) else row for row in rows]
        new = [row for row in rows if not (isinstance(row, Photo) and row.photo_id in have)]
        files = {row.uri: row for row in rows if isinstance(row, File)}
        # an archive that has become something else has no members
        gone = [uri for row in files.values() if row.bytes is not None for uri in members_of[row.uri]]
        # a file that held something else before has its row under the other of its two names
        stale = {uri for uri in offered if uri in known and uri not in files}
        if hidden:
            stale |= {hide_uri(kept_out.key, uri) for uri in files if not uri.startswith(HIDDEN_PREFIX)} & hidden
        deletions = [("files", "uri", [*gone, *stale]), ("stages", "unit", sorted(stale))]
        ledger.record("scan", list(files), {}, _first_of_each(new), delete=deletions if gone or stale else [])

    chunks = _chunks(list(found.values()), FILES_A_BATCH)
    for done, (chunk, rows) in enumerate(zip(chunks, run(work, chunks), strict=True), 1):
        packed = {row.uri for row in rows if isinstance(row, File) and row.reason == ARCHIVE}
        archives += [path for path in chunk if uri_of(path) in packed]
        plain = [uri for uri in map(uri_of, chunk) if uri not in packed]
        record(plain, [row for row in rows if not (isinstance(row, File) and row.uri in packed)])
        progress("scan", min(done * FILES_A_BATCH, len(found)), len(found))
    for ((archive, members),) in run(count_batch, [[path] for path in archives]):
        places = [Member(path_of(archive.uri), index) for index in range(members)]
        now = {archive.uri}
        chunks = _chunks(places, FILES_A_BATCH)
        for done, rows in enumerate(run(work, chunks), 1):
            record([], rows)
            now |= {row.uri for row in rows if isinstance(row, File)}
            progress("archives", min(done * FILES_A_BATCH, members), members)
        # one that cannot be read now may still hold what it held
        counted = archive.bytes is not None and archive.reason not in FAILURES
        gone = [uri for uri in members_of[archive.uri] if uri not in now] if counted else []
        ledger.record("scan", archive.uri, {}, [archive], delete=[("files", "uri", gone)])
    if changed := mark_same_files(ledger.read_rows(File)):
        ledger.record("scan", "same files", {}, changed)
    replaced, back = mark_replaced(ledger.read_rows(File), ledger.read_rows(Photo), ledger.read_rows(Face))
    if replaced or back:  # a photo that is back is looked at again, and so are its faces
        deletions = [("stages", "unit", [photo.photo_id for photo in back])]
        ledger.record("scan", "replaced files", {}, [*replaced, *back], delete=deletions)
    return told_gone([row for uri, row in known.items() if uri not in met and uri not in refused])


def choose_faces(ledger: Ledger, spec: str) -> FaceModels:
    """Load the face models and note them; a dataset keeps the recognizer it began with."""
    noted = ledger.read_rows(Model)
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
    ledger.record("models", models.recognizer_sha256(), {}, rows, delete=[("models", "file", unused)])
    return models


def with_models(config: CurateConfig, models: FaceModels) -> CurateConfig:
    """The configuration with what the models decide filled in."""
    rules = config.group
    if rules.same_person is None and not models.calibrates:
        rules = replace(rules, same_person=models.same_person)
    screen = screening.resolved(config.screen, models.min_score)
    return replace(config, faces=models.spec, screen=screen, group=rules)


def detect(ledger: Ledger, config: CurateConfig, models: FaceModels, run: BatchMap, progress: Progress) -> None:
    """Faces of every photo that was not yet looked at by this detector."""
    told = {"detector": next(f.sha256 for f in models.files if f.role == "detector"), "landmarks": config.landmarks}
    if config.landmarks == "dlib":
        from curate.faces.dlib_models import list_landmark_files

        used = [Model(file.role, file.path.name, "dlib", file.sha256, file.licence) for file in list_landmark_files()]
        ledger.record("models", "landmarks", {}, used)
    finished = ledger.find_finished("detect", told)
    if config.landmarks is None:  # what was found with 68 landmarks serves whoever wants none
        finished |= ledger.find_finished("detect", {**told, "landmarks": "dlib"})
    uris = _uris(ledger)
    usable = in_use({photo.photo_id: photo for photo in ledger.read_rows(Photo)})
    todo = [
        (photo, uris[photo.photo_id])
        for photo in ledger.read_rows(Photo)
        if photo.photo_id in uris and photo.photo_id in usable and photo.photo_id not in finished
    ]
    todo.sort(key=lambda item: _place(item[1]))
    earlier: dict[str, dict[str, Face]] = defaultdict(dict)
    for face in ledger.read_rows(Face):
        earlier[face.photo_id][face.face_id] = face
    work = partial(
        detect_batch,
        faces=config.faces,
        landmarks=config.landmarks,
        filters=config.screen,
        dataset=ledger.dataset,
        kept_out=read_kept_out_list(ledger, models.recognizer_sha256(), models.same_person),
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
        gone = [face for face in gone if face.reason != OPTED_OUT]
        rows += [replace(face, status="dropped", reason=REDETECTED, duplicate_of=None) for face in gone]
        ledger.record("detect", units, told, rows)
        progress("detect", min(done * PHOTOS_A_BATCH, len(todo)), len(todo))


def screen(ledger: Ledger, config: CurateConfig, run: BatchMap, progress: Progress) -> None:
    """The filters over the recorded measures: loosening one brings faces back without a new detection.

    A face whose crop has gone is cropped again, from the photo. Where a filter asks for the noise, faces recorded
    before it was measured are measured first, from their photos.
    """
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    uris = _uris(ledger)
    given = {rule["reason"] for filters in ledger.read_details("filters") for rule in filters["filters"]}
    ours = {None, NEAR_DUPLICATE, DROPPED_BY_DECISION, VANISHED, CROP_MISSING, *FAILURES, *screening.BUILT_IN, *given}
    ours |= {NO_CONSENT, CONSENT_MISSING}  # of photos that may be used again
    usable = in_use(photos)
    known = {f.face_id: f for f in ledger.read_rows(Face) if f.reason in ours and f.photo_id in usable}

    def from_photos(what: str, work: Callable[[Any], list[Face]], faces: Iterable[Face]) -> Iterator[Face]:
        by_photo: dict[str, list[Face]] = defaultdict(list)
        for face in faces:
            by_photo[face.photo_id].append(face)
        asked = [(photo, uris.get(photo, ()), own) for photo, own in sorted(by_photo.items())]
        asked.sort(key=lambda item: _place(item[1]))
        chunks = _chunks(asked, PHOTOS_A_BATCH)
        for done, rows in enumerate(run(work, chunks), 1):
            yield from rows
            progress(what, min(done * PHOTOS_A_BATCH, len(by_photo)), len(by_photo))

    measured: dict[str, Face] = {}
    if "noise" in columns_of(config.screen):
        unmeasured = [face for face in known.values() if face.noise is None]
        measured = {face.face_id: face for face in from_photos("measure", noise_batch, unmeasured)}
    faces = [measured.get(face_id, face) for face_id, face in known.items()]
    sizes = [(photos[face.photo_id].width, photos[face.photo_id].height) for face in faces]
    removed = find_removals(faces, sizes, config.screen)
    changed: list[Face] = []
    to_crop: list[Face] = []
    doubted = {CROP_MISSING, VANISHED, *FAILURES}  # the crop of such a face may be there and broken
    for face, reason in zip(faces, screening.first_reasons(removed, config.screen), strict=True):
        if reason is not None:
            wanted = replace(face, status="dropped", reason=reason, duplicate_of=None)
        elif face.reason in (NEAR_DUPLICATE, DROPPED_BY_DECISION):
            wanted = face
        else:
            wanted = replace(face, status="ok", reason=None)
        crop = crop_path(ledger.dataset, face.face_id)
        if reason is None and not (_whole(crop, face) if face.reason in doubted else crop.exists()):
            to_crop.append(wanted)
            continue
        if reason is None and face.crop_sha256 is None:  # of an older Likeness, which did not note it
            wanted = replace(wanted, crop_sha256=sha256_file(crop))
        if wanted != known[face.face_id]:
            changed.append(wanted)
    changed += from_photos("crop", partial(crop_batch, dataset=ledger.dataset), to_crop)
    ledger.record("screen", "all", config.screen, changed, detail=screening.tally(removed, config.screen))


def embed(ledger: Ledger, config: CurateConfig, models: FaceModels, run: BatchMap, progress: Progress) -> None:
    """Embeddings of accepted faces that were not given one when they were found, and of those whose shard has gone."""
    told = {"recognizer": models.recognizer_sha256()}
    faces = ledger.read_rows(Face)
    intact = intact_shards(ledger.dataset, faces)
    broken = [face for face in faces if face.shard is not None and face.shard not in intact]
    if broken:
        ledger.record("embed", "lost shards", told, [replace(face, shard=None, shard_row=None) for face in broken])
    older = [face for face in faces if face.shard in intact and len(face.shard) != SHA256]
    if older:
        ledger.record("embed", "named by content", told, named_by_content(ledger.dataset, older))
    todo = [
        face
        for face in faces
        if face.shard not in intact and (face.status == "ok" or face.reason in (NEAR_DUPLICATE, DROPPED_BY_DECISION))
    ]
    work = partial(embed_batch, faces=config.faces, dataset=ledger.dataset)
    chunks, done = batches(todo), 0
    for chunk, rows in zip(chunks, run(work, chunks), strict=True):
        ledger.record("embed", unit_name(chunk), told, rows)
        done += len(chunk)
        progress("embed", done, len(todo))
    remove_shards(ledger.dataset, {face.shard for face in ledger.read_rows(Face)})


def _whole(crop: Path, face: Face) -> bool:
    return crop.is_file() and sha256_file(crop) == face.crop_sha256


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
    for file in ledger.read_rows(File):
        if file.photo_id is not None:
            uris[file.photo_id].append(file.uri)
    return {photo_id: tuple(found) for photo_id, found in uris.items()}


def _place(uris: Sequence[str]) -> tuple[str, int]:
    """What orders photos: those in an archive as they lie in it, so that it is unpacked once; others before them."""
    member = None if any("#" not in uri for uri in uris) else parse_member_uri(min(uris))
    return ("", 0) if member is None else (uri_of(member[0]), member[1])


def _keep_embedding(face: Face, before: dict[str, Face]) -> Face:
    """A face that is detected again keeps its embedding: its crop, and so its embedding, is the same."""
    same = before.get(face.face_id)
    if face.reason == OPTED_OUT or same is None or same.shard is None or same.landmarks5 != face.landmarks5:
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
