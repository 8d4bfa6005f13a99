"""Records what `restore` did with each photo, each face and each reference."""

from __future__ import annotations

from dataclasses import dataclass

from train.restore.decisions.harm import HarmMeasures


@dataclass(frozen=True)
class ReferenceUse:
    """Names a reference that guided the restoration of a face."""

    file: str
    cosine: float  # The cosine of the reference to the face in the photo.
    cosine_to_others: float | None  # The mean cosine to the other references of the face; None for the only reference.
    # The corners x0, y0, x1, y1 of the face in the reference. None if the reference shows only one face.
    box: tuple[float, ...] | None
    sha256: str  # The sha256 of the reference's file, as hex.


@dataclass(frozen=True)
class FaceOutcome:
    """Describes what happened to one face of a photo. `sentence` describes it for the user."""

    box: tuple[float, ...]  # x0, y0, x1, y1 in photo pixels.
    similarity: float | None  # The mean cosine of the face to the references that were used; None without references.
    restored: bool
    decision: str  # "restored", or the reason for which the face was kept (train/restore/decisions/harm.py)
    sentence: str
    references: tuple[ReferenceUse, ...] = ()
    measures: HarmMeasures | None = None  # None if no restored face was compared with the photo


@dataclass(frozen=True)
class PhotoOutcome:
    """Describes what happened to one photo.

    `status` is "ok" if a face was restored. `status` is "kept" if all faces were kept. The output then has the bytes of
    the photo. If nothing was written, `status` is "dropped" (the photo shows no face or is kept out) or "failed".
    `reason` is a sentence for the user, or None if there is nothing to report.
    """

    photo: str
    output: str | None
    status: str
    reason: str | None
    faces: tuple[FaceOutcome, ...] = ()
