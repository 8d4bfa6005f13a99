"""Removes all data that was made of some faces: crops, embeddings, low-quality images and rows of the ledger.

The rows are removed in one transaction, and the files are removed after this transaction. If the process is killed
before all files are removed, the next call removes the remaining files.
"""

from __future__ import annotations

import io
import json
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from manifests.ledger.cleaned_targets import find_version_files
from manifests.ledger.leak_audit import plan_audit_update
from manifests.ledger.ledger import Deletion, DetailUpdate, Ledger
from manifests.ledger.paths import MAPS, PARTS, THUMBNAILS, VISIT_NAME, crop_path, shard_path
from manifests.ledger.queries import read_faces_with_reason, read_units
from manifests.ledger.records import Face, Identity, Membership, Pair, Record, Split, remove_embedding
from manifests.ledger.store_copy import erase_from_store
from manifests.privacy.names_in_details import find_labels_of_faces, remove_names_from_details
from manifests.privacy.run_cleanup import remove_faces_from_runs
from manifests.runtime.files import ARRAY_ERRORS, remove_temporary_files, sha256_bytes, write_atomically

# The row of a face that is dropped for one of these reasons stays. All other data of the face is removed.
NO_CONSENT, CONSENT_MISSING, OPTED_OUT = "no_consent", "consent_missing", "opted_out"
ERASURE_REASONS = (NO_CONSENT, CONSENT_MISSING, OPTED_OUT)
CONSENT_REFUSALS = ("no", "withdrawn")  # These values of photos.consent forbid the use of a photo.
# Selects the photos that were dropped for one of ERASURE_REASONS, and the photos with a face that was dropped for one
# of these reasons.
ERASED_PHOTOS = (
    f"SELECT photo_id FROM photos WHERE reason IN {ERASURE_REASONS} "
    f"UNION SELECT photo_id FROM faces WHERE reason IN {ERASURE_REASONS}"
)
# Whether the last curation used `--require-consent`. With this option, only photos with the consent yes may be used.
_REQUIRES_CONSENT = (
    "'true' IN (SELECT detail ->> '$.require_consent' FROM stages WHERE stage = 'consent' AND detail IS NOT NULL "
    "ORDER BY finished DESC LIMIT 1)"
)
# Selects the photos whose pictures nobody may see, because the consent forbids it or because a person in the photo
# opted out. A decision about the consent counts as soon as it is recorded, because photos.consent changes at this
# moment.
SECRET_PHOTOS = (
    f"{ERASED_PHOTOS} UNION SELECT photo_id FROM photos WHERE lower(trim(consent)) IN {CONSENT_REFUSALS} "
    f"OR (lower(trim(consent)) IS DISTINCT FROM 'yes' AND {_REQUIRES_CONSENT})"
)
# Selects the photos whose pictures a report must not show: SECRET_PHOTOS, and the photos that are not used.
HIDDEN_PHOTOS = f"SELECT photo_id FROM photos WHERE status <> 'ok' UNION {SECRET_PHOTOS}"
# The tables, besides `faces`, whose rows belong to one face.
FACE_TABLES = ("memberships", "splits", "degradations", "versions", "training_images")
_BATCH = 64  # Number of faces in a batch of a frozen set. degrade/frozen/dataset_sets.py has the same number.

# Selects the faces that were dropped for one of ERASURE_REASONS and still have an embedding or a row in FACE_TABLES.
_DROPPED_WITH_REMAINS = (
    f"SELECT face_id FROM faces WHERE reason IN {ERASURE_REASONS} AND (shard IS NOT NULL"
    + "".join(f" OR face_id IN (SELECT face_id FROM {table})" for table in FACE_TABLES)
    + ")"
)


@dataclass
class Erasure:
    """The changes of the ledger that remove faces.

    The caller first calls `write_shards`, then passes `rows`, `deletions` and `details` to `Ledger.record`, and then
    removes the files of the faces.
    """

    rows: list[Record] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    details: list[DetailUpdate] = field(default_factory=list)
    shards: dict[str, bytes] = field(default_factory=dict)  # maps the name of a new embedding shard to its bytes

    def write_shards(self, dataset: Path) -> None:
        for name, data in self.shards.items():
            write_atomically(shard_path(dataset, name), data)


