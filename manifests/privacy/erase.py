"""What was made of faces is taken away again: crops, embeddings, low-quality images, pairs, splits, memberships.

The rows go in one transaction, the files after it; what a killed process left lying is found by the next call.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from manifests.ledger.cleaned_targets import find_version_files
from manifests.ledger.ledger import Deletion, DetailUpdate, Ledger
from manifests.ledger.paths import PARTS, crop_path, shard_path
from manifests.ledger.records import Face, Identity, Membership, Pair, Record, Split
from manifests.privacy.run_cleanup import remove_faces_from_runs
from manifests.runtime.files import ARRAY_ERRORS, remove_temporary_files, sha256_bytes, write_atomically

# reasons whose faces keep a row and nothing else: no crop, no embedding, no low-quality image
NO_CONSENT, CONSENT_MISSING, OPTED_OUT = "no_consent", "consent_missing", "opted_out"
CONSENT_REFUSALS = ("no", "withdrawn")  # what is told of a photo's consent and bars it; NULL says nothing
ERASURE_REASONS = (NO_CONSENT, CONSENT_MISSING, OPTED_OUT)
FACE_TABLES = (
    "memberships",
    "splits",
    "degradations",
    "versions",
    "training_images",
)  # tables whose rows are a face's own
_BATCH = 64  # faces a completion mark of a frozen set covers, degrade/frozen/dataset_sets.py


@dataclass
class Erasure:
    """The rows that change when faces leave, for `Ledger.record`; `shards` are written before, files removed after."""

    rows: list[Record] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    details: list[DetailUpdate] = field(default_factory=list)
    shards: dict[str, bytes] = field(default_factory=dict)  # sha256 -> the .npy file

    def write_shards(self, dataset: Path) -> None:
        for name, data in self.shards.items():
            write_atomically(shard_path(dataset, name), data)


def plan_erasure(ledger: Ledger, gone: Collection[str]) -> Erasure:
    """What the ledger must lose when the faces `gone` leave; their own rows in `faces` are the caller's."""
    found = Erasure()
    gone = set(gone)
    members = ledger.read_rows(Membership)
    left = {row.identity_id for row in members if row.face_id not in gone}
    nobody = [row.identity_id for row in ledger.read_rows(Identity) if row.identity_id not in left]
    found.deletions = [(table, "face_id", sorted(gone)) for table in FACE_TABLES]
    found.deletions.append(("identities", "identity_id", nobody))
    targets = set(gone)
    for pair in ledger.read_rows(Pair):
        if pair.target in gone or gone.isdisjoint(pair.refs):
            continue
        kept = [(ref, cosine) for ref, cosine in zip(pair.refs, pair.similarities, strict=True) if ref not in gone]
        if kept:
            found.rows.append(replace(pair, refs=tuple(r for r, _ in kept), similarities=tuple(c for _, c in kept)))
        else:
            targets.add(pair.target)
    found.deletions.append(("pairs", "target", sorted(targets)))
    splits = ledger.read_rows(Split)
    locked = {row.face_id for row in splits if row.locked}
    if locked and locked <= gone:  # models were trained on the others: they stay where they are without the frozen set
        found.rows += [replace(row, locked=True) for row in splits if row.face_id not in gone]
    _rewrite_shards(ledger, gone, found)
    _thin_sets(ledger, gone, found)
    return found


def _rewrite_shards(ledger: Ledger, gone: set[str], found: Erasure) -> None:
    """Shards that hold a row of a face that leaves, or rows that no face points to: what is left moves to another."""
    within: dict[str, list[Face]] = defaultdict(list)
    for face in ledger.read_rows(Face):
        if face.shard is not None:
            within[face.shard].append(face)
    for shard, faces in within.items():
        try:
            vectors = np.load(shard_path(ledger.dataset, shard), mmap_mode="r")
        except ARRAY_ERRORS:
            continue  # the next curation embeds its faces again
        stays = sorted((face for face in faces if face.face_id not in gone), key=lambda face: face.shard_row or 0)
        if len(stays) == len(vectors) or any((face.shard_row or 0) >= len(vectors) for face in stays):
            continue
        if stays:
            buffer = io.BytesIO()
            np.save(buffer, np.array(vectors[[face.shard_row for face in stays]]))
            name = sha256_bytes(buffer.getvalue())
            found.shards[name] = buffer.getvalue()
            found.rows += [replace(face, shard=name, shard_row=row) for row, face in enumerate(stays)]
        found.deletions.append(("stages", "unit", [shard]))


