"""Does the ledger agree with itself and with the files beside it?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manifests.errors import LedgerError
from manifests.ledger.cleaned_targets import VERSIONS_FOLDER, find_stray_versions, version_path
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path, shard_path
from manifests.ledger.records import CleanedVersion
from manifests.privacy.erase import ERASURE_REASONS
from manifests.privacy.keys import read_key
from manifests.runtime.files import ARRAY_ERRORS, sha256_file
from manifests.runtime.progress import Progress
from manifests.runtime.text import make_printable

_SHA256 = 64  # hex digits; the shards of an older Likeness have shorter names, which say nothing of the content
_BESIDE = ("card.json", "theta.jsonl", "README.md")

# what must be empty -> the query that finds it; the first column names the offender
_RULES: tuple[tuple[str, str], ...] = (
    (
        "file points to a photo that has no row",
        "SELECT uri FROM files WHERE photo_id IS NOT NULL AND photo_id NOT IN (SELECT photo_id FROM photos)",
    ),
    (
        "face of a photo that has no row",
        "SELECT face_id FROM faces WHERE photo_id NOT IN (SELECT photo_id FROM photos)",
    ),
    (
        "accepted face of a photo that no file holds",
        "SELECT face_id FROM faces WHERE status = 'ok' AND photo_id NOT IN "
        "(SELECT photo_id FROM files WHERE photo_id IS NOT NULL)",
    ),
    (
        "membership of a face that is not ok",
        "SELECT face_id FROM memberships WHERE face_id NOT IN (SELECT face_id FROM faces WHERE status = 'ok')",
    ),
    (
        "membership in an identity that has no row",
        "SELECT face_id FROM memberships WHERE identity_id NOT IN (SELECT identity_id FROM identities)",
    ),
    (
        "near-duplicate of a face that is not ok",
        "SELECT a.face_id FROM faces a WHERE duplicate_of IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM faces b WHERE b.face_id = a.duplicate_of AND b.status = 'ok')",
    ),
    (
        "accepted face of a photo that may not be used",
        "SELECT face_id FROM faces JOIN photos USING (photo_id) WHERE faces.status = 'ok' AND photos.reason IN "
        f"{ERASURE_REASONS}",
    ),
    (
        "embedding of a face that may not be used",
        f"SELECT face_id FROM faces WHERE reason IN {ERASURE_REASONS} AND shard IS NOT NULL",
    ),
    ("target among its own references", "SELECT target FROM pairs WHERE list_contains(refs, target)"),
    (
        "reference of another person, or one that was dropped",
        "SELECT p.target FROM (SELECT target, unnest(refs) AS ref FROM pairs) p LEFT JOIN memberships a ON a.face_id = "
        "p.target LEFT JOIN memberships b ON b.face_id = p.ref WHERE a.identity_id IS DISTINCT FROM b.identity_id",
    ),
    (
        "reference from the target's own photo",
        "SELECT p.target FROM (SELECT target, unnest(refs) AS ref FROM pairs) p JOIN faces a ON a.face_id = p.target "
        "JOIN faces b ON b.face_id = p.ref WHERE a.photo_id = b.photo_id",
    ),
    (
        "reference from a split that the target may not see",
        "SELECT DISTINCT p.target FROM (SELECT target, unnest(refs) AS ref FROM pairs) p JOIN splits t ON t.face_id = "
        "p.target JOIN splits r ON r.face_id = p.ref WHERE r.status <> 'ok' OR r.split <> "
        "CASE WHEN t.policy = 'photos' THEN 'train' ELSE t.split END",
    ),
    (
        "identity in more than one split",
        "SELECT identity_id FROM splits WHERE status = 'ok' AND policy = 'identity' GROUP BY 1 "
        "HAVING count(DISTINCT split) > 1",
    ),
    (
        "photo in more than one split, itself or through a near-duplicate",
        "SELECT f.photo_id FROM faces f JOIN splits s ON s.face_id = coalesce(f.duplicate_of, f.face_id) "
        "WHERE s.status = 'ok' GROUP BY 1 HAVING count(DISTINCT s.split) > 1",
    ),
    (
        "pair in another split than its target",
        "SELECT p.target FROM pairs p LEFT JOIN splits s ON s.face_id = p.target AND s.status = 'ok' "
        "WHERE s.split IS DISTINCT FROM p.split",
    ),
    (
        "low-quality image of a face that has no row",
        "SELECT face_id FROM degradations WHERE face_id NOT IN (SELECT face_id FROM faces)",
    ),
)


def check_ledger(dataset: Path, hashes: bool = True, progress: Progress = lambda *_: None) -> list[str]:
    """One line for everything that is wrong; empty where all is well.

    `hashes` also reads every crop, every embedding shard and all of every low-quality set, and compares their sha256
    with the recorded ones. What an older Likeness wrote has none until the same command has run again.
    """
    wrong: list[str] = []
    with Ledger.open(dataset) as ledger:
        for what, sql in _RULES:
            wrong += [f"{what}: {row[0]}" for row in ledger.query(sql).iter_rows()]
        wrong += [
            f"cleaned version of a face outside the training split: {row.face_id}"
            for row in find_stray_versions(ledger)
        ]
        try:
            read_key(ledger)
        except LedgerError as error:
            wrong.append(str(error))
        columns = ledger.query("SELECT column_name FROM information_schema.columns WHERE table_name = 'faces'")
        crop_sha256 = "crop_sha256" if "crop_sha256" in set(columns["column_name"]) else "NULL"
        faces = list(
            ledger.query(f"SELECT face_id, status, shard, shard_row, {crop_sha256} FROM faces ORDER BY 1").iter_rows()
        )
        barred = set(ledger.query(f"SELECT face_id FROM faces WHERE reason IN {ERASURE_REASONS}")["face_id"])
        images = ledger.query("SELECT lq_set, face_id, sha256 FROM degradations ORDER BY 1, 2")
        cleaned = (
            [row for row in ledger.read_rows(CleanedVersion) if row.status == "ok"]
            if ledger.has_table("versions")
            else []
        )
        noted = ledger.query("SELECT unit, detail FROM stages WHERE stage = 'degrade' AND unit LIKE '%/records'")
    wrong += _crops(dataset, [(face, status, sha256) for face, status, *_, sha256 in faces], hashes, progress)
    there = sorted(face for face in barred if crop_path(dataset, face).is_file())
    wrong += [f"crop of a face that may not be used: {face}" for face in there]
    wrong += _shards(dataset, [(face, shard, row) for face, _, shard, row, _ in faces if shard is not None], hashes)
    wrong += [
        f"accepted face without embedding: {face}" for face, status, shard, *_ in faces if not shard and status == "ok"
    ]
    beside = {unit.rpartition("/")[0]: json.loads(detail) for unit, detail in noted.iter_rows()}
    wrong += _images(dataset, list(images.iter_rows()), beside, hashes, progress)
    return [make_printable(line) for line in wrong + _versions(dataset, cleaned, hashes)]


def _crops(dataset: Path, rows: Sequence[tuple[str, str, str | None]], hashes: bool, progress: Progress) -> list[str]:
    wrong = []
    for done, (face, status, sha256) in enumerate(rows, 1):
        path = crop_path(dataset, face)
        if not path.is_file():
            wrong += [f"accepted face without crop: {face}"] if status == "ok" else []
        elif hashes and sha256 is not None and sha256_file(path) != sha256:
            wrong.append(
                f"crop changed since it was written: {path.relative_to(dataset)} (remove it, and curate again)"
            )
        progress("crops", done, len(rows))
    known = {crop_path(dataset, face) for face, *_ in rows}
    return wrong + _unknown(dataset, "faces", known, "crop without a face", ".png")


def _shards(dataset: Path, rows: Sequence[tuple[str, str, int]], hashes: bool) -> list[str]:
    wrong = []
    lengths: dict[str, int] = {}
    for shard in sorted({shard for _, shard, _ in rows}):
        path = shard_path(dataset, shard)
        try:
            lengths[shard] = len(np.load(path, mmap_mode="r"))
            if hashes and len(shard) == _SHA256 and sha256_file(path) != shard:
                wrong.append(f"embedding shard changed since it was written: {path.relative_to(dataset)}")
        except ARRAY_ERRORS:
            wrong.append(f"embedding shard missing or broken: {shard}")
    outside = [face for face, shard, row in rows if shard in lengths and row >= lengths[shard]]
    wrong += [f"embedding outside its shard: {face}" for face in outside]
    known = {shard_path(dataset, shard) for _, shard, _ in rows}
    return wrong + _unknown(dataset, "embeddings", known, "embedding shard without a face", ".npy")


def _images(
    dataset: Path,
    rows: Sequence[tuple[str, str, str]],
    beside: dict[str, dict[str, str]],
    hashes: bool,
    progress: Progress,
) -> list[str]:
    """`beside` holds, by set, the sha256 of the files beside the images."""
    wrong = []
    files = [(f"{lq_set}/{face}.png", sha256, "low-quality image") for lq_set, face, sha256 in rows]
    files += [
        (f"{s}/{name}", sha256, "record") for s, names in sorted(beside.items()) for name, sha256 in names.items()
    ]
    for done, (name, sha256, what) in enumerate(files, 1):
        path = dataset / "lq" / name
        if not path.is_file():
            wrong.append(f"{what} missing: {name}")
        elif hashes and sha256_file(path) != sha256:
            wrong.append(f"{what} changed since it was frozen: {name}")
        progress("images", done, len(files))
    known = {dataset / "lq" / name for name, *_ in files}
    # written last, by a Likeness that did not note them; compared by `likeness verify`
    known |= {dataset / "lq" / lq_set / name for lq_set, *_ in rows if lq_set not in beside for name in _BESIDE}
    return wrong + _unknown(dataset, "lq", known, "low-quality image without a row", ".png")


def _versions(dataset: Path, rows: Sequence[CleanedVersion], hashes: bool) -> list[str]:
    """Cleaned pictures of training faces (likeness iterate)."""
    wrong = []
    files = {version_path(dataset, row.iteration, row.round, row.face_id): row for row in rows}
    for path, row in files.items():
        if not path.is_file():
            wrong.append(f"cleaned version missing: {path.relative_to(dataset)}")
        elif hashes and sha256_file(path) != row.sha256:
            wrong.append(f"cleaned version changed since it was written: {path.relative_to(dataset)}")
    return wrong + _unknown(dataset, VERSIONS_FOLDER, set(files), "cleaned version without a row", ".png")


def _unknown(dataset: Path, folder: str, known: set[Path], what: str, suffix: str) -> list[str]:
    """A line for every file in a folder that no row speaks of; `what` names those that look like ours."""
    found = sorted(path for path in (dataset / folder).rglob("*") if path not in known and not path.is_dir())
    return [
        f"{what if path.suffix == suffix and not path.name.startswith('.') else 'file that no row speaks of'}: "
        f"{path.relative_to(dataset)}"
        for path in found
    ]
