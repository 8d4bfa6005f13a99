"""Defines what the search for leaks knows of a face."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FaceLine:
    """Holds a face of a split, or a near-duplicate of such a face. A benchmark stores it as a line of faces.jsonl."""

    face: str  # face_id
    photo: str  # photo_id
    person: str
    split: str
    phash: str  # perceptual hash of the aligned face, 256 bits in hex
    photo_phash: str  # perceptual hash of the whole photo, 64 bits in hex
    place: tuple[float, ...]  # x0, y0, x1, y1 as fractions of the photo's width and height
    copy_of: str | None  # the face that represents this near-duplicate, or None if the face is not a near-duplicate
    picture: str | None = None  # the name of the 512 px crop, if a case uses the face
