"""Selects the faces, reference pairs and images of an export, and counts the excluded items by reason."""

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
from manifests.ledger.queries import read_recognizers, read_set_sizes
from manifests.ledger.records import SPLITS, CleanedVersion, Degradation, Pair
from manifests.privacy.erase import CONSENT_REFUSALS
from manifests.runtime.files import sha256_file

VERSIONS = ("original", "best")
# columns of the ledger's table `photos` that an export may contain
PHOTO_FACTS = ("source", "licence", "consent", "taken", "taken_doubt")
# columns of the ledger's table `faces` that an export may contain
MEASURES = (
    "det_score", "inter_ocular_px", "yaw", "pitch", "roll", "sharpness", "blockiness", "noise", "exposure", "upsample",
    "outside", "detail", "clipped", "dark",
)  # fmt: skip

# Selects the faces of photos whose consent forbids their use. For a near-duplicate, selects the copy that is in use.
_REFUSED_FACES = """
SELECT DISTINCT coalesce(f.duplicate_of, f.face_id)
FROM faces f JOIN photos p USING (photo_id)
WHERE list_contains(?, lower(trim(p.consent)))"""

# Selects all accepted faces, each with its person, its split, and facts about its photo.
_ACCEPTED_FACES = """
SELECT f.*, m.identity_id, i.name, s.split, s.reason AS split_reason, p.source, p.licence, p.consent,
       strftime(p.taken, '%Y-%m-%dT%H:%M:%S') AS taken, p.taken_doubt
FROM faces f JOIN photos p USING (photo_id)
LEFT JOIN memberships m USING (face_id)
LEFT JOIN splits s USING (face_id)
LEFT JOIN identities i ON i.identity_id = m.identity_id
WHERE f.status = 'ok' ORDER BY f.face_id"""


@dataclass(frozen=True)
class ExportOptions:
    """The choices of the user for an export."""

    split: str = "all"  # One of SPLITS, or "all".
    lq_set: str | None = None  # Name of the frozen set whose low-quality images are exported. None exports none.
    names: bool = False  # Whether people's names are exported.
    embeddings: bool = False  # Whether face embeddings are exported.
    version: str = "original"  # One of VERSIONS. With "best", cleaned versions replace training crops.
    shard_bytes: int = 2**29  # The largest size in bytes (ours) of a shard of the format webdataset.

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS if self.split == "all" else (self.split,)


@dataclass(frozen=True)
class ExportedFace:
    """An accepted face, with all of its data that an export may contain."""

    face_id: str
    identity_id: str
    split: str
    image: Path  # PNG file of the aligned crop of 512 px, or of the cleaned version that replaces the crop.
    landmarks5: tuple[float, ...]  # The five points as x, y, x, y ... in photo pixels.
    landmarks68: tuple[float, ...] | None
    # The keys are PHOTO_FACTS and MEASURES. If cleaned versions are exported, `version` and `parent` are
    # keys too. `parent` is the sha256 of the original crop.
    facts: Mapping[str, Any]
    name: str | None = None


@dataclass(frozen=True)
class ExportedPair:
    """A target face with its references, in the order of the ledger."""

    target: str
    references: tuple[str, ...]
    similarities: tuple[float, ...]  # Cosine similarity of each reference and the target.
    # Days between the photos of each reference and of the target. None if a date is unknown.
    gap_days: tuple[int | None, ...]
    split: str

    def select(self, references: Sequence[str]) -> ExportedPair:
        """Returns the pair with only these references, in this order."""
        at = [self.references.index(reference) for reference in references]
        return replace(
            self,
            references=tuple(references),
            similarities=tuple(self.similarities[i] for i in at),
            gap_days=tuple(self.gap_days[i] for i in at),
        )


