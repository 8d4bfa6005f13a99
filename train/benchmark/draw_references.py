"""Draw the references, right and wrong, that are shown with each image of a frozen set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from degrade.sampling import make_generator
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_set_detail, read_set_hashes
from manifests.runtime.files import sha256_bytes


@dataclass(frozen=True)
class CaseFaces:
    """The faces that one image of a frozen set is shown."""

    face_id: str
    identity_id: str
    references: tuple[str, ...]
    wrong: tuple[str, ...]  # none where nobody else has as many photos
    wrong_identity_id: str | None
    pool: tuple[str, ...] = ()  # every face that the references were drawn from


def draw_references(
    ledger: Ledger, name: str, references: int, seed: int, by_face: bool = False
) -> tuple[dict[str, str], list[CaseFaces]]:
    """The sha256 of every image of a frozen set by face, and what is shown with each that has a reference, by face id:
    drawn from all photos of the person, or from those that an imported list names for the target.

    The draw of a stranger follows from people's smallest faces and not from their ids, which are each dataset's own;
    with `by_face` people are named so, too.
    """
    frozen, detail = read_set_hashes(ledger, name), read_set_detail(ledger, name)
    if detail is not None and len(detail["faces"]) != len(frozen):
        raise BadInput(f"The set {name} is not finished: run the same `likeness degrade` command again.")
    found = ledger.query(
        """SELECT d.face_id, s.identity_id, list(r.face_id ORDER BY r.face_id) AS refs
           FROM degradations d JOIN splits s USING (face_id) JOIN faces f USING (face_id)
           JOIN splits r ON r.identity_id = s.identity_id AND r.status = 'ok'
               AND r.split = CASE WHEN s.policy = 'photos' THEN 'train' ELSE s.split END
           JOIN faces g ON g.face_id = r.face_id AND g.photo_id <> f.photo_id AND g.status = 'ok'
           LEFT JOIN pairs p ON p.target = d.face_id AND p.policy = 'list'
           WHERE d.lq_set = ? AND s.status = 'ok' AND (p.target IS NULL OR list_contains(p.refs, r.face_id))
           GROUP BY ALL ORDER BY d.face_id""",
        name,
    )
    shown_by = ledger.query(
        """SELECT r.identity_id, r.face_id, g.photo_id FROM splits r JOIN faces g USING (face_id)
           WHERE r.status = 'ok' AND g.status = 'ok' AND (r.identity_id, r.split) IN (
               SELECT s.identity_id, CASE WHEN s.policy = 'photos' THEN 'train' ELSE s.split END
               FROM degradations d JOIN splits s USING (face_id) WHERE d.lq_set = ?)""",
        name,
    )
    photo_of = dict(ledger.query("SELECT face_id, photo_id FROM faces WHERE status = 'ok'").iter_rows())
    called = name_people(ledger)
    known_as = {by: by if by_face else person for person, by in called.items()}
    pool: dict[str, list[tuple[str, str]]] = {}
    for person, face, photo in shown_by.iter_rows():
        pool.setdefault(called.get(person, person), []).append((face, photo))
    chosen = []
    for face, identity, refs in found.iter_rows():
        person, right = called.get(identity, identity), _draw(refs, references, face, seed)
        stranger, wrong = _draw_wrong(pool, person, photo_of[face], len(right), face, seed)
        other = None if stranger is None else known_as.get(stranger, stranger)
        chosen.append(CaseFaces(face, known_as.get(person, person), tuple(right), tuple(wrong), other, tuple(refs)))
    return frozen, chosen


def name_people(ledger: Ledger) -> dict[str, str]:
    """identity_id -> a name that follows from the person's smallest face: the same for all who have the photos."""
    smallest = ledger.query("SELECT identity_id, min(face_id) FROM memberships GROUP BY 1 ORDER BY 1").iter_rows()
    return {person: f"p-{sha256_bytes(f'identity {face} 0'.encode())[:12]}" for person, face in smallest}


def _draw(refs: Sequence[str], count: int, face: str, seed: int) -> list[str]:
    order = make_generator(seed, "references", face).permutation(len(refs))[:count]
    return [refs[i] for i in order]


def _draw_wrong(
    pool: dict[str, list[tuple[str, str]]], person: str, photo: str, count: int, face: str, seed: int
) -> tuple[str | None, list[str]]:
    """Another person of the pool (faces with their photos, by person) and `count` of their faces.

    Whoever, and whichever, has the smallest hash of (seed, face, candidate): a dataset that grows by a person or a
    photo changes a draw only where the newcomer wins it. None and nothing where nobody else has so many.
    """
    others = {
        other: [one for one, where in faces if where != photo] for other, faces in pool.items() if other != person
    }

    def rank(candidate: str) -> bytes:
        return hashlib.sha256(json.dumps([seed, "wrong references", face, candidate]).encode()).digest()

    stranger = min((other for other, faces in others.items() if len(faces) >= count), key=rank, default=None)
    return stranger, sorted(others[stranger], key=rank)[:count] if stranger is not None else []
