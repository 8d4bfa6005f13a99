"""The cases of a frozen set: what a restorer is shown, what it is compared to, and that it was not trained on them."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from degrade.operations.pixels import shrink
from degrade.sampling import make_generator
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.runtime.files import sha256_bytes
from manifests.runtime.png_files import decode_own_png
from train.benchmark.frozen_benchmark import (
    Benchmark,
    crops_of,
    embeddings_of,
    face_of,
    has_embeddings,
    is_benchmark,
    load_benchmark,
    lq_of,
)
from train.data.snapshot import FACES


@dataclass(frozen=True)
class Case:
    """One image of a frozen set with what it is compared to and what the restorer may see."""

    face_id: str
    identity_id: str
    lq: np.ndarray  # uint8 (S, S, 3)
    target: np.ndarray  # uint8 (S, S, 3)
    references: tuple[np.ndarray, ...]  # uint8 (S, S, 3)
    reference_embeddings: np.ndarray  # float32 (K, d)
    wrong: tuple[np.ndarray, ...] = ()  # uint8 (S, S, 3), K of another person; none where nobody has as many photos
    wrong_embeddings: np.ndarray | None = None  # float32 (K, d)
    wrong_identity_id: str | None = None
    # as many of the person's photos, chosen to be of little help: "turned", those whose yaw differs most from the
    # target's; "unlike", those with the lowest cosine to it
    others: Mapping[str, tuple[tuple[np.ndarray, ...], np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class FrozenSet:
    """A frozen set as it is measured."""

    name: str
    images: int  # in the set; those whose person has no other usable photo have no case
    cases: tuple[Case, ...]  # ordered by face id


@dataclass(frozen=True)
class Drawn:
    """The faces that one image of a frozen set is shown."""

    face_id: str
    identity_id: str
    references: tuple[str, ...]
    wrong: tuple[str, ...]  # none where nobody else has as many photos
    wrong_identity_id: str | None
    pool: tuple[str, ...] = ()  # every face that the references were drawn from


def read_cases(
    dataset: Path, size: int | None, lq_set: str | None, references: int, seed: int, harder: bool = False
) -> FrozenSet:
    """The frozen set of that name, or the one test set of the restorer's size; of any, where `size` is None.

    References are drawn from all usable photos of the same person on the side that a restorer may see, by a stable
    hash of (seed, face): never by likeness to the target, which nobody has when restoring. Wrong references are as
    many photos of another person of the set, see _draw_wrong. A benchmark, whose draws are made, stands in for the
    dataset, or for the set where it holds no pictures and takes them from the dataset. `harder` fills `others` of each
    case, which a benchmark's have not. Raises BadInput for a set that
    is not there, not finished or of another size, LedgerBroken for an image that is not the frozen one.
    """
    if is_benchmark(dataset):
        return read_benchmark(dataset, None, size, references)
    if lq_set is not None and is_benchmark(Path(lq_set)):
        return read_benchmark(Path(lq_set), dataset, size, references)
    with Ledger.open(dataset) as ledger:
        name = _choose_set(ledger, lq_set, size)
        frozen, chosen = draw_cases(ledger, name, references, seed)
        others = _harder(ledger, chosen, references) if harder else {}
        drawn = {ref for case in chosen for ref in (*case.references, *case.wrong)}
        wanted = sorted(drawn.union(*(faces for kinds in others.values() for faces in kinds.values())))
        vector = dict(zip(*ledger.read_embeddings(wanted), strict=True))
        name_size = size or int(ledger.query("SELECT any_value(size) FROM degradations WHERE lq_set = ?", name).item())
    if not chosen:
        raise BadInput(f"No face of the set {name} has a reference: nothing can be measured.")
    shown = {*wanted, *(case.face_id for case in chosen)}
    crops = {face: shrink(read_png(crop_path(dataset, face)), name_size) for face in shown}
    cases = tuple(
        Case(
            case.face_id,
            case.identity_id,
            read_png(dataset / "lq" / name / f"{case.face_id}.png", frozen[case.face_id]),
            crops[case.face_id],
            tuple(crops[ref] for ref in case.references),
            np.stack([vector[ref] for ref in case.references]),
            tuple(crops[ref] for ref in case.wrong),
            np.stack([vector[ref] for ref in case.wrong]) if case.wrong else None,
            case.wrong_identity_id,
            {
                kind: (tuple(crops[ref] for ref in faces), np.stack([vector[ref] for ref in faces]))
                for kind, faces in others.get(case.face_id, {}).items()
            },
        )
        for case in chosen
    )
    return FrozenSet(name, len(frozen), cases)


def read_benchmark(
    folder: Path, photos: Path | None = None, size: int | None = None, references: int | None = None
) -> FrozenSet:
    """A benchmark of `likeness freeze` as it is measured, with the first `references` of each target's references.

    Without pictures of its own, `photos` names a dataset of the same photos; crops are found there by face and compared
    with the pixels that were frozen, LQ pictures made again. `size` is what a restorer works at. Raises BadInput for
    what does not fit, LedgerBroken for a picture that is missing or another one.
    """
    found = load_benchmark(folder)
    card = found.card
    if size is not None and card["size"] != size:
        raise BadInput(f"{folder} has {card['size']} px images, the restorer works at {size} px.")
    if references is not None and references > card["references"]:
        raise BadInput(f"{folder} was frozen with {card['references']} references an image: ask for no more of them.")
    crops, face = crops_of(found, photos), face_of(found)
    own = has_embeddings(card)
    if not own and photos is None:
        raise BadInput(
            f"{folder} was frozen without embeddings: name a dataset of the same photos first and the "
            "benchmark with --benchmark, or freeze it again with --with-embeddings."
        )
    vector = dict(zip(*embeddings_of(found, None if own else photos), strict=True))
    if missing := [one for one in face.values() if one not in vector]:
        raise LedgerBroken(f"{photos} has no embedding of face {missing[0][:12]}: it must hold the photos of {folder}.")
    cases = []
    for case in found.cases:
        right, wrong = case.references[:references], case.wrong_references[:references]
        cases.append(
            Case(
                case.face,
                case.person,
                lq_of(found, case, photos),
                crops[case.picture],
                tuple(crops[ref] for ref in right),
                np.stack([vector[face[ref]] for ref in right]),
                tuple(crops[ref] for ref in wrong),
                np.stack([vector[face[ref]] for ref in wrong]) if wrong else None,
                case.wrong_person,
            )
        )
    return FrozenSet(card["set"]["name"], card["images_in_set"], tuple(cases))


def draw_cases(
    ledger: Ledger, name: str, references: int, seed: int, by_face: bool = False
) -> tuple[dict[str, str], list[Drawn]]:
    """The sha256 of every image of a frozen set by face, and what is shown with each that has a reference, by face id:
    drawn from all photos of the person, or from those that an imported list names for the target.

    The draw of a stranger follows from people's smallest faces and not from their ids, which are each dataset's own;
    with `by_face` people are named so, too.
    """
    frozen = dict(ledger.query("SELECT face_id, sha256 FROM degradations WHERE lq_set = ?", name).iter_rows())
    begun = ledger.query("SELECT detail FROM stages WHERE stage = 'degrade' AND unit = ?", name)
    if len(begun) and len(json.loads(begun["detail"][0])["faces"]) != len(frozen):
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
    called = people_by_face(ledger)
    known_as = {by: by if by_face else person for person, by in called.items()}
    pool: dict[str, list[tuple[str, str]]] = {}
    for person, face, photo in shown_by.iter_rows():
        pool.setdefault(called.get(person, person), []).append((face, photo))
    chosen = []
    for face, identity, refs in found.iter_rows():
        person, right = called.get(identity, identity), _draw(refs, references, face, seed)
        stranger, wrong = _draw_wrong(pool, person, photo_of[face], len(right), face, seed)
        other = None if stranger is None else known_as.get(stranger, stranger)
        chosen.append(Drawn(face, known_as.get(person, person), tuple(right), tuple(wrong), other, tuple(refs)))
    return frozen, chosen


def people_by_face(ledger: Ledger) -> dict[str, str]:
    """identity_id -> a name that follows from the person's smallest face: the same for all who have the photos."""
    smallest = ledger.query("SELECT identity_id, min(face_id) FROM memberships GROUP BY 1 ORDER BY 1").iter_rows()
    return {person: f"p-{sha256_bytes(f'identity {face} 0'.encode())[:12]}" for person, face in smallest}


