"""Which faces, references and pictures an export holds, and why the others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.cleaned_targets import find_newest_iteration, select_best_versions, version_path
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import CleanedVersion, Degradation, Pair
from manifests.privacy.erase import CONSENT_REFUSALS
from manifests.runtime.files import sha256_file

SPLITS = ("train", "val", "test")
VERSIONS = ("original", "best")
MEASURES = (
    "det_score", "inter_ocular_px", "yaw", "pitch", "roll", "sharpness", "blockiness", "noise", "exposure", "upsample",
)  # fmt: skip

# the five landmarks of an aligned crop, as in curate/faces/align.py, which this layer may not import (a test compares)
FFHQ_512 = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)


@dataclass(frozen=True)
class ExportOptions:
    """What an export is asked to hold."""

    split: str = "all"
    lq_set: str | None = None
    names: bool = False
    embeddings: bool = False
    version: str = "original"  # or best: what `likeness iterate` made of training faces, marked as such
    shard_bytes: int = 2**29  # webdataset: a shard is closed before it would be larger (512 MiB, ours)

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS if self.split == "all" else (self.split,)


@dataclass(frozen=True)
class ExportedFace:
    """One accepted face and what an export may say of it."""

    face_id: str
    identity_id: str
    split: str
    image: Path  # PNG
    landmarks5: tuple[float, ...]  # photo pixels, as the ledger has them
    landmarks68: tuple[float, ...] | None
    # source, licence, consent, MEASURES; of version best also `version` and `parent`, the sha256 of the original crop
    facts: Mapping[str, Any]
    name: str | None = None


@dataclass(frozen=True)
class ExportedPair:
    """A target with its references, in the ledger's order."""

    target: str
    references: tuple[str, ...]
    similarities: tuple[float, ...]
    split: str


@dataclass(frozen=True)
class Selection:
    """What an export holds. `left_out` counts (faces, targets or references; reason)."""

    options: ExportOptions
    faces: dict[str, ExportedFace]
    pairs: tuple[ExportedPair, ...]
    lq: dict[str, Path] = field(default_factory=dict)  # target -> frozen low-quality picture
    lq_sha256: dict[str, str] = field(default_factory=dict)
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)  # float32 (d,) unit vectors, where asked for
    recognizer: dict[str, Any] = field(default_factory=dict)  # whose embeddings they are; not its spec, a path
    policy: str = "identity"  # of the splits, or photos: one person on both sides
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)

    def pairs_of(self, split: str) -> list[ExportedPair]:
        return [pair for pair in self.pairs if pair.split == split]

    def faces_of(self, split: str) -> list[ExportedFace]:
        return [face for _, face in sorted(self.faces.items()) if face.split == split]

    @property
    def lq_splits(self) -> set[str]:
        """The splits that the frozen set holds images of."""
        return {pair.split for pair in self.pairs if pair.target in self.lq}

    def with_pairs(self, pairs: Sequence[ExportedPair], left_out: Counter[tuple[str, str]]) -> Selection:
        """The same with fewer targets or references, and the faces that still belong to it."""
        shown = {face for pair in pairs for face in (pair.target, *pair.references)}
        kept = {key: face for key, face in self.faces.items() if face.split in self.options.splits or key in shown}
        return replace(self, pairs=tuple(pairs), faces=kept, left_out=self.left_out + left_out)

    def with_faces(self, kept: set[str], reason: str) -> Selection:
        """The same with these faces and those that a target shows; the others are left out for `reason`."""
        kept = kept | {face for pair in self.pairs for face in (pair.target, *pair.references)}
        faces = {key: face for key, face in self.faces.items() if key in kept}
        gone = Counter({("faces", reason): len(self.faces) - len(faces)})
        return replace(self, faces=faces, left_out=self.left_out + gone)


def image_path(dataset: Path, face_id: str, version: CleanedVersion | None = None) -> Path:
    """The picture that a face exports: the one place that decides it."""
    if version is None:
        return crop_path(dataset, face_id)
    path = version_path(dataset, version.iteration, version.round, face_id)
    if not path.is_file() or sha256_file(path) != version.sha256:
        raise LedgerBroken(f"The cleaned crop {path} is missing or changed: export --crops original.")
    return path


def _best(ledger: Ledger, options: ExportOptions) -> dict[str, CleanedVersion]:
    """The cleaned versions that go along, by face: of training faces alone, and of the newest iteration."""
    if options.version not in VERSIONS:
        raise BadInput(f"--crops {options.version}: say {' or '.join(VERSIONS)}.")
    if options.version == "original":
        return {}
    iteration = find_newest_iteration(ledger)
    found = {} if iteration is None else select_best_versions(ledger, iteration)
    if not found:
        raise BadInput(f"{ledger.dataset} has no cleaned version: make some with `likeness iterate`.")
    return found


def _marks(version: CleanedVersion | None) -> dict[str, str | None]:
    """How a face says which of its pictures is shown."""
    if version is None:
        return {"version": "original", "parent": None}
    return {"version": f"{version.iteration}/{version.round}", "parent": version.parent}


