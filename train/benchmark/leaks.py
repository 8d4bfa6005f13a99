"""Leaks of a dataset or a benchmark: whatever a restorer was trained on, or is shown, that it is then measured by.

| kind | two ends |
|---|---|
| identity | faces of one person in two splits |
| photo | faces of one photo in two splits |
| near_duplicate | the same picture again, in two splits, by the rules that the dataset was curated with |
| cosine | faces in two splits, at least as alike as one person's by the threshold that grouping found, borne out |
| own_reference | a target and, among its references, itself, a near-duplicate, or another face of its photo |

A threshold that joins two lone photos is reached by some pairs of strangers too: by the share that grouping noted as
its false match rate. So a pair above it is a leak where the other photos bear it out: where a face's mean cosine to the
other's person, in that split, reaches the threshold as well (that of two faces that stand alone is their own cosine).
All pairs above it are counted, beside the number expected of strangers.

Every face is compared with every face of every other split, in blocks: exact, whatever their number. Of 100,000 faces
of 512 dimensions, four fifths in train, that is 1.7e9 cosines: see docs/benchmarks.md for the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.ledger import Ledger
from manifests.runtime.progress import Progress
from train.benchmark.frozen_benchmark import (
    SPLITS,
    Benchmark,
    FaceLine,
    faces_by_picture,
    load_benchmark,
    read_embeddings,
)

KINDS = ("identity", "photo", "near_duplicate", "cosine", "own_reference")
DIGITS = 6  # of a cosine: the last bits of a matrix product follow the number of threads

_ROWS, _COLUMNS = 1024, 16384  # of a block: 64 MB of cosines
_PAIRS = 1 << 16


@dataclass(frozen=True)
class Rules:
    """When two faces are one picture again, as curate/config.py says and the ledger kept, and when one person."""

    max_photo_bits: int
    min_cosine_same_photo: float
    min_overlap_same_photo: float
    max_face_bits: int
    min_cosine_same_face: float
    same_person: float
    false_match_rate: float  # share of strangers' pairs that reach `same_person`, as grouping estimated it


@dataclass(frozen=True)
class Leak:
    """Two ends, face ids, that should not meet. `value` is their cosine, where it is known."""

    kind: str
    one: str
    one_split: str
    other: str
    other_split: str
    value: float | None
    what: str


@dataclass
class Leaks:
    """What was looked at and what was found; `found` holds the worst `limit` of each kind, `counts` all."""

    limit: int
    faces: int = 0
    pairs: int = 0  # pairs of faces of two splits
    targets: int = 0
    alike_pairs: int = 0  # pairs of faces of two splits that reach the threshold
    expected_pairs: float = 0.0  # that many of strangers alone
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    examples: list[Leak] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def add(self, kind: str, leaks: Sequence[Leak]) -> None:
        self.counts[kind] += len(leaks)
        kept = [leak for leak in self.examples if leak.kind == kind] + list(leaks)
        kept.sort(key=lambda leak: (-(leak.value or 0), leak.one, leak.other))
        self.examples = [leak for leak in self.examples if leak.kind != kind] + kept[: self.limit]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def as_json(self) -> dict[str, Any]:
        """For --json; leaks in the order of KINDS."""
        found = sorted(self.examples, key=lambda leak: KINDS.index(leak.kind))
        return {**asdict(self), "examples": [asdict(leak) for leak in found], "ok": self.total == 0}


def find_dataset_leaks(dataset: Path, limit: int = 20, progress: Progress = lambda *_: None) -> Leaks:
    """The leaks of a dataset: between its splits, and among the references that its pairs and `evaluate` show.

    Raises BadInput for a dataset that was never curated to its end, LedgerBroken for rows without what they need.
    """
    with Ledger.open(Path(dataset)) as ledger:
        faces, policy = read_faces(ledger), read_policy(ledger)
        vectors = ledger.read_embeddings([face.face for face in faces])[1]
        shown = np.concatenate([_shown_by_pairs(ledger, faces), _shown_by_evaluation(faces, policy)])
        rules = read_rules(ledger)
    return find_leaks(faces, np.arange(len(faces)), vectors, shown, policy, rules, limit, progress)


def find_benchmark_leaks(
    folder: Path, photos: Path | None = None, limit: int = 20, progress: Progress = lambda *_: None
) -> Leaks:
    """The leaks of a benchmark: between the splits that it lists, and among a target's references, right and wrong.

    Embeddings come from the dataset `photos`, else from the benchmark; what cannot be checked for want of them is in
    `unchecked`. Raises BadInput as load_benchmark, and for a dataset of another recognizer.
    """
    found = load_benchmark(folder)
    number = {line.face: i for i, line in enumerate(found.faces)}
    named, vectors = read_embeddings(found, photos)
    rows = np.array([number[face] for face in named], np.int64)
    told = dict(found.card["thresholds"])
    rules = Rules(**told.pop("near_duplicate"), **told)
    leaks = find_leaks(found.faces, rows, vectors, _shown_by(found), found.card["policy"], rules, limit, progress)
    if len(rows) < len(found.faces):
        leaks.unchecked[-1] += f" When it was frozen, {found.card['leaks']['cosine']} of kind cosine were counted."
    return leaks


def find_leaks(
    faces: Sequence[FaceLine],
    rows: np.ndarray,
    vectors: np.ndarray,
    shown: np.ndarray,
    policy: str,
    rules: Rules,
    limit: int = 20,
    progress: Progress = lambda *_: None,
) -> Leaks:
    """All leaks among `faces`. `rows` int (m,) number the faces whose unit embeddings, float32 (m, d), are `vectors`;
    `shown` int (k, 2) holds targets and references, numbers of faces; `policy` of the splits is identity or photos."""
    leaks = Leaks(limit, len(faces), targets=len(np.unique(shown[:, 0])))
    world = _World(faces, rows, vectors, rules)
    leaks.add("photo", _in_two_splits(faces, "photo"))
    if policy == "identity":
        leaks.add("identity", _in_two_splits(faces, "person"))
    else:
        leaks.unchecked.append(
            "identity and cosine: --split-by photos puts one person's photos on every side on purpose."
        )
    if len(rows) < len(faces):
        leaks.unchecked.append(
            f"cosine, and near-duplicates that were cropped anew: {len(faces) - len(rows)} of {len(faces)} faces have "
            "no embedding here; say `likeness leaks DATASET --benchmark BENCH` with a dataset of the same photos."
        )
    pairs = list(combinations([name for name in SPLITS if (world.split == name).any()], 2))
    photos_seen, cosines = set(), 0
    for step, (a, b) in enumerate(pairs):
        progress("compare", step, len(pairs))
        one, other = np.flatnonzero(world.split == a), np.flatnonzero(world.split == b)
        leaks.pairs += len(one) * len(other)
        if policy == "identity":
            cosines += int((world.row[one] >= 0).sum()) * int((world.row[other] >= 0).sum())
        for i, j in world.of_one_picture(one, other):
            photos_seen |= set(zip(i.tolist(), j.tolist(), strict=True))
            leaks.add("near_duplicate", world.leaks("near_duplicate", i, j, "copies of one photo"))
        for i, j, alike in world.alike(one, other, policy == "identity"):
            new = np.array([pair not in photos_seen for pair in zip(i.tolist(), j.tolist(), strict=True)], bool)
            again = (alike >= rules.min_cosine_same_face) & (world.face_bits(i, j) <= rules.max_face_bits)
            of_one = new & again
            leaks.add("near_duplicate", world.leaks("near_duplicate", i[of_one], j[of_one], "one picture"))
            if policy == "identity":
                leaks.alike_pairs += int((alike >= rules.same_person).sum())
                near = new & ~again & (alike >= rules.same_person) & (world.borne_out(i, j) >= rules.same_person)
                leaks.add("cosine", world.leaks("cosine", i[near], j[near], f"one person from {rules.same_person:g}"))
    progress("compare", len(pairs), len(pairs))
    leaks.expected_pairs = round(cosines * rules.false_match_rate, 1)
    shown = np.unique(shown, axis=0)
    for begin in range(0, len(shown), _PAIRS):
        leaks.add("own_reference", world.own_references(*shown[begin : begin + _PAIRS].T))
    return leaks


class _World:
    """What the comparisons look at, rows aligned with the faces."""

    def __init__(self, faces: Sequence[FaceLine], rows: np.ndarray, vectors: np.ndarray, rules: Rules) -> None:
        self.faces, self.rules, self.vectors = faces, rules, vectors
        self.split = np.array([face.split for face in faces])
        self.row = np.full(len(faces), -1, np.int64)  # of `vectors`
        self.row[rows] = np.arange(len(rows))
        self.photo_bits = np.array([int(face.photo_phash, 16) for face in faces], np.uint64)
        words = [np.frombuffer(bytes.fromhex(face.phash), np.uint8) for face in faces]
        self.bits = np.stack(words) if words else np.zeros((0, 32), np.uint8)
        self.place = np.array([face.place for face in faces], np.float64).reshape(-1, 4)
        # of the embedded faces of one person in one split
        sides = [f"{faces[row].split} {faces[row].person}" for row in rows]
        _, self.side, self.count = np.unique(sides, return_inverse=True, return_counts=True)
        self.mean = np.zeros((len(self.count), vectors.shape[1]), np.float32)
        np.add.at(self.mean, self.side, vectors)
        self.mean /= np.maximum(self.count, 1)[:, None]

    def cosine(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """float (n,), NaN where an embedding is not here."""
        a, b = self.row[i], self.row[j]
        both = (a >= 0) & (b >= 0)
        found = np.full(len(i), np.nan)
        found[both] = np.einsum("nd,nd->n", self.vectors[a[both]], self.vectors[b[both]])
        return found.round(DIGITS)

    def borne_out(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """float (n,): the higher of each face's mean cosine to the other's person in its split; a person of one photo
        bears nothing out but against another one."""
        a, b = self.row[i], self.row[j]
        toward = []
        for face, other in ((a, b), (b, a)):
            mean = np.einsum("nd,nd->n", self.vectors[face], self.mean[self.side[other]]).round(DIGITS)
            both_alone = (self.count[self.side[face]] == 1) & (self.count[self.side[other]] == 1)
            toward.append(np.where((self.count[self.side[other]] > 1) | both_alone, mean, -1.0))
        return np.maximum(*toward)

    def face_bits(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return np.bitwise_count(self.bits[i] ^ self.bits[j]).sum(1, dtype=np.int64)

    def at_one_place(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Whether two faces of two copies of a photo are one: their boxes overlap, and nothing says otherwise."""
        a, b = self.place[i], self.place[j]
        shared = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
        areas = np.clip(a[:, 2:] - a[:, :2], 0, None).prod(1) + np.clip(b[:, 2:] - b[:, :2], 0, None).prod(1)
        overlap = shared / np.maximum(areas - shared, 1e-12)
        unlike = self.cosine(i, j) < self.rules.min_cosine_same_photo  # of an unknown cosine false
        return (overlap >= self.rules.min_overlap_same_photo) & ~unlike

    def of_one_picture(self, one: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Faces at one place of photos whose hashes agree."""
        for i, j in _blocks(one, other):
            near = np.bitwise_count(self.photo_bits[i][:, None] ^ self.photo_bits[j]) <= self.rules.max_photo_bits
            a, b = np.nonzero(near)
            a, b = i[a], j[b]
            same = self.at_one_place(a, b)
            yield a[same], b[same]

    def alike(
        self, one: np.ndarray, other: np.ndarray, people: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Faces as alike as near-duplicates, with `people` as one person's, and their cosines."""
        rules = self.rules
        least = min(rules.same_person, rules.min_cosine_same_face) if people else rules.min_cosine_same_face
        for i, j in _blocks(one[self.row[one] >= 0], other[self.row[other] >= 0]):
            a, b = np.nonzero(self.vectors[self.row[i]] @ self.vectors[self.row[j]].T >= least - 10.0**-DIGITS)
            a, b = i[a], j[b]
            for begin in range(0, len(a), _PAIRS):
                i_, j_ = a[begin : begin + _PAIRS], b[begin : begin + _PAIRS]
                yield i_, j_, self.cosine(i_, j_)

    def own_references(self, target: np.ndarray, ref: np.ndarray) -> list[Leak]:
        found = []
        faces, rules, alike = self.faces, self.rules, self.cosine(target, ref)
        again = (alike >= rules.min_cosine_same_face) & (self.face_bits(target, ref) <= rules.max_face_bits)
        near = np.bitwise_count(self.photo_bits[target] ^ self.photo_bits[ref]) <= rules.max_photo_bits
        again |= near & self.at_one_place(target, ref)
        for t, r, copy in zip(target.tolist(), ref.tolist(), again.tolist(), strict=True):
            a, b = faces[t], faces[r]
            if t == r or (a.picture is not None and a.picture == b.picture):
                what = "the target itself"
            elif a.photo == b.photo:
                what = "of the target's photo"
            elif (a.copy_of or a.face) == (b.copy_of or b.face) or copy:
                what = "a near-duplicate of the target"
            else:
                continue
            found += self.leaks("own_reference", np.array([t]), np.array([r]), what)
        return found

    def leaks(self, kind: str, i: np.ndarray, j: np.ndarray, what: str) -> list[Leak]:
        found = []
        for a, b, alike in zip(i.tolist(), j.tolist(), self.cosine(i, j).tolist(), strict=True):
            one, other = self.faces[a], self.faces[b]
            value = None if np.isnan(alike) else alike
            found.append(Leak(kind, one.face, one.split, other.face, other.split, value, what))
        return found


def _blocks(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i in range(0, len(one), _ROWS):
        for j in range(0, len(other), _COLUMNS):
            yield one[i : i + _ROWS], other[j : j + _COLUMNS]


def _in_two_splits(faces: Sequence[FaceLine], what: str) -> list[Leak]:
    """One leak a person, or photo, and two splits: the smallest face of each."""
    first: dict[str, dict[str, FaceLine]] = defaultdict(dict)
    for line in sorted(faces, key=lambda line: line.face):
        first[getattr(line, what)].setdefault(line.split, line)
    kind = "identity" if what == "person" else what
    return [
        Leak(kind, sides[a].face, a, sides[b].face, b, None, f"{what} {name}")
        for name, sides in sorted(first.items())
        for a, b in combinations(sorted(sides, key=SPLITS.index), 2)
    ]


def read_faces(ledger: Ledger) -> list[FaceLine]:
    """Every face that a split holds and every near-duplicate of one, with the split of the face that stands for it,
    ordered by face id. Raises LedgerBroken for a face without its photo's row."""
    rows = ledger.query(
        """SELECT f.face_id, f.photo_id, coalesce(m.identity_id, s.identity_id) AS person, s.split, f.phash,
                  p.phash AS photo_phash, f.box, p.width, p.height, f.duplicate_of
           FROM faces f JOIN splits s ON s.face_id = coalesce(f.duplicate_of, f.face_id)
           LEFT JOIN photos p ON p.photo_id = f.photo_id LEFT JOIN memberships m ON m.face_id = s.face_id
           WHERE s.status = 'ok' AND (f.status = 'ok' OR f.duplicate_of IS NOT NULL) ORDER BY f.face_id"""
    )
    found = []
    for face, photo, person, split, phash, photo_phash, box, width, height, copy_of in rows.iter_rows():
        if photo_phash is None:
            raise LedgerBroken(f"Face {face[:12]} is of a photo that has no row: run `likeness manifest check`.")
        place = tuple(round(edge / side, 4) for edge, side in zip(box, (width, height) * 2, strict=True))
        found.append(FaceLine(face, photo, person, split, phash, photo_phash, place, copy_of))
    return found


def read_policy(ledger: Ledger) -> str:
    """identity or photos. Raises BadInput for a dataset without splits."""
    found = ledger.query("SELECT DISTINCT policy FROM splits WHERE status = 'ok' ORDER BY policy")["policy"]
    if len(found) != 1:
        raise BadInput(f"{ledger.dataset} has no splits: run `likeness curate` to its end first.")
    return str(found[0])


def read_rules(ledger: Ledger) -> Rules:
    """The rules that the dataset was curated with. Raises BadInput where the ledger does not say."""
    told, grouped = ledger.read_detail("settings"), ledger.read_detail("group")
    if not told or "threshold" not in grouped:
        raise BadInput(f"{ledger.dataset} was never curated to its end by this version: run `likeness curate` again.")
    rules = dict(told["config"]["dedupe"])
    rules["min_cosine_same_face"] = max(rules["min_cosine_same_face"], told["same_person"])
    rate = float(f"{grouped['false_match_rate']:.2g}")  # last bits of it follow the machine, and a benchmark names it
    return Rules(**rules, same_person=round(float(grouped["threshold"]), 4), false_match_rate=rate)


def _shown_by_pairs(ledger: Ledger, faces: Sequence[FaceLine]) -> np.ndarray:
    number = {line.face: i for i, line in enumerate(faces)}
    rows = ledger.query("SELECT target, unnest(refs) AS ref FROM pairs").iter_rows()
    return _numbers((number[target], number[ref]) for target, ref in rows if target in number and ref in number)


def _shown_by_evaluation(faces: Sequence[FaceLine], policy: str) -> np.ndarray:
    """Whatever train/evaluation/cases.py may draw for a target of val or test."""
    sides: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, line in enumerate(faces):
        if line.copy_of is None:
            sides[line.person, line.split].append(i)
    return _numbers(
        (target, ref)
        for (person, split), targets in sides.items()
        if split != "train"
        for target in targets
        for ref in sides.get((person, "train" if policy == "photos" else split), ())
        if faces[ref].photo != faces[target].photo
    )


def _shown_by(found: Benchmark) -> np.ndarray:
    number, face = {line.face: i for i, line in enumerate(found.faces)}, faces_by_picture(found)
    return _numbers(
        (number[case.face], number[face[ref]])
        for case in found.cases
        for ref in (*case.references, *case.wrong_references)
    )


def _numbers(pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """int64 (k, 2)."""
    return np.fromiter(chain.from_iterable(pairs), np.int64).reshape(-1, 2)