def _harder(ledger: Ledger, chosen: Sequence[Drawn], count: int) -> dict[str, dict[str, list[str]]]:
    """Of each case's pool the `count` faces of another pose, and those least alike, by face."""
    faces = sorted({face for case in chosen for face in (case.face_id, *case.pool)})
    vector = dict(zip(*ledger.read_embeddings(faces), strict=True))
    yaw = dict(ledger.query("SELECT face_id, yaw FROM faces WHERE status = 'ok'").iter_rows())
    found = {}
    for case in chosen:
        target = case.face_id
        turned = sorted(case.pool, key=lambda ref: (-abs(yaw[ref] - yaw[target]), ref))
        unlike = sorted(case.pool, key=lambda ref: (float(vector[ref] @ vector[target]), ref))
        found[target] = {"turned": turned[:count], "unlike": unlike[:count]}
    return found


def refuse_seen(dataset: Path, run: Path, cases: Sequence[Case]) -> bool:
    """Raise LedgerBroken where the run was trained on a person of the cases (under --split-by photos: on their photo).

    Answers whether it could be looked at: RUN/snapshot says what was trained on.
    """
    snapshot = run / "snapshot" / FACES
    if not snapshot.is_file():
        return False
    table = pq.read_table(snapshot, columns=["face_id", "split"]).to_pydict()
    trained = {face for face, split in zip(table["face_id"], table["split"], strict=True) if split == "train"}
    tested = [case.face_id for case in cases]
    kin = _kin(load_benchmark(dataset), set(tested)) if is_benchmark(dataset) else _kin_in_ledger(dataset, tested)
    for face, other in kin:
        if other in trained:
            raise LedgerBroken(
                f"{run} was trained on face {other[:12]}, of a person who is now in the set (face {face[:12]}): the "
                f"dataset has changed since. Train again, into another folder."
            )
    return True