@dataclass(frozen=True)
class Selection:
    """The content of an export."""

    options: ExportOptions
    faces: dict[str, ExportedFace]
    pairs: tuple[ExportedPair, ...]
    lq: dict[str, Path] = field(default_factory=dict)  # maps a target to the PNG file of its frozen low-quality image
    lq_sha256: dict[str, str] = field(default_factory=dict)
    # Maps a face id to its unit embedding, float32 (d,).
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    # Facts about the model of the embeddings. Empty without embeddings.
    recognizer: dict[str, Any] = field(default_factory=dict)
    policy: str = "identity"  # The value of --split-by. With "photos", a person may be in several splits.
    # Maps (kind, reason) to a count. The kind is "faces", "targets" or "references".
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)

    def pairs_of(self, split: str) -> list[ExportedPair]:
        return [pair for pair in self.pairs if pair.split == split]

    def faces_of(self, split: str) -> list[ExportedFace]:
        return [face for _, face in sorted(self.faces.items()) if face.split == split]

    @property
    def lq_splits(self) -> set[str]:
        """The splits in which at least one target has a low-quality image."""
        return {pair.split for pair in self.pairs if pair.target in self.lq}

    def with_pairs(self, pairs: Sequence[ExportedPair], left_out: Counter[tuple[str, str]]) -> Selection:
        """Returns a copy with only these pairs and with the low-quality images of their targets.

        A face stays if it is in one of the pairs or in a split of the options.
        """
        in_pairs = {face for pair in pairs for face in (pair.target, *pair.references)}
        faces = {key: face for key, face in self.faces.items() if face.split in self.options.splits or key in in_pairs}
        targets = {pair.target for pair in pairs}
        lq = {face: path for face, path in self.lq.items() if face in targets}
        hashes = {face: sha256 for face, sha256 in self.lq_sha256.items() if face in targets}
        left_out = self.left_out + left_out
        return replace(self, pairs=tuple(pairs), faces=faces, lq=lq, lq_sha256=hashes, left_out=left_out)

    def with_faces(self, face_ids: set[str], reason: str) -> Selection:
        """Returns a copy with only the faces `face_ids` and the faces that are in a pair.

        The other faces are counted as left out for `reason`.
        """
        face_ids = face_ids | {face for pair in self.pairs for face in (pair.target, *pair.references)}
        faces = {key: face for key, face in self.faces.items() if key in face_ids}
        left_out = Counter({("faces", reason): len(self.faces) - len(faces)})
        return replace(self, faces=faces, left_out=self.left_out + left_out)


def select_for_export(ledger: Ledger, options: ExportOptions) -> Selection:
    """Returns the faces to export and their pairs.

    A face is exported if it is accepted, has a split, and its consent does not forbid its use.

    References that are not exported are removed from their pairs. A pair without references is left out. Raises
    BadInput if the split or the frozen set of the options does not exist, or if there is no face to export.
    """
    if options.split not in (*SPLITS, "all"):
        raise BadInput(f"--split {options.split} is not a split. Write train, val or test, or leave --split out.")
    faces, reasons = _select_faces(ledger, options, _select_versions(ledger, options))
    left_out = Counter(("faces", reason) for reason in reasons.values())
    pairs = []
    for row in ledger.read_rows(Pair):
        if row.split not in options.splits:
            continue
        if row.target not in faces:
            left_out["targets", reasons.get(row.target, "not_in_a_split")] += 1
            continue
        rest = [ref for ref in row.refs if ref in faces]
        left_out.update(("references", reasons.get(ref, "not_in_a_split")) for ref in row.refs if ref not in faces)
        if rest:
            gap_days = row.gap_days or (None,) * len(row.refs)
            pairs.append(ExportedPair(row.target, row.refs, row.similarities, gap_days, row.split).select(rest))
        else:
            left_out["targets", "no_reference_left"] += 1
    by_photos = len(ledger.query("SELECT 1 FROM splits WHERE policy = 'photos' LIMIT 1")) > 0
    policy = "photos" if by_photos else "identity"
    selection = Selection(options, faces, (), policy=policy).with_pairs(pairs, left_out)
    if not selection.faces:
        counts = ", ".join(f"{n} {reason}" for (kind, reason), n in sorted(left_out.items()) if kind == "faces")
        raise BadInput(
            f"{ledger.dataset} has no face to export{f' ({counts})' if counts else ''}. Curate photos first, or name "
            "another --split."
        )
    selection = _add_lq(ledger, selection)
    return _add_embeddings(ledger, selection) if options.embeddings else selection


def _select_versions(ledger: Ledger, options: ExportOptions) -> dict[str, CleanedVersion]:
    """Returns a dict that maps the id of a training face to the cleaned version to export.

    The versions are from the newest iteration.
    """
    if options.version not in VERSIONS:
        raise BadInput(f"--crops {options.version} is unknown. Write {' or '.join(VERSIONS)}.")
    if options.version == "original":
        return {}
    iteration = find_newest_iteration(ledger)
    versions = {} if iteration is None else select_best_versions(ledger, iteration)
    if not versions:
        raise BadInput(f"{ledger.dataset} has no cleaned version. Make cleaned versions with `likeness iterate`.")
    return versions


