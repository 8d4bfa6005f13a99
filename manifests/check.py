"""Does the ledger agree with itself and with the files beside it?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manifests.cleaned import strayed
from manifests.ledger import Ledger
from manifests.storage import crop_path, sha256_file

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


def check(dataset: Path, hashes: bool = True) -> list[str]:
    """One line for everything that is wrong; empty where all is well. `hashes` also reads every low-quality image."""
    wrong: list[str] = []
    with Ledger.open(dataset) as ledger:
        for what, sql in _RULES:
            wrong += [f"{what}: {row[0]}" for row in ledger.query(sql).iter_rows()]
        wrong += [f"cleaned version of a face outside the training split: {row.face_id}" for row in strayed(ledger)]
        faces = ledger.query("SELECT face_id, status, shard, shard_row FROM faces ORDER BY 1")
        images = ledger.query("SELECT lq_set, face_id, sha256 FROM degradations ORDER BY 1, 2")
    wrong += _crops(dataset, {face: status == "ok" for face, status, *_ in faces.iter_rows()})
    wrong += _shards(dataset, [(face, shard, row) for face, _, shard, row in faces.iter_rows() if shard is not None])
    bare = [face for face, status, shard, _ in faces.iter_rows() if status == "ok" and shard is None]
    wrong += [f"accepted face without embedding: {face}" for face in bare]
    wrong += _images(dataset, list(images.iter_rows()), hashes)
    return wrong


def _crops(dataset: Path, accepted: dict[str, bool]) -> list[str]:
    missing = [face for face, ok in accepted.items() if ok and not crop_path(dataset, face).is_file()]
    found = sorted(path.stem for path in (dataset / "faces").glob("*/*.png"))
    return [f"accepted face without crop: {face}" for face in missing] + [
        f"crop without a face: {face}" for face in found if face not in accepted
    ]


def _shards(dataset: Path, rows: list[tuple[str, str, int]]) -> list[str]:
    wrong = []
    lengths: dict[str, int] = {}
    for shard in sorted({shard for _, shard, _ in rows}):
        try:
            lengths[shard] = len(np.load(dataset / "embeddings" / f"{shard}.npy", mmap_mode="r"))
        except (OSError, ValueError, EOFError):
            wrong.append(f"embedding shard missing or broken: {shard}")
    outside = [face for face, shard, row in rows if shard in lengths and row >= lengths[shard]]
    wrong += [f"embedding outside its shard: {face}" for face in outside]
    known = {shard for _, shard, _ in rows}
    found = sorted(path.stem for path in (dataset / "embeddings").glob("*.npy"))
    return wrong + [f"embedding shard without a face: {shard}" for shard in found if shard not in known]


def _images(dataset: Path, rows: list[tuple[str, str, str]], hashes: bool) -> list[str]:
    wrong = []
    for lq_set, face, sha256 in rows:
        path = dataset / "lq" / lq_set / f"{face}.png"
        if not path.is_file():
            wrong.append(f"low-quality image missing: {lq_set}/{face}.png")
        elif hashes and sha256_file(path) != sha256:
            wrong.append(f"low-quality image changed since it was frozen: {lq_set}/{face}.png")
    known = {(lq_set, face) for lq_set, face, _ in rows}
    found = sorted((dataset / "lq").glob("*/*.png"))
    return wrong + [
        f"low-quality image without a row: {path.parent.name}/{path.name}"
        for path in found
        if (path.parent.name, path.stem) not in known
    ]