def _kin(found: Benchmark, tested: set[str]) -> list[tuple[str, str]]:
    """Every tested face with every face of its person (under --split-by photos: of its photo) in the benchmark."""
    by = operator.attrgetter("person" if found.card["policy"] == "identity" else "photo")
    faces: dict[str, list[str]] = {}
    for line in found.faces:
        faces.setdefault(by(line), []).append(line.face)
    return [(line.face, other) for line in found.faces if line.face in tested for other in faces[by(line)]]


def _kin_in_ledger(dataset: Path, tested: list[str]) -> list[tuple[str, str]]:
    with Ledger.open(dataset) as ledger:
        kin = ledger.query(
            """SELECT a.face_id, b.face_id AS other FROM splits a JOIN faces fa USING (face_id)
               JOIN splits b ON b.identity_id = a.identity_id JOIN faces fb ON fb.face_id = b.face_id
               WHERE list_contains(?, a.face_id) AND (a.policy = 'identity' OR fa.photo_id = fb.photo_id)""",
            tested,
        )
    return list(kin.iter_rows())


def _choose_set(ledger: Ledger, wanted: str | None, size: int | None) -> str:
    sets = dict(ledger.query("SELECT DISTINCT lq_set, size FROM degradations").iter_rows())
    if wanted is not None:
        if wanted not in sets:
            raise BadInput(f"There is no frozen set {wanted}; there are: {', '.join(sorted(sets)) or 'none'}.")
        if size is not None and sets[wanted] != size:
            raise BadInput(f"The set {wanted} has {sets[wanted]} px images, the restorer works at {size} px.")
        return wanted
    fitting = sorted(name for name, pixels in sets.items() if size in (None, pixels) and "-test-" in name)
    if len(fitting) != 1:
        told = f"{len(fitting)} fit: {', '.join(fitting)}; say which with --set." if fitting else (
            f"make one with `likeness degrade {ledger.dataset} --split test --size {size or 512}`."
        )  # fmt: skip
        raise BadInput(f"A frozen test set{f' of {size} px' if size else ''} is needed; {told}")
    return fitting[0]


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


def read_png(path: Path, sha256: str | None = None) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a PNG of the dataset; with `sha256`, of exactly that file."""
    try:
        data = path.read_bytes()
        pixels = decode_own_png(data)
    except (OSError, cv2.error):
        data, pixels = b"", None
    if pixels is None or (sha256 is not None and sha256_bytes(data) != sha256):
        raise LedgerBroken(f"{path} is missing, broken or changed: run `likeness manifest check` on the dataset.")
    return pixels