def plan_erasure(ledger: Ledger, face_ids: Collection[str]) -> Erasure:
    """Returns the changes of the ledger that remove these faces.

    The rows of these faces in the table `faces` are not part of the result. The caller changes or deletes these rows.
    """
    erasure = Erasure()
    removed = set(face_ids)

    # remove the rows of the faces, and the identities that have no other face
    members = ledger.read_rows(Membership)
    other_identities = {row.identity_id for row in members if row.face_id not in removed}
    empty_identities = [
        row.identity_id for row in ledger.read_rows(Identity) if row.identity_id not in other_identities
    ]
    erasure.deletions = [(table, "face_id", sorted(removed)) for table in FACE_TABLES]
    erasure.deletions.append(("identities", "identity_id", empty_identities))

    # remove the faces from the references of other targets, and remove each pair that has no reference left
    targets = set(removed)
    for pair in ledger.read_rows(Pair):
        if pair.target in removed or removed.isdisjoint(pair.refs):
            continue
        rest = [at for at, ref in enumerate(pair.refs) if ref not in removed]
        if rest:
            refs, cosines = tuple(pair.refs[at] for at in rest), tuple(pair.similarities[at] for at in rest)
            gaps = None if pair.gap_days is None else tuple(pair.gap_days[at] for at in rest)
            erasure.rows.append(replace(pair, refs=refs, similarities=cosines, gap_days=gaps))
        else:
            targets.add(pair.target)
    erasure.deletions.append(("pairs", "target", sorted(targets)))

    erasure.rows += lock_splits(ledger.read_rows(Split), removed)
    erasure.details += plan_audit_update(ledger, removed)
    _rewrite_shards(ledger, removed, erasure)
    _shrink_sets(ledger, removed, erasure)
    return erasure


def lock_splits(splits: Sequence[Split], removed: Collection[str]) -> list[Split]:
    """If all locked faces are removed, returns the rows of the other faces as locked rows. Otherwise, returns [].

    The splits must stay locked, because models were trained on them.
    """
    locked = {row.face_id for row in splits if row.locked}
    if not locked or not locked <= set(removed):
        return []
    return [replace(row, locked=True) for row in splits if row.face_id not in removed]


def _rewrite_shards(ledger: Ledger, removed: set[str], erasure: Erasure) -> None:
    """Plan a new file for each embedding shard that contains a removed face or a row without a face."""
    faces_of_shard: dict[str, list[Face]] = defaultdict(list)
    for face in ledger.read_rows(Face):
        if face.shard is not None:
            faces_of_shard[face.shard].append(face)
    for shard, faces in faces_of_shard.items():
        try:
            vectors = np.load(shard_path(ledger.dataset, shard), mmap_mode="r")
        except ARRAY_ERRORS:
            continue  # the next curation computes the embeddings of a damaged shard again
        rest = sorted((face for face in faces if face.face_id not in removed), key=lambda face: face.shard_row or 0)
        if len(rest) == len(vectors) or any((face.shard_row or 0) >= len(vectors) for face in rest):
            continue
        if rest:
            buffer = io.BytesIO()
            np.save(buffer, np.array(vectors[[face.shard_row for face in rest]]))
            name = sha256_bytes(buffer.getvalue())
            erasure.shards[name] = buffer.getvalue()
            erasure.rows += [replace(face, shard=name, shard_row=row) for row, face in enumerate(rest)]
        erasure.deletions.append(("stages", "unit", [shard]))


