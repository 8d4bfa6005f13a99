"""Reads the frozen sets: each low-quality image with its target, its references and its degradation in words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from manifests.ledger.ledger import Ledger
from manifests.report.sections.frozen_section import describe_theta

REFERENCES = 4  # largest number (ours) of references that the page shows beside an image

_SETS = """
SELECT d.lq_set, d.preset, d.size, count(*) AS images, any_value(s.split) AS split,
       count(*) FILTER (s.status IS DISTINCT FROM 'ok') AS unused
FROM degradations d LEFT JOIN splits s USING (face_id) GROUP BY ALL ORDER BY d.lq_set"""
_IMAGES = """
SELECT d.face_id, d.theta, d.sha256, p.refs, m.identity_id, i.name
FROM degradations d LEFT JOIN pairs p ON p.target = d.face_id LEFT JOIN memberships m ON m.face_id = d.face_id
LEFT JOIN identities i ON i.identity_id = m.identity_id
WHERE d.lq_set = ? ORDER BY p.refs IS NULL, m.identity_id, d.face_id LIMIT ? OFFSET ?"""


@dataclass(frozen=True)
class SetSummary:
    """A frozen set."""

    lq_set: str
    preset: str
    size: int  # side of the images in pixels
    images: int
    split: str | None
    unused: int  # number of images whose face the dataset does not use any more


@dataclass(frozen=True)
class SetImage:
    """A low-quality image of a frozen set."""

    face_id: str  # The id of the target face.
    sha256: str  # The sha256 of the image's file.
    references: tuple[str, ...]  # Face ids of the first references, at most REFERENCES.
    all_references: int
    identity_id: str | None
    name: str | None
    degradation: str


def list_sets(ledger: Ledger) -> list[SetSummary]:
    """Returns all frozen sets of the dataset, ordered by name."""
    return [SetSummary(**row) for row in ledger.query(_SETS).iter_rows(named=True)]


def read_images(ledger: Ledger, lq_set: str, start: int, limit: int) -> list[SetImage]:
    """Returns up to `limit` images of a set, from number `start` on, ordered by person.

    Images without references come last.
    """
    return [
        SetImage(
            face_id,
            sha256,
            tuple((refs or ())[:REFERENCES]),
            len(refs or ()),
            identity,
            name,
            describe_theta(json.loads(theta)),
        )
        for face_id, theta, sha256, refs, identity, name in ledger.query(_IMAGES, lq_set, limit, start).iter_rows()
    ]


def find_lq_file(ledger: Ledger, lq_set: str, face_id: str) -> tuple[Path, str] | None:
    """Returns the path and the sha256 of an image of a frozen set, or None if the ledger has no row for the image."""
    row = ledger.query(
        "SELECT lq_set, face_id, sha256 FROM degradations WHERE lq_set = ? AND face_id = ?", lq_set, face_id
    ).rows()
    if not row:
        return None
    (known_set, known_face, sha256), *_ = row
    return ledger.dataset / "lq" / known_set / f"{known_face}.png", sha256
