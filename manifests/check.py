"""Checks that the rows of the ledger agree with each other and with the files of the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manifests.errors import LedgerError
from manifests.ledger.cleaned_targets import VERSIONS_FOLDER, find_stray_versions, version_path
from manifests.ledger.leak_audit import find_audit_problems
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path, shard_path
from manifests.ledger.queries import is_curation_finished, read_faces_with_reason, read_units
from manifests.ledger.records import CleanedVersion
from manifests.privacy.erase import ERASURE_REASONS
from manifests.privacy.keys import read_key
from manifests.runtime.files import ARRAY_ERRORS, sha256_file
from manifests.runtime.progress import Progress
from manifests.runtime.text import make_printable

# the files that the folder of a frozen set contains beside the images
_SET_FILES = ("card.json", "theta.jsonl", "README.md")

# Each rule is the text of a problem, and a query that returns a row for each place with the problem. The first column
# of a row is the id to report.
_RULES: tuple[tuple[str, str], ...] = (
    (
        "the ledger has no row for the photo of this file",
        "SELECT uri FROM files WHERE photo_id IS NOT NULL AND photo_id NOT IN (SELECT photo_id FROM photos)",
    ),
    (
        "the ledger has no row for the photo of this face",
        "SELECT face_id FROM faces WHERE photo_id NOT IN (SELECT photo_id FROM photos)",
    ),
    (
        "the photo of this accepted face has no file",
        "SELECT face_id FROM faces WHERE status = 'ok' AND photo_id NOT IN "
        "(SELECT photo_id FROM files WHERE photo_id IS NOT NULL)",
    ),
    (
        "this face belongs to a person, but the status of the face is not ok",
        "SELECT face_id FROM memberships WHERE face_id NOT IN (SELECT face_id FROM faces WHERE status = 'ok')",
    ),
    (
        "the ledger has no row for the person of this face",
        "SELECT face_id FROM memberships WHERE identity_id NOT IN (SELECT identity_id FROM identities)",
    ),
    (
        "this face is a near-duplicate of a face whose status is not ok",
        "SELECT a.face_id FROM faces a WHERE duplicate_of IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM faces b WHERE b.face_id = a.duplicate_of AND b.status = 'ok')",
    ),
    (
        "this face is accepted, although its photo must not be used",
        "SELECT face_id FROM faces JOIN photos USING (photo_id) WHERE faces.status = 'ok' AND photos.reason IN "
        f"{ERASURE_REASONS}",
    ),
    (
        "this face must not be used, but has an embedding",
        f"SELECT face_id FROM faces WHERE reason IN {ERASURE_REASONS} AND shard IS NOT NULL",
    ),
    ("this target is among its own references", "SELECT target FROM pairs WHERE list_contains(refs, target)"),
    (
        "a reference of this target shows another person, or was dropped",
        "SELECT p.target FROM (SELECT target, unnest(refs) AS ref FROM pairs) p LEFT JOIN memberships a ON a.face_id = "
        "p.target LEFT JOIN memberships b ON b.face_id = p.ref WHERE a.identity_id IS DISTINCT FROM b.identity_id",
    ),
    (
        "a reference of this target is from the photo of the target",
        "SELECT p.target FROM (SELECT target, unnest(refs) AS ref FROM pairs) p JOIN faces a ON a.face_id = p.target "
        "JOIN faces b ON b.face_id = p.ref WHERE a.photo_id = b.photo_id",
    ),
    (
        "this target has a reference from a split that the target must not use",
        "SELECT DISTINCT p.target FROM (SELECT target, unnest(refs) AS ref FROM pairs) p JOIN splits t ON t.face_id = "
        "p.target JOIN splits r ON r.face_id = p.ref WHERE r.status <> 'ok' OR r.split <> "
        "CASE WHEN t.policy = 'photos' THEN 'train' ELSE t.split END",
    ),
    (
        "this person is in more than one split",
        "SELECT identity_id FROM splits WHERE status = 'ok' AND policy = 'identity' GROUP BY 1 "
        "HAVING count(DISTINCT split) > 1",
    ),
    (
        "this photo is in more than one split, directly or through a near-duplicate",
        "SELECT f.photo_id FROM faces f JOIN splits s ON s.face_id = coalesce(f.duplicate_of, f.face_id) "
        "WHERE s.status = 'ok' AND f.reason IS DISTINCT FROM 'file_replaced' GROUP BY 1 "
        "HAVING count(DISTINCT s.split) > 1",
    ),
    (
        "the tables `pairs` and `splits` name different splits for this target",
        "SELECT p.target FROM pairs p LEFT JOIN splits s ON s.face_id = p.target AND s.status = 'ok' "
        "WHERE s.split IS DISTINCT FROM p.split",
    ),
    (
        "the ledger has no row for the face of this low-quality image",
        "SELECT face_id FROM degradations WHERE face_id NOT IN (SELECT face_id FROM faces)",
    ),
)

UNFINISHED = "the last `likeness curate` did not finish: run the same command again, and then check again"

_FACES = "SELECT face_id, status, shard, shard_row, crop_sha256 FROM faces ORDER BY face_id"


def check_ledger(dataset: Path, hashes: bool = True, progress: Progress = lambda *_: None) -> list[str]:
    """Returns one line for each problem of a dataset. The list is empty if ledger and files agree.

    If the last curation did not finish, the list contains only UNFINISHED. With `hashes`, reads every crop, embedding
    shard, low-quality image and cleaned picture, and compares the sha256 of each file with the recorded sha256.
    """
    problems: list[str] = []
    with Ledger.open(dataset) as ledger:
        if not is_curation_finished(ledger):
            return [UNFINISHED]
        for problem, sql in _RULES:
            problems += [f"{problem}: {row[0]}" for row in ledger.query(sql).iter_rows()]
        problems += find_audit_problems(ledger)
        problems += [
            f"this face is outside the training split, but has a cleaned version: {row.face_id}"
            for row in find_stray_versions(ledger)
        ]
        try:
            read_key(ledger)
        except LedgerError as error:
            problems.append(str(error))
        faces = list(ledger.query(_FACES).iter_rows())
        unusable = [face.face_id for face in read_faces_with_reason(ledger, ERASURE_REASONS)]
        images = list(ledger.query("SELECT lq_set, face_id, sha256 FROM degradations ORDER BY 1, 2").iter_rows())
        set_files = {
            unit.removesuffix("/records"): detail
            for _, unit, _, detail in read_units(ledger, "degrade")
            if unit.endswith("/records")
        }
        versions = ledger.read_rows(CleanedVersion, "status = 'ok'")

    crops = [(face, status, sha256) for face, status, _, _, sha256 in faces]
    shards = [(face, shard, row) for face, _, shard, row, _ in faces if shard is not None]
    problems += _check_crops(dataset, crops, hashes, progress)
    problems += [
        f"this face must not be used, but has a crop: {face}" for face in unusable if crop_path(dataset, face).is_file()
    ]
    problems += _check_shards(dataset, shards, hashes)
    problems += [
        f"this accepted face has no embedding: {face}"
        for face, status, shard, *_ in faces
        if not shard and status == "ok"
    ]
    problems += _check_sets(dataset, images, set_files, hashes, progress)
    problems += _check_versions(dataset, versions, hashes)
    return [make_printable(problem) for problem in problems]


def _check_crops(
    dataset: Path, rows: Sequence[tuple[str, str, str | None]], hashes: bool, progress: Progress
) -> list[str]:
    """Returns the problems of the crops. A row is (face id, status, sha256 of the crop or None)."""
    problems = []
    for done, (face, status, sha256) in enumerate(rows, 1):
        path = crop_path(dataset, face)
        if not path.is_file():
            problems += [f"this accepted face has no crop: {face}"] if status == "ok" else []
        elif hashes and sha256 is not None and sha256_file(path) != sha256:
            problems.append(f"this crop has changed: {path.relative_to(dataset)} (remove the crop, and curate again)")
        progress("crops", done, len(rows))
    known = {crop_path(dataset, face) for face, *_ in rows}
    return problems + _find_unknown_files(dataset, "faces", known, "this crop belongs to no face", ".png")


def _check_shards(dataset: Path, rows: Sequence[tuple[str, str, int]], hashes: bool) -> list[str]:
    """Returns the problems of the embedding shards. A row is (face id, name of the shard, row in the shard)."""
    problems = []
    lengths: dict[str, int] = {}
    for shard in sorted({shard for _, shard, _ in rows}):
        path = shard_path(dataset, shard)
        try:
            lengths[shard] = len(np.load(path, mmap_mode="r"))
            if hashes and sha256_file(path) != shard:
                problems.append(f"this embedding shard has changed: {path.relative_to(dataset)}")
        except ARRAY_ERRORS:
            problems.append(f"this embedding shard is missing or broken: {shard}")
    outside = [face for face, shard, row in rows if shard in lengths and row >= lengths[shard]]
    problems += [f"the embedding shard of this face has too few rows: {face}" for face in outside]
    known = {shard_path(dataset, shard) for _, shard, _ in rows}
    return problems + _find_unknown_files(dataset, "embeddings", known, "no face uses this embedding shard", ".npy")


def _check_sets(
    dataset: Path,
    rows: Sequence[tuple[str, str, str]],
    set_files: dict[str, dict[str, str]],
    hashes: bool,
    progress: Progress,
) -> list[str]:
    """Returns the problems of the frozen sets. A row is (name of the set, face id, sha256 of the image).

    `set_files` has a dict for each set. The dict maps the name of each file beside the images to the file's sha256.
    """
    problems = []
    files = [(f"{lq_set}/{face}.png", sha256, "low-quality image") for lq_set, face, sha256 in rows]
    files += [
        (f"{lq_set}/{name}", sha256, "record")
        for lq_set, names in sorted(set_files.items())
        for name, sha256 in names.items()
    ]
    for done, (name, sha256, kind) in enumerate(files, 1):
        path = dataset / "lq" / name
        if not path.is_file():
            problems.append(f"this {kind} is missing: {name}")
        elif hashes and sha256_file(path) != sha256:
            problems.append(f"this {kind} has changed: {name}")
        progress("images", done, len(files))
    known = {dataset / "lq" / name for name, *_ in files}
    # an interrupted `degrade` may have written these files without recording their hashes
    known |= {dataset / "lq" / lq_set / name for lq_set, *_ in rows if lq_set not in set_files for name in _SET_FILES}
    return problems + _find_unknown_files(
        dataset, "lq", known, "the ledger has no row for this low-quality image", ".png"
    )


def _check_versions(dataset: Path, rows: Sequence[CleanedVersion], hashes: bool) -> list[str]:
    """Returns the problems of the cleaned pictures of training faces that `likeness iterate` made."""
    problems = []
    files = {version_path(dataset, row.iteration, row.round, row.face_id): row for row in rows}
    for path, row in files.items():
        if not path.is_file():
            problems.append(f"this cleaned version is missing: {path.relative_to(dataset)}")
        elif hashes and sha256_file(path) != row.sha256:
            problems.append(f"this cleaned version has changed: {path.relative_to(dataset)}")
    return problems + _find_unknown_files(
        dataset, VERSIONS_FOLDER, set(files), "the ledger has no row for this cleaned version", ".png"
    )


def _find_unknown_files(dataset: Path, folder: str, known: set[Path], problem: str, suffix: str) -> list[str]:
    """Returns a sentence for each file that is in the folder but not in `known`.

    Likeness itself may have written the files whose names end with `suffix`. The sentences about these files begin with
    `problem`. All other sentences begin with "the ledger has no row for this file".
    """
    unknown = sorted(path for path in (dataset / folder).rglob("*") if path not in known and not path.is_dir())
    other = "the ledger has no row for this file"
    return [
        f"{problem if path.suffix == suffix and not path.name.startswith('.') else other}: {path.relative_to(dataset)}"
        for path in unknown
    ]
