"""Plans a purge. A plan lists the photos, faces, files and rows to remove, and the traces that the proof looks for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from manifests.errors import BadInput
from manifests.ledger.cleaned_targets import find_version_files
from manifests.ledger.decisions.applied_decisions import check_decisions_applied
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path, shard_path
from manifests.ledger.records import Face, File, Membership, Photo
from manifests.privacy.kept_out import find_kept_out_reason
from manifests.privacy.keys import HIDDEN_PREFIX
from manifests.privacy.picture_marks import find_copies
from manifests.privacy.proof import Traces, sample_middle
from manifests.privacy.run_cleanup import find_faces_in_runs
from manifests.runtime.files import sha256_bytes
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path, is_end_of_path, uri_of

PURGED = "purged"
_PREFIX = 6  # A user may shorten an id to this many characters. manifests/why/explain_photo.py has the same number.


@dataclass(frozen=True)
class PurgePlan:
    """Everything that a purge removes.

    `photos` is empty if earlier purges already removed all photos that the user names.
    """

    reason: str  # PURGED, or OPTED_OUT of manifests/privacy/erase.py.
    photos: tuple[str, ...] = ()
    # For each photo that is not in the dataset and must stay out: the sha256 of its file, the sha256 of its stored
    # samples, and its perceptual hash. The last two are None if the user named only the sha256, or if the file cannot
    # be decoded.
    kept_out: tuple[tuple[str, str | None, str | None], ...] = ()
    uris: tuple[str, ...] = ()
    faces: tuple[str, ...] = ()
    people: tuple[str, ...] = ()  # Identity ids of people whose faces are all removed.
    other_faces: int = 0  # Number of faces of other people in the photos. These faces are removed too.
    lq_images: int = 0
    targets: int = 0  # Number of removed faces that are targets.
    checkpoints: tuple[str, ...] = ()  # Folders of checkpoints that were trained on the faces.
    runs: tuple[str, ...] = ()  # Folders of runs and benchmarks that the user named, and that the purge also cleans.
    # What the user named, as `--person TEXT` or `--photo TEXT`. The same command recognizes its stopped purge with it.
    named: tuple[str, ...] = ()
    purge_id: int | None = None  # The key of the purge's row in the ledger. None before the purge begins.
    traces: Traces = field(default_factory=Traces)


def plan_purge(
    dataset: Path,
    people: Sequence[str] = (),
    photos: Sequence[str] = (),
    runs: Sequence[Path] = (),
    reason: str = PURGED,
) -> PurgePlan:
    """Returns the plan that removes these people and photos. Nothing is written.

    `people` are identity ids, beginnings of identity ids, or names. `photos` are paths, file names, or beginnings of a
    sha256. The plan removes the named photos, all photos that show one of the people, and the copies of all
    these photos (see `_add_copies`).
    A photo that is already kept out is ignored. Raises BadInput if a name does not fit exactly one person or photo of
    the dataset. Raises BadInput if a run is not a folder.
    """
    _check_runs(runs)
    with Ledger.open(dataset) as ledger:
        if people:
            check_decisions_applied(ledger)  # a decision that is not applied may change the faces of the person
        faces, members = ledger.read_rows(Face), ledger.read_rows(Membership)
        identities = _find_people(ledger, people)
        members_of_them = {row.face_id for row in members if row.identity_id in identities}
        photo_ids = {
            face.photo_id for face in faces if face.face_id in members_of_them or face.duplicate_of in members_of_them
        }
        photo_ids |= {photo_id for photo in photos for photo_id in _find_photo(ledger, photo)}
        return _plan_photos(ledger, _add_copies(ledger, faces, photo_ids), identities, runs, reason)


def add_runs(dataset: Path, plan: PurgePlan, runs: Sequence[Path]) -> PurgePlan:
    """Returns the plan of an unfinished purge, which also cleans `runs`. Raises BadInput if a run is not a folder."""
    _check_runs(runs)
    finds = find_faces_in_runs([dataset, *runs], plan.faces)
    return replace(
        plan,
        runs=tuple(dict.fromkeys([*plan.runs, *(str(path.absolute()) for path in runs)])),
        checkpoints=tuple(sorted({*plan.checkpoints, *(path for run in finds for path in run.checkpoints)})),
        traces=replace(
            plan.traces, pixels=tuple(sorted({*plan.traces.pixels, *(pixel for run in finds for pixel in run.pixels)}))
        ),
    )


def _check_runs(runs: Sequence[Path]) -> None:
    if missing := [run for run in runs if not run.is_dir()]:
        raise BadInput(f"--run {missing[0]} is not a folder. Name the folder of a training run or of a benchmark.")


def _find_people(ledger: Ledger, people: Sequence[str]) -> set[str]:
    """Returns the identity ids of these people.

    Raises BadInput if an item of `people` does not fit exactly one identity.
    """
    name_of = dict(ledger.query("SELECT identity_id, name FROM identities ORDER BY 1").iter_rows())
    identities = set()
    for person in people:
        fits = [identity for identity, name in name_of.items() if person in (identity, name)]
        fits = fits or [identity for identity in name_of if len(person) >= _PREFIX and identity.startswith(person)]
        if len(fits) != 1:
            raise BadInput(
                f"{ledger.dataset} has {len(fits) or 'no'} people named {make_printable(person)}. Name one person "
                "by the id. The command `likeness manifest why DATASET PHOTO` prints the ids of the people in a photo."
            )
        identities.add(fits[0])
    return identities


def _find_photo(ledger: Ledger, photo: str) -> set[str]:
    """Returns a set with the id of the photo that the text `photo` names, or an empty set if this photo is kept out.

    Raises BadInput if the text does not fit exactly one photo.
    """
    exact: set[str] = set()  # Photos with this path.
    similar: set[str] = set()  # Photos whose path ends with this text.
    for uri, photo_id in ledger.query("SELECT uri, photo_id FROM files WHERE photo_id IS NOT NULL").iter_rows():
        path = display_path(uri)
        if uri == uri_of(photo):
            exact.add(photo_id)
        elif is_end_of_path(photo, path):
            similar.add(photo_id)
    fits = exact or similar
    if not fits and re.fullmatch(rf"[\w-]{{{_PREFIX},}}", photo, re.ASCII):
        by_hash = "SELECT photo_id FROM photos WHERE starts_with(photo_id, $1) UNION "
        by_hash += "SELECT photo_id FROM files WHERE photo_id IS NOT NULL AND starts_with(sha256, $1)"
        fits = set(ledger.query(by_hash, photo)["photo_id"])
    if len(fits) == 1:
        return fits
    if fits:
        raise BadInput(
            f"{ledger.dataset} contains {len(fits)} photos named {make_printable(photo)}. Name one photo by a longer "
            "part of its path, or by its sha256."
        )
    if find_kept_out_reason(ledger, photo) is not None:
        return set()
    raise BadInput(
        f"{ledger.dataset} contains no photo {make_printable(photo)}, and there is no such file. Name a photo by its "
        "path, its file name, or its sha256. For a photo that was never in the dataset, use `likeness manifest optout` "
        "with a file, or with all 64 characters of a sha256."
    )


def _add_copies(ledger: Ledger, faces: Sequence[Face], photo_ids: set[str]) -> set[str]:
    """Returns these photos and all copies of these photos.

    A photo is a copy in three cases. One of its faces is a near-duplicate of a face in these photos. One of its faces
    has the embedding and the perceptual hash of a face in these photos. The marks of these photos would keep the photo
    out of a later curation.
    """
    photo_of = {face.face_id: face.photo_id for face in faces}
    duplicates: dict[str, set[str]] = {}
    for face in faces:
        if face.duplicate_of is not None:
            one, other = face.photo_id, photo_of[face.duplicate_of]
            duplicates.setdefault(one, set()).add(other)
            duplicates.setdefault(other, set()).add(one)
    # add photos with near-duplicates of faces in `copies`, until there are no more such photos
    copies, queue = set(photo_ids), list(photo_ids)
    while queue:
        for other in duplicates.get(queue.pop(), set()) - copies:
            copies.add(other)
            queue.append(other)
    # find the photos of the other two cases, and then the copies of these photos
    keys = {
        (embedding, face.phash)
        for face, embedding in _read_embeddings(ledger, [f for f in faces if f.photo_id in copies])
    }
    rest = [face for face in faces if face.photo_id not in copies and face.shard is not None]
    same_faces = {
        face.photo_id for face, embedding in _read_embeddings(ledger, rest) if (embedding, face.phash) in keys
    }
    same_pictures = set().union(*find_copies(ledger.read_rows(Photo), copies).values()) - copies
    more = same_faces | same_pictures
    return _add_copies(ledger, faces, copies | more) if more else copies


def _read_embeddings(ledger: Ledger, faces: Iterable[Face]) -> Iterator[tuple[Face, str]]:
    """Yields pairs of a face and its embedding as float32 bytes in hex. Skips faces whose embedding is missing."""
    faces_of_shard: dict[str, list[Face]] = {}
    for face in faces:
        if face.shard is not None and face.shard_row is not None:
            faces_of_shard.setdefault(face.shard, []).append(face)
    for shard, members in sorted(faces_of_shard.items()):
        try:
            embeddings = np.asarray(np.load(shard_path(ledger.dataset, shard)), np.float32)
        except (OSError, ValueError, EOFError):
            continue
        for face in members:
            if (row := face.shard_row or 0) < len(embeddings):
                yield face, embeddings[row].tobytes().hex()


def _plan_photos(
    ledger: Ledger, photo_ids: set[str], identities: Collection[str], runs: Sequence[Path], reason: str
) -> PurgePlan:
    """Returns the plan that removes these photos. `identities` are the ids of the people whom the user named."""
    dataset = ledger.dataset
    faces = {face.face_id: face for face in ledger.read_rows(Face) if face.photo_id in photo_ids}
    face_ids = sorted(faces)
    all_files = ledger.read_rows(File)
    files = [row for row in all_files if row.photo_id in photo_ids]
    uris = sorted({row.uri for row in files} | _find_companions(all_files, photo_ids))
    longer_uris = sorted(row.uri for row in all_files if row.uri.startswith(tuple(uris)) and row.uri not in uris)
    hashes = photo_ids | {row.sha256 for row in files if row.sha256 is not None}

    # people without a face in another photo are removed too
    members = ledger.read_rows(Membership)
    identity_of = {row.face_id: row.identity_id for row in members}
    people_outside = {row.identity_id for row in members if row.face_id not in faces}
    people_inside = {row.identity_id for row in members if row.face_id in faces}
    people = sorted(people_inside - people_outside)
    other_faces = [face for face in face_ids if face in identity_of and identity_of[face] not in identities]

    lq_rows = list(
        ledger.query("SELECT lq_set, face_id FROM degradations WHERE list_contains(?, face_id)", face_ids).rows()
    )
    targets = ledger.query("SELECT target FROM pairs WHERE list_contains(?, target)", face_ids)
    faces_in_runs = find_faces_in_runs([dataset, *runs], faces)

    # the proof searches for the hashes of the faces' image files, and for bytes from their middle
    paths = [crop_path(dataset, face) for face in face_ids]
    paths += [dataset / "lq" / lq_set / f"{face}.png" for lq_set, face in lq_rows]
    paths += [path for face in face_ids for path in find_version_files(dataset, face)]
    images = [path.read_bytes() for path in paths if path.is_file()]

    return PurgePlan(
        reason,
        photos=tuple(sorted(photo_ids)),
        uris=tuple(uris),
        faces=tuple(face_ids),
        people=tuple(people),
        other_faces=len(other_faces) if identities else 0,
        lq_images=len(lq_rows),
        targets=len(targets),
        checkpoints=tuple(sorted({path for run in faces_in_runs for path in run.checkpoints})),
        runs=tuple(str(path.absolute()) for path in runs),
        traces=Traces(
            photos=tuple(sorted(hashes)),
            pictures=tuple(_find_own_hashes(ledger, photo_ids)),
            faces=tuple(face_ids),
            people=tuple(people),
            uris=tuple(uris),
            longer_uris=tuple(longer_uris),
            images=tuple(sorted({sha256_bytes(image) for image in images})),
            middles=tuple(sorted({sample_middle(image) for image in images} - {""})),
            embeddings=tuple(_find_own_embeddings(ledger, faces)),
            pixels=tuple(sorted({sha256 for run in faces_in_runs for sha256 in run.pixels})),
        ),
    )


def _find_companions(files: Sequence[File], photo_ids: Collection[str]) -> set[str]:
    """Returns the uris of the companions of these photos. A companion lies beside its photo, and its name begins like
    the name of the photo.

    For example, the companions of `a.jpg` are `a.jpg.xmp` and `a.jpg.json`. `a.xmp` is a companion only if no other
    photo with the stem `a`, such as `a.png`, stays.
    """
    own = {str(display_path(row.uri)) for row in files if row.photo_id in photo_ids}
    stems = {str(Path(path).with_suffix("")) for path in own}
    stems -= {str(display_path(row.uri).with_suffix("")) for row in files if row.photo_id not in (None, *photo_ids)}
    companions = set()
    for row in files:
        if row.photo_id is None and not row.uri.startswith(HIDDEN_PREFIX):
            path = display_path(row.uri)
            extends = any(str(parent) in own for parent in _cut_suffixes(path))
            if extends or (path.suffix.lower() == ".xmp" and str(path.with_suffix("")) in stems):
                companions.add(row.uri)
    return companions


def _cut_suffixes(path: Path) -> Iterator[Path]:
    """Yields the path with fewer and fewer suffixes, for example `a/b.jpg` and `a/b` for `a/b.jpg.x`."""
    while path.suffix:
        path = path.with_suffix("")
        yield path


def _find_own_hashes(ledger: Ledger, photo_ids: Collection[str]) -> list[str]:
    """Returns the hashes of stored samples and the perceptual hashes that only these photos have."""
    own: set[str] = set()
    others: set[str] = set()
    for photo in ledger.read_rows(Photo):
        hashes = {text for text in (photo.samples, photo.phash256) if text is not None}
        (own if photo.photo_id in photo_ids else others).update(hashes)
    return sorted(own - others)


def _find_own_embeddings(ledger: Ledger, face_ids: Collection[str]) -> list[str]:
    """Returns the embeddings that only these faces have, as hex digits."""
    faces = ledger.read_rows(Face)
    own = {embedding for _, embedding in _read_embeddings(ledger, [face for face in faces if face.face_id in face_ids])}
    others = [face for face in faces if face.face_id not in face_ids]
    return sorted(own - {embedding for _, embedding in _read_embeddings(ledger, others) if embedding in own})