def select_for_export(ledger: Ledger, options: ExportOptions) -> Selection:
    """Faces that are ok, in a split and not refused by their photo's consent; targets with what is left of their
    references.

    Raises BadInput for a split or LQ set that there is not, and for a dataset that has nothing to export.
    """
    if options.split not in (*SPLITS, "all"):
        raise BadInput(f"--split {options.split}: say train, val or test, or leave --split out.")
    faces, out = _faces(ledger, options, _best(ledger, options))
    left_out = Counter(("faces", reason) for reason in out.values())
    pairs = []
    for row in ledger.read_rows(Pair):
        if row.split not in options.splits:
            continue
        if row.target not in faces:
            left_out["targets", out.get(row.target, "not_in_a_split")] += 1
            continue
        kept = [(ref, cosine) for ref, cosine in zip(row.refs, row.similarities, strict=True) if ref in faces]
        left_out.update(("references", out.get(ref, "not_in_a_split")) for ref in row.refs if ref not in faces)
        if kept:
            pairs.append(ExportedPair(row.target, tuple(r for r, _ in kept), tuple(c for _, c in kept), row.split))
        else:
            left_out["targets", "no_reference_left"] += 1
    photos = len(ledger.query("SELECT 1 FROM splits WHERE policy = 'photos' LIMIT 1")) > 0
    selection = Selection(options, faces, (), policy="photos" if photos else "identity").with_pairs(pairs, left_out)
    if not selection.faces:
        why = ", ".join(f"{n} {reason}" for (kind, reason), n in sorted(left_out.items()) if kind == "faces")
        raise BadInput(
            f"{ledger.dataset} has no face to export{f' ({why})' if why else ''}: curate photos first, or name another "
            "--split."
        )
    selection = _with_lq(ledger, selection)
    if not options.embeddings:
        return selection
    ids, vectors = ledger.read_embeddings(sorted(selection.faces))
    models = ledger.query("SELECT file, sha256, licence, dim FROM models WHERE role = 'recognizer'")
    found = models.row(0, named=True) if len(models) else {}
    return replace(selection, embeddings=dict(zip(ids, vectors, strict=True)), recognizer=found)


def _faces(
    ledger: Ledger, options: ExportOptions, best: Mapping[str, CleanedVersion]
) -> tuple[dict[str, ExportedFace], dict[str, str]]:
    """The faces that may be exported, and every other accepted face with its reason."""
    refusing = ledger.query(
        "SELECT DISTINCT coalesce(f.duplicate_of, f.face_id) FROM faces f JOIN photos p USING (photo_id) "
        "WHERE list_contains(?, lower(trim(p.consent)))",
        list(CONSENT_REFUSALS),
    )
    refused = set(refusing.to_series())
    rows = ledger.query(
        "SELECT f.*, m.identity_id, i.name, s.split, s.reason AS aside, p.source, p.licence, p.consent FROM faces f "
        "JOIN photos p USING (photo_id) LEFT JOIN memberships m USING (face_id) LEFT JOIN splits s USING (face_id) "
        "LEFT JOIN identities i ON i.identity_id = m.identity_id WHERE f.status = 'ok' ORDER BY f.face_id"
    )
    faces, out = {}, {}
    for row in rows.iter_rows(named=True):
        face = row["face_id"]
        if face in refused:
            out[face] = "consent_refused"
        elif row["split"] is None or row["identity_id"] is None:
            out[face] = "not_in_a_split"
        elif row["aside"] is not None:
            out[face] = row["aside"]
        else:
            points, version = row["landmarks68"], best.get(face)
            marks = _marks(version) if options.version == "best" else {}
            faces[face] = ExportedFace(
                face,
                row["identity_id"],
                row["split"],
                image_path(ledger.dataset, face, version),
                tuple(row["landmarks5"]),
                None if points is None else tuple(points),
                {**{key: row.get(key) for key in ("source", "licence", "consent", *MEASURES)}, **marks},
                row["name"] if options.names else None,
            )
    return faces, out


def _with_lq(ledger: Ledger, selection: Selection) -> Selection:
    name = selection.options.lq_set
    if name is None:
        return selection
    frozen = [row for row in ledger.read_rows(Degradation) if row.lq_set == name]
    if not frozen:
        there = sorted(set(ledger.query("SELECT DISTINCT lq_set FROM degradations").to_series()))
        raise BadInput(
            f"--set {name}: the dataset has "
            + (f"{', '.join(there)}." if there else "no frozen set; make one with `likeness degrade`.")
        )
    targets = {pair.target for pair in selection.pairs}
    rows = [row for row in frozen if row.face_id in targets]
    if not rows:
        raise BadInput(f"--set {name} holds no target of --split {selection.options.split}: name another split or set.")
    return replace(
        selection,
        lq={row.face_id: ledger.dataset / "lq" / name / f"{row.face_id}.png" for row in rows},
        lq_sha256={row.face_id: row.sha256 for row in rows},
    )


def drop_targets_without_lq(selection: Selection, splits: set[str]) -> Selection:
    """Leaves out the targets of these splits that the frozen set has no image of."""
    kept = [pair for pair in selection.pairs if pair.split not in splits or pair.target in selection.lq]
    reason = "not_in_lq_set" if selection.options.lq_set else "needs_lq_set"
    return selection.with_pairs(kept, Counter({("targets", reason): len(selection.pairs) - len(kept)}))


def map_to_crop(face: ExportedFace, points: Sequence[float]) -> np.ndarray:
    """Points of the photo (x, y, x, y ...) in the pixels of the face's 512 px crop, float64 (n, 2).

    By the least-squares similarity (no reflection) that took the five landmarks to FFHQ_512 when the crop was made.
    """
    here, there, asked = (
        np.asarray(a, np.float64).reshape(-1, 2) @ [1, 1j] for a in (face.landmarks5, FFHQ_512, points)
    )
    origin = here.mean()
    spread = float(np.vdot(here - origin, here - origin).real)
    if spread < 1e-12:
        raise LedgerBroken(f"The landmarks of face {face.face_id} coincide: run `likeness curate` again.")
    turn = np.vdot(here - origin, there - there.mean()) / spread
    moved = turn * (asked - origin) + there.mean()
    return np.stack([moved.real, moved.imag], axis=1)
