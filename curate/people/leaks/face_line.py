"""Defines FaceLine: the data about a face that the search for leaks uses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FaceLine:
    """A face of a split, or a near-duplicate of a face of a split.

    In a benchmark, a FaceLine is a line of faces.jsonl.
    """

    face: str  # The face_id.
    photo: str  # The photo_id.
    person: str
    split: str
    phash: str  # Perceptual hash of the aligned face, 256 bits in hex.
    photo_phash: str  # Perceptual hash of the whole photo, 64 bits in hex.
    place: tuple[float, ...]  # The box x0, y0, x1, y1, as shares of the photo's width and height.
    copy_of: str | None  # The face_id of the representative, or None if the face is not a near-duplicate.
    picture: str | None = None  # The name of the 512 px crop, if a case of the benchmark uses the face.