def _shrink_sets(ledger: Ledger, removed: set[str], erasure: Erasure) -> None:
    """Plan to remove the faces from the recorded face lists of frozen sets.

    `likeness degrade` records the face list of a set when it begins the set.
    """
    units = read_units(ledger, "degrade")
    frozen = dict(ledger.query("SELECT lq_set, count(*) FROM degradations GROUP BY 1").iter_rows())
    for _, unit, config_hash, detail in units:
        faces = detail.get("faces", [])
        rest = [face for face in faces if face not in removed]
        if len(rest) == len(faces):
            continue
        # `marks` are the finished units of the set: its batches, and the unit with the hashes of theta.jsonl, card and
        # README. The next `likeness degrade` records these hashes again.
        marks = [other for _, other, *_ in units if other.startswith(f"{unit}/")]
        if rest:
            erasure.details.append(("degrade", unit, config_hash, {**detail, "faces": rest}))
            # the faces after a removed face move to other batches, so all marks of an unfinished set become wrong
            finished = len(faces) == frozen.get(unit, 0)
            marks = marks[-(-len(rest) // _BATCH) :] if finished else marks
        else:
            marks.append(unit)
        erasure.deletions.append(("stages", "unit", marks))


def find_report_pages(dataset: Path) -> list[Path]:
    """Returns the pages that `likeness report` wrote."""
    return sorted((dataset / "report").glob("*.html"))


def erase_faces(ledger: Ledger, faces: Sequence[Face], stage: str, rows: Iterable[Record] = ()) -> None:
    """Record these faces without their embeddings, and remove all other data that was made of the faces.

    The labels of the faces are deleted. The faces are also removed from the training runs inside the dataset's folder.
    The changes of the ledger and `rows` are recorded in one transaction of the stage `stage`.
    """
    bare_faces = [replace(remove_embedding(face), duplicate_of=None, crop_sha256=None, luma_dct=None) for face in faces]
    removed = {face.face_id for face in bare_faces}
    # the runs are cleaned before the ledger: if the process is killed in between, the next call cleans the runs again
    remove_faces_from_runs([ledger.dataset], removed)
    for page in find_report_pages(ledger.dataset):  # the report contains pictures
        page.unlink()
    erasure = plan_erasure(ledger, removed)
    erasure.write_shards(ledger.dataset)
    labels = find_labels_of_faces(ledger, removed)
    erasure.deletions.append(
        ("labels", "photo_id || ' ' || number", [f"{row.photo_id} {row.number}" for row in labels])
    )
    erasure.details += remove_names_from_details(ledger, removed, [], labels)
    other_rows = [row for row in erasure.rows if not (isinstance(row, Face) and row.face_id in removed)]
    ledger.record(
        stage, "all", {}, [*other_rows, *bare_faces, *rows], delete=erasure.deletions, details=erasure.details
    )
    remove_files(ledger, removed)


def erase_dropped_faces(ledger: Ledger) -> None:
    """Erase the data of faces that were dropped for one of ERASURE_REASONS.

    The ledger does not change if these faces have no data left.
    """
    dropped = read_faces_with_reason(ledger, ERASURE_REASONS)
    if len(ledger.query(_DROPPED_WITH_REMAINS)):
        erase_faces(ledger, dropped, "erase")
    elif dropped:
        remove_files(ledger, [face.face_id for face in dropped])


def remove_files(ledger: Ledger, face_ids: Iterable[str]) -> None:
    """Remove the crops, cleaned versions and low-quality images of these faces, also from the dataset's copy in a
    store.

    Also removes embedding shards that no face uses, the temporary files of killed processes, and everything that
    `likeness review` stores about the faces.
    """
    dataset, removed = ledger.dataset, set(face_ids)
    for face in sorted(removed):
        crop_path(dataset, face).unlink(missing_ok=True)
        for path in find_version_files(dataset, face):
            path.unlink()
    shards = set(ledger.query("SELECT DISTINCT shard FROM faces WHERE shard IS NOT NULL")["shard"])
    for path in sorted((dataset / "embeddings").glob("*.npy")):
        if path.stem not in shards:
            path.unlink()
    for folder in sorted(path for path in (dataset / "lq").glob("*") if path.is_dir()):
        for face in sorted(removed):
            (folder / f"{face}.png").unlink(missing_ok=True)
        _shrink_set_files(folder, removed)
    for path in sorted((dataset / MAPS).glob("*.npy")):  # every map has the places of all faces
        path.unlink()
    for part in (*PARTS, MAPS):
        remove_temporary_files(dataset / part)
    _forget_in_review(ledger, removed)
    erase_from_store(ledger, removed)


def _forget_in_review(ledger: Ledger, removed: set[str]) -> None:
    """Remove all thumbnails of `likeness review`, and remove faces from its list of seen faces.

    `likeness review` will make new thumbnails. The list maps the id of a person to the faces that the user has seen
    with the person. People who are not in the ledger are removed from the list. A broken list is deleted.
    """
    shutil.rmtree(ledger.dataset / THUMBNAILS, ignore_errors=True)
    path = ledger.dataset / VISIT_NAME
    if not path.is_file():
        return
    people = set(ledger.query("SELECT identity_id FROM identities")["identity_id"])
    try:
        seen = json.loads(path.read_bytes())
        kept = {person: [face for face in faces if face not in removed] for person, faces in seen.items()}
    except (ValueError, AttributeError, TypeError):
        path.unlink()
        return
    write_atomically(
        path, json.dumps({person: faces for person, faces in kept.items() if faces and person in people}).encode()
    )


def _shrink_set_files(folder: Path, removed: set[str]) -> None:
    """Rewrite theta.jsonl, card.json and README.md of a frozen set without the removed faces.

    degrade/frozen/set_files.py defines these files. If no image is left, the files and the empty folder are removed.
    """
    theta_file, card_file, readme = (folder / name for name in ("theta.jsonl", "card.json", "README.md"))
    if not theta_file.is_file():
        if not any(folder.iterdir()):
            folder.rmdir()
        return
    before = theta_file.read_bytes()
    lines = [line for line in before.splitlines(keepends=True) if Path(json.loads(line)["file"]).stem not in removed]
    if not lines:
        for path in (theta_file, card_file, readme):
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
        return
    after = b"".join(lines)
    if after != before:
        write_atomically(theta_file, after)
    card: dict[str, Any] = json.loads(card_file.read_bytes()) if card_file.is_file() else {}
    theta_sha256 = sha256_bytes(after)
    if card.get("theta_sha256", theta_sha256) == theta_sha256:
        return
    # the README is written before the card: if the process is killed in between, the card still has the old hash of
    # theta.jsonl, and the next call repeats this step
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    text = text.replace(str(card["theta_sha256"]), theta_sha256)
    write_atomically(readme, text.replace(f"| images | {card['images']},", f"| images | {len(lines)},").encode())
    card |= {"theta_sha256": theta_sha256, "images": len(lines)}
    write_atomically(card_file, (json.dumps(card, indent=2, sort_keys=True) + "\n").encode())
