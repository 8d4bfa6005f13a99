"""Draw the references and the wrong references of each target of a frozen set."""

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

# This query returns each target with the faces that can be its references: usable faces of the same person from other
# photos of the same split. With --split-by photos, references come from the split `train`, not from the target's split.
# If an imported list names the references of a target, only these faces can be its references.
POSSIBLE_REFERENCES = """
    SELECT d.face_id, s.identity_id, list(r.face_id ORDER BY r.face_id) AS refs
    FROM degradations d JOIN splits s USING (face_id) JOIN faces f USING (face_id)
    JOIN splits r ON r.identity_id = s.identity_id AND r.status = 'ok'
        AND r.split = CASE WHEN s.policy = 'photos' THEN 'train' ELSE s.split END
    JOIN faces g ON g.face_id = r.face_id AND g.photo_id <> f.photo_id AND g.status = 'ok'
    LEFT JOIN pairs p ON p.target = d.face_id AND p.policy = 'list'
    WHERE d.lq_set = ? AND s.status = 'ok' AND (p.target IS NULL OR list_contains(p.refs, r.face_id))
    GROUP BY ALL ORDER BY d.face_id"""

# This query returns the faces that can be references, for all people of a frozen set. Wrong references are drawn from
# these faces.
FACES_OF_PEOPLE = """
    SELECT r.identity_id, r.face_id, g.photo_id FROM splits r JOIN faces g USING (face_id)
    WHERE r.status = 'ok' AND g.status = 'ok' AND (r.identity_id, r.split) IN (
        SELECT s.identity_id, CASE WHEN s.policy = 'photos' THEN 'train' ELSE s.split END
        FROM degradations d JOIN splits s USING (face_id) WHERE d.lq_set = ?)"""


@dataclass(frozen=True)
class CaseFaces:
    """Holds the face id of a target of a frozen set, and the face ids that were drawn for this target."""

    face_id: str
    identity_id: str
    references: tuple[str, ...]
    wrong: tuple[str, ...]  # faces of another person; empty if no other person has enough photos
    wrong_identity_id: str | None
    pool: tuple[str, ...] = ()  # all faces from which the references were drawn


def draw_references(
    ledger: Ledger,
    set_name: str,
    references: int,
    seed: int,
    by_face: bool = False,
    wrong_references: int | None = None,
) -> tuple[dict[str, str], list[CaseFaces]]:
    """Draws up to `references` references for each target of a frozen set. Targets without references are left out.

    References come from the person's usable faces in other photos, or from an imported list. Each target also gets
    wrong references, which are faces of another person of the set. A target has as many wrong references as right
    references, but at most `wrong_references`. All draws depend only on the seed and on face ids, because person ids
    differ between datasets. If `by_face` is true, each person is called by the name from `name_people`, otherwise by
    the identity id.

    Returns the sha256 of each LQ image by face id, and the CaseFaces of each target, sorted by face id. Raises BadInput
    if the set is not finished.
    """
    lq_sha256, detail = read_set_hashes(ledger, set_name), read_set_detail(ledger, set_name)
    if detail is not None and len(detail["faces"]) != len(lq_sha256):
        raise BadInput(f"The set {set_name} is not finished: run the same `likeness degrade` command again.")
    targets = ledger.query(POSSIBLE_REFERENCES, set_name)
    faces_of_people = ledger.query(FACES_OF_PEOPLE, set_name)
    photo_of = dict(ledger.query("SELECT face_id, photo_id FROM faces WHERE status = 'ok'").iter_rows())
    stable_names = name_people(ledger)
    result_names = {stable: stable if by_face else person for person, stable in stable_names.items()}
    # `pool` maps the name of a person, from `name_people`, to (face, photo) for each face of the person that can be a
    # reference
    pool: dict[str, list[tuple[str, str]]] = {}
    for person, face, photo in faces_of_people.iter_rows():
        pool.setdefault(stable_names.get(person, person), []).append((face, photo))
    cases = []
    for face, identity, possible in targets.iter_rows():
        person, right = stable_names.get(identity, identity), _draw(possible, references, face, seed)
        count = len(right) if wrong_references is None else min(len(right), wrong_references)
        stranger, wrong = _draw_wrong(pool, person, photo_of[face], count, face, seed)
        other = None if stranger is None else result_names.get(stranger, stranger)
        cases.append(
            CaseFaces(face, result_names.get(person, person), tuple(right), tuple(wrong), other, tuple(possible))
        )
    return lq_sha256, cases


def name_people(ledger: Ledger) -> dict[str, str]:
    """Returns a name for each identity id.

    The name is a hash of the person's smallest face id, so all datasets of the same photos give a person the same name.
    """
    smallest = ledger.query("SELECT identity_id, min(face_id) FROM memberships GROUP BY 1 ORDER BY 1").iter_rows()
    return {person: f"p-{sha256_bytes(f'identity {face} 0'.encode())[:12]}" for person, face in smallest}


def _draw(faces: Sequence[str], count: int, target: str, seed: int) -> list[str]:
    order = make_generator(seed, "references", target).permutation(len(faces))[:count]
    return [faces[i] for i in order]


def _draw_wrong(
    pool: dict[str, list[tuple[str, str]]], person: str, photo: str, count: int, target: str, seed: int
) -> tuple[str | None, list[str]]:
    """Draws another person of the pool, and `count` faces of this person. No drawn face is in the target's photo.

    `pool` maps a person to (face, photo) pairs. The draw takes the candidates with the smallest hash of (seed, target,
    candidate). So a candidate that is added later changes a draw only if its hash is smaller than the hash of a drawn
    candidate. Returns (None, []) if no other person has enough faces.
    """
    others = {
        other: [face for face, face_photo in faces if face_photo != photo]
        for other, faces in pool.items()
        if other != person
    }

    def rank(candidate: str) -> bytes:
        return hashlib.sha256(json.dumps([seed, "wrong references", target, candidate]).encode()).digest()

    stranger = min((other for other, faces in others.items() if len(faces) >= count), key=rank, default=None)
    return stranger, sorted(others[stranger], key=rank)[:count] if stranger is not None else []