def _select_faces(
    ledger: Ledger, options: ExportOptions, versions: Mapping[str, CleanedVersion]
) -> tuple[dict[str, ExportedFace], dict[str, str]]:
    """Returns the faces that may be exported.

    Also returns a dict that maps the id of each other accepted face to the reason why it must not be exported.
    """
    refused = set(ledger.query(_REFUSED_FACES, list(CONSENT_REFUSALS)).to_series())
    faces, reasons = {}, {}
    for row in ledger.query(_ACCEPTED_FACES).iter_rows(named=True):
        face = row["face_id"]
        if face in refused:
            reasons[face] = "consent_refused"
        elif row["split"] is None or row["identity_id"] is None:
            reasons[face] = "not_in_a_split"
        elif row["split_reason"] is not None:
            reasons[face] = row["split_reason"]
        else:
            points, version = row["landmarks68"], versions.get(face)
            labels = _label_version(version) if options.version == "best" else {}
            faces[face] = ExportedFace(
                face,
                row["identity_id"],
                row["split"],
                _image_path(ledger.dataset, face, version),
                tuple(row["landmarks5"]),
                None if points is None else tuple(points),
                {**{key: row.get(key) for key in (*PHOTO_FACTS, *MEASURES)}, **labels},
                row["name"] if options.names else None,
            )
    return faces, reasons


def _image_path(dataset: Path, face_id: str, version: CleanedVersion | None) -> Path:
    """Returns the image file to export for a face. Raises LedgerBroken if a cleaned version is missing or changed."""
    if version is None:
        return crop_path(dataset, face_id)
    path = version_path(dataset, version.iteration, version.round, face_id)
    if not path.is_file() or sha256_file(path) != version.sha256:
        raise LedgerBroken(f"The cleaned crop {path} is missing or changed. Export with --crops original instead.")
    return path


def _label_version(version: CleanedVersion | None) -> dict[str, str | None]:
    """Returns the facts `version` and `parent`, which say whether an image is a cleaned version or an original crop."""
    if version is None:
        return {"version": "original", "parent": None}
    return {"version": f"{version.iteration}/{version.round}", "parent": version.parent}


def _add_lq(ledger: Ledger, selection: Selection) -> Selection:
    """Returns the selection with the low-quality images of the frozen set, if the options name a set."""
    name = selection.options.lq_set
    if name is None:
        return selection
    frozen = ledger.read_rows(Degradation, "lq_set = ?", name)
    if not frozen:
        names = sorted(read_set_sizes(ledger))
        known = f"The dataset has {', '.join(names)}." if names else "Make a frozen set with `likeness degrade`."
        raise BadInput(f"--set {name}: the dataset has no such frozen set. {known}")
    targets = {pair.target for pair in selection.pairs}
    rows = [row for row in frozen if row.face_id in targets]
    if not rows:
        raise BadInput(
            f"--set {name} contains no target of --split {selection.options.split}. Name another split or another set."
        )
    return replace(
        selection,
        lq={row.face_id: ledger.dataset / "lq" / name / f"{row.face_id}.png" for row in rows},
        lq_sha256={row.face_id: row.sha256 for row in rows},
    )


def _add_embeddings(ledger: Ledger, selection: Selection) -> Selection:
    """Returns the selection with the embeddings of its faces, and with facts about the recognizer."""
    face_ids, embeddings = ledger.read_embeddings(sorted(selection.faces))
    models = [
        {"file": model.file, "sha256": model.sha256, "licence": model.licence, "dim": model.dim}
        for model in read_recognizers(ledger)[:1]
    ]
    recognizer = models[0] if models else {}
    return replace(selection, embeddings=dict(zip(face_ids, embeddings, strict=True)), recognizer=recognizer)


def drop_targets_without_lq(selection: Selection, splits: set[str]) -> Selection:
    """Returns the selection without those targets of `splits` that have no low-quality image."""
    rest = [pair for pair in selection.pairs if pair.split not in splits or pair.target in selection.lq]
    reason = "not_in_lq_set" if selection.options.lq_set else "needs_lq_set"
    return selection.with_pairs(rest, Counter({("targets", reason): len(selection.pairs) - len(rest)}))