def _thin_sets(ledger: Ledger, gone: set[str], found: Erasure) -> None:
    """The faces that frozen sets named when they were begun, without those that leave."""
    stages = ledger.query("SELECT unit, config_hash, detail FROM stages WHERE stage = 'degrade' ORDER BY unit").rows()
    frozen = dict(ledger.query("SELECT lq_set, count(*) FROM degradations GROUP BY 1").iter_rows())
    for unit, hashed, detail in stages:
        named = json.loads(detail).get("faces", []) if detail else []
        kept = [face for face in named if face not in gone]
        if len(kept) == len(named):
            continue
        # with the hashes of theta.jsonl, card and README, which the next `degrade` records again
        batches = [other for other, *_ in stages if other.startswith(f"{unit}/")]
        if kept:
            found.details.append(("degrade", unit, hashed, {**json.loads(detail), "faces": kept}))
            # faces move from batch to batch: the marks of a set that was not finished say nothing any more
            whole = len(named) == frozen.get(unit, 0)
            batches = batches[-(-len(kept) // _BATCH) :] if whole else batches
        else:
            batches.append(unit)
        found.deletions.append(("stages", "unit", batches))


def erase_faces(ledger: Ledger, faces: Sequence[Face], stage: str, rows: Iterable[Record] = ()) -> None:
    """Keep the rows of `faces` as they are given, without embedding, and nothing that was made of them, in runs inside
    the dataset neither."""
    taken = [replace(face, shard=None, shard_row=None, duplicate_of=None, crop_sha256=None) for face in faces]
    gone = {face.face_id for face in taken}
    # first: rows that are still there bring a call that was stopped back here
    remove_faces_from_runs([ledger.dataset], gone)
    (ledger.dataset / "report" / "index.html").unlink(missing_ok=True)  # it shows pictures
    found = plan_erasure(ledger, gone)
    found.write_shards(ledger.dataset)
    kept = [row for row in found.rows if not (isinstance(row, Face) and row.face_id in gone)]
    ledger.record(stage, "all", {}, [*kept, *taken, *rows], delete=found.deletions, details=found.details)
    remove_files(ledger, gone)


def erase_dropped_faces(ledger: Ledger) -> None:
    """Erase what is there of faces that were dropped for one of the reasons of `ERASED`; done before, it is a query."""
    sql = f"SELECT face_id FROM faces WHERE reason IN {ERASURE_REASONS}"
    marked = set(ledger.query(sql)["face_id"])
    kept = f"""SELECT face_id FROM faces WHERE reason IN {ERASURE_REASONS} AND (shard IS NOT NULL
               OR face_id IN (SELECT face_id FROM degradations) OR face_id IN (SELECT face_id FROM splits)
               OR face_id IN (SELECT face_id FROM memberships) OR face_id IN (SELECT face_id FROM versions)
               OR face_id IN (SELECT face_id FROM training_images))"""
    if len(ledger.query(kept)):
        erase_faces(ledger, [face for face in ledger.read_rows(Face) if face.face_id in marked], "erase")
    elif marked:
        remove_files(ledger, marked)


def remove_files(ledger: Ledger, gone: Iterable[str]) -> None:
    """Remove the crops of `gone`, cleaned ones too, their low-quality images, shards that no face points to, and
    half-written files."""
    dataset, gone = ledger.dataset, set(gone)
    for face in sorted(gone):
        crop_path(dataset, face).unlink(missing_ok=True)
        for path in find_version_files(dataset, face):
            path.unlink()
    pointed = set(ledger.query("SELECT DISTINCT shard FROM faces WHERE shard IS NOT NULL")["shard"])
    for path in sorted((dataset / "embeddings").glob("*.npy")):
        if path.stem not in pointed:
            path.unlink()
    for folder in sorted(path for path in (dataset / "lq").glob("*") if path.is_dir()):
        for face in sorted(gone):
            (folder / f"{face}.png").unlink(missing_ok=True)
        _thin_records(folder, gone)
    for part in PARTS:
        remove_temporary_files(dataset / part)


def _thin_records(folder: Path, gone: set[str]) -> None:
    """theta.jsonl, card and README of a frozen set (degrade/frozen/set_files.py) without the images that are gone."""
    thetas, card_file, readme = (folder / name for name in ("theta.jsonl", "card.json", "README.md"))
    if not thetas.is_file():
        if not any(folder.iterdir()):
            folder.rmdir()
        return
    before = thetas.read_bytes()
    lines = [line for line in before.splitlines(keepends=True) if Path(json.loads(line)["file"]).stem not in gone]
    if not lines:
        for path in (thetas, card_file, readme):
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
        return
    after = b"".join(lines)
    if after != before:
        write_atomically(thetas, after)
    card: dict[str, Any] = json.loads(card_file.read_bytes()) if card_file.is_file() else {}
    hashed = sha256_bytes(after)
    if card.get("theta_sha256", hashed) == hashed:
        return
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    text = text.replace(str(card["theta_sha256"]), hashed)
    write_atomically(readme, text.replace(f"| images | {card['images']},", f"| images | {len(lines)},").encode())
    card |= {"theta_sha256": hashed, "images": len(lines)}
    write_atomically(card_file, (json.dumps(card, indent=2, sort_keys=True) + "\n").encode())
