"""What a purge of a person or a photo removes: rows, files, faces in runs, and the traces to search for."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from manifests.errors import BadInput
from manifests.ledger.cleaned_targets import find_version_files
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path, shard_path
from manifests.ledger.records import Face, File, Membership
from manifests.privacy.kept_out import find_kept_out_reason
from manifests.privacy.proof import Traces, sample_middle
from manifests.privacy.run_cleanup import find_faces_in_runs
from manifests.runtime.files import sha256_bytes
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path, uri_of

PURGED = "purged"
_PREFIX = 6  # characters that begin an id, as in manifests/why.py


@dataclass(frozen=True)
class PurgePlan:
    """What a purge takes away; empty where nothing of it is there any more."""

    reason: str
    photos: tuple[str, ...] = ()
    kept_out: tuple[str, ...] = ()  # photos that were never in, to be kept out
    uris: tuple[str, ...] = ()
    faces: tuple[str, ...] = ()
    people: tuple[str, ...] = ()  # identities of whom nobody is left
    other_faces: int = 0  # faces of other people in the same photos, who go along
    lq_images: int = 0  # low-quality images
    targets: int = 0
    checkpoints: tuple[str, ...] = ()  # trained on them; weights cannot be cleaned
    runs: tuple[str, ...] = ()  # folders outside the dataset
    traces: Traces = field(default_factory=Traces)


def plan_purge(
    dataset: Path,
    people: Sequence[str] = (),
    photos: Sequence[str] = (),
    runs: Sequence[Path] = (),
    reason: str = PURGED,
) -> PurgePlan:
    """What would be taken away; nothing is written.

    `people` are identity ids, their beginnings, or names; `photos` paths, file names, or the beginning of a hash. A
    photo that shows a person goes whole, and copies that dedupe found go with it. Raises BadInput for what the dataset
    does not know, or knows several of; what is kept out already is no error.
    """
    if missing := [run for run in runs if not run.is_dir()]:
        raise BadInput(f"--run {missing[0]} is no folder: name a training run or a benchmark.")
    with Ledger.open(dataset) as ledger:
        faces, members = ledger.read_rows(Face), ledger.read_rows(Membership)
        named = _named(ledger, people)
        shown = {row.face_id for row in members if row.identity_id in named}
        wanted = {face.photo_id for face in faces if face.face_id in shown or face.duplicate_of in shown}
        wanted |= {photo for told in photos for photo in _photo(ledger, told)}
        return _plan(ledger, _with_copies(ledger, faces, wanted), named, runs, reason)


def _named(ledger: Ledger, told: Sequence[str]) -> set[str]:
    """The ids of these people. Raises BadInput for one whom the dataset does not know, or knows several of."""
    names = dict(ledger.query("SELECT identity_id, name FROM identities ORDER BY 1").iter_rows())
    chosen = set()
    for one in told:
        fits = [person for person, name in names.items() if one in (person, name)]
        fits = fits or [person for person in names if len(one) >= _PREFIX and person.startswith(one)]
        if len(fits) != 1:
            raise BadInput(
                f"{ledger.dataset} has {len(fits) or 'no'} people {make_printable(one)}: name one by its id, "
                "`likeness manifest why` tells it of a photo."
            )
        chosen.add(fits[0])
    return chosen


def _photo(ledger: Ledger, told: str) -> set[str]:
    """The photo that is meant; empty where it was taken out before. Raises BadInput where there is none, or several."""
    found: set[str] = set()
    exact: set[str] = set()
    for uri, photo in ledger.query("SELECT uri, photo_id FROM files WHERE photo_id IS NOT NULL").iter_rows():
        path = display_path(uri)
        if uri == uri_of(told):
            exact.add(photo)
        elif told == path.name or (os.sep in told and str(path).endswith(os.sep + told)):
            found.add(photo)
    found = exact or found
    if not found and re.fullmatch(rf"[\w-]{{{_PREFIX},}}", told, re.ASCII):
        found = set(ledger.query("SELECT photo_id FROM photos WHERE starts_with(photo_id, ?)", told)["photo_id"])
    if len(found) == 1:
        return found
    if found:
        raise BadInput(
            f"{ledger.dataset} holds {len(found)} photos {make_printable(told)}: say more of the path, or the hash."
        )
    if find_kept_out_reason(ledger, told) is not None:
        return set()
    raise BadInput(
        f"{ledger.dataset} holds no photo {make_printable(told)}, and there is no such file: look at "
        "`likeness manifest "
        "why`. `likeness manifest optout` takes a file that was never in, or all 64 characters of its sha256."
    )


def _with_copies(ledger: Ledger, faces: Sequence[Face], photos: set[str]) -> set[str]:
    """The photos, and those with the same pictures again: as dedupe found, or by embedding and hash of a face."""
    photo_of = {face.face_id: face.photo_id for face in faces}
    links: dict[str, set[str]] = {}
    for face in faces:
        if face.duplicate_of is not None:
            one, other = face.photo_id, photo_of[face.duplicate_of]
            links.setdefault(one, set()).add(other)
            links.setdefault(other, set()).add(one)
    found, todo = set(photos), list(photos)
    while todo:
        for other in links.get(todo.pop(), set()) - found:
            found.add(other)
            todo.append(other)
    gone = {(vector, face.phash) for face, vector in _vectors(ledger, [f for f in faces if f.photo_id in found])}
    rest = [face for face in faces if face.photo_id not in found and face.shard is not None]
    twins = {face.photo_id for face, vector in _vectors(ledger, rest) if (vector, face.phash) in gone}
    return _with_copies(ledger, faces, found | twins) if twins else found


def _vectors(ledger: Ledger, faces: Iterable[Face]) -> Iterator[tuple[Face, str]]:
    """Faces with the bytes of their embeddings in hex, a shard at a time."""
    within: dict[str, list[Face]] = {}
    for face in faces:
        if face.shard is not None and face.shard_row is not None:
            within.setdefault(face.shard, []).append(face)
    for shard, members in sorted(within.items()):
        try:
            vectors = np.asarray(np.load(shard_path(ledger.dataset, shard)), np.float32)
        except (OSError, ValueError, EOFError):
            continue
        for face in members:
            if (row := face.shard_row or 0) < len(vectors):
                yield face, vectors[row].tobytes().hex()


def _plan(ledger: Ledger, photos: set[str], named: Collection[str], runs: Sequence[Path], reason: str) -> PurgePlan:
    faces = {face.face_id: face for face in ledger.read_rows(Face) if face.photo_id in photos}
    members = ledger.read_rows(Membership)
    left = {row.identity_id for row in members if row.face_id not in faces}
    inside = {row.identity_id for row in members if row.face_id in faces}
    identities = {row.face_id: row.identity_id for row in members}
    gone = sorted(faces)
    uris = [row.uri for row in ledger.read_rows(File) if row.photo_id in photos]
    images = list(ledger.query("SELECT lq_set, face_id FROM degradations WHERE list_contains(?, face_id)", gone).rows())
    pairs = ledger.query("SELECT target FROM pairs WHERE list_contains(?, target)", gone)
    dataset = ledger.dataset
    held = find_faces_in_runs([dataset, *runs], faces)
    pictures = [crop_path(dataset, face) for face in gone]
    pictures += [dataset / "lq" / name / f"{face}.png" for name, face in images]
    pictures += [path for face in gone for path in find_version_files(dataset, face)]
    data = [path.read_bytes() for path in pictures if path.is_file()]
    wholly = sorted(inside - left)
    return PurgePlan(
        reason,
        photos=tuple(sorted(photos)),
        uris=tuple(sorted(uris)),
        faces=tuple(gone),
        people=tuple(wholly),
        other_faces=sum(identities[face] not in named for face in gone if face in identities) if named else 0,
        lq_images=len(images),
        targets=len(pairs),
        checkpoints=tuple(sorted({path for one in held for path in one.checkpoints})),
        runs=tuple(str(path.absolute()) for path in runs),
        traces=Traces(
            photos=tuple(sorted(photos)),
            faces=tuple(gone),
            people=tuple(wholly),
            uris=tuple(sorted(uris)),
            pictures=tuple(sorted({sha256_bytes(one) for one in data})),
            middles=tuple(sorted({sample_middle(one) for one in data} - {""})),
            embeddings=tuple(_embeddings(ledger, faces)),
            pixels=tuple(sorted({pixel for one in held for pixel in one.pixels})),
        ),
    )


def _embeddings(ledger: Ledger, gone: Collection[str]) -> list[str]:
    """The embeddings of these faces that are no other face's as well."""
    faces = ledger.read_rows(Face)
    own = {vector for _, vector in _vectors(ledger, [face for face in faces if face.face_id in gone])}
    return sorted(
        own - {vector for _, vector in _vectors(ledger, [f for f in faces if f.face_id not in gone]) if vector in own}
    )
