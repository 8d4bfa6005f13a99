"""Finds leaks: test images that were also used in training, and targets that are among their own references.

The kinds of leaks are:

    `identity`: two faces of one person are in two splits.
    `photo`: two faces of one photo are in two splits.
    `near_duplicate`: two faces in two splits are near-duplicates by the rules with which the dataset was curated.
`cosine`: two faces in two splits seem to show one person by their cosine, and other photos confirm the person.
`own_reference`: a reference is the target itself, a near-duplicate of the target, or from the target's photo.

The grouping joins two faces whose cosine reaches a threshold. Some pairs of faces of different people (strangers) also
reach the threshold of the grouping. The false match rate is the estimated share of the pairs of strangers that reach
the threshold. A pair that reaches the threshold is therefore a leak only if other photos confirm the leak. Let A and B
be the two faces of a pair. Other photos confirm the leak if the mean cosine of A to all faces of B's person in B's
split also reaches the threshold, or if the same is true with A and B exchanged. All pairs that reach the threshold are
counted. The expected number of pairs of strangers that reach the threshold is also reported.

Every face is compared with every face of the other splits. With 100,000 faces, of which four fifths are in train, the
comparison computes 1.7e9 cosines of 512 dimensions. docs/benchmarks.md contains the measured time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, combinations
from typing import Any

import numpy as np

from curate.people.leaks.dataset_faces import Rules, read_faces, read_policy, read_rules, read_unused_frozen_faces
from curate.people.leaks.face_line import FaceLine
from curate.people.leaks.face_pairs import PAIRS_PER_BATCH, FacePairs
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import SPLITS
from manifests.runtime.progress import Progress

KINDS = ("identity", "photo", "near_duplicate", "cosine", "own_reference")


@dataclass(frozen=True)
class Leak:
    """A leak: the ids of two faces, and the splits of these faces."""

    kind: str
    one: str
    one_split: str
    other: str
    other_split: str
    value: float | None  # the cosine of the two faces, if it is known
    what: str


@dataclass
class Leaks:
    """The leaks of a dataset or a benchmark, and the numbers of faces and pairs that were compared."""

    limit: int
    faces: int = 0
    faces_of: dict[str, int] = field(default_factory=dict)  # Split -> number of faces in the split.
    # Split -> ids of the faces that leak. Leaks of the kind own_reference do not count.
    ends: dict[str, set[str]] = field(default_factory=dict)
    pairs: int = 0  # number of pairs of faces from two splits
    targets: int = 0
    alike_pairs: int = 0  # Number of pairs from two splits whose cosine reaches the threshold for one person.
    expected_pairs: float = 0.0  # Expected number of pairs of strangers that reach the threshold.
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    # The leaks with the highest cosines, up to `limit` leaks of each kind.
    examples: list[Leak] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)  # A sentence for each check that was not possible.

    def add(self, kind: str, leaks: Sequence[Leak]) -> None:
        """Counts leaks of one kind and keeps the worst leaks as examples."""
        self.counts[kind] += len(leaks)
        for leak in leaks if kind != "own_reference" else ():
            self.ends.setdefault(leak.one_split, set()).add(leak.one)
            self.ends.setdefault(leak.other_split, set()).add(leak.other)
        same_kind = [leak for leak in self.examples if leak.kind == kind] + list(leaks)
        same_kind.sort(key=lambda leak: (-(leak.value or 0), leak.one, leak.other))
        self.examples = [leak for leak in self.examples if leak.kind != kind] + same_kind[: self.limit]

    @property
    def total(self) -> int:
        """Returns the number of leaks of all kinds."""
        return sum(self.counts.values())

    @property
    def leaking(self) -> dict[str, int]:
        """Returns for each split the number of its faces that leak."""
        return {name: len(self.ends.get(name, ())) for name in self.faces_of}

    def as_json(self) -> dict[str, Any]:
        """Returns the fields for --json, with the examples in the order of KINDS."""
        examples = sorted(self.examples, key=lambda leak: KINDS.index(leak.kind))
        counts = {key: value for key, value in asdict(self).items() if key != "ends"}
        leaking = self.leaking
        return {**counts, "leaking": leaking, "examples": [asdict(leak) for leak in examples], "ok": self.total == 0}


@dataclass(frozen=True)
class LeakSearch:
    """The data that a search for leaks reads from a ledger. `find_leaks` explains the other fields."""

    faces: list[FaceLine]
    unused: list[FaceLine]  # Frozen faces that the dataset does not use any more.
    vectors: np.ndarray  # The embeddings of `faces`, and then of `unused`.
    references: np.ndarray  # The targets and references of the table `pairs`, int (k, 2).
    policy: str
    rules: Rules


def read_leak_search(ledger: Ledger) -> LeakSearch:
    """Reads what a search for leaks needs, so that the ledger can be closed before the search.

    Raises BadInput if the dataset was not curated completely. Raises LedgerBroken if rows of the ledger are missing.
    """
    faces, unused = read_faces(ledger), read_unused_frozen_faces(ledger)
    vectors = ledger.read_embeddings([face.face for face in (*faces, *unused)])[1]
    references = _list_pair_references(ledger, faces)
    return LeakSearch(faces, unused, vectors, references, read_policy(ledger), read_rules(ledger))


def search_leaks(search: LeakSearch, limit: int = 20, progress: Progress = lambda *_: None) -> Leaks:
    """Finds the leaks of a dataset: leaks between its splits, and leaks among the references that a target may get.

    Faces of frozen sets are compared even if the dataset does not use the faces any more.
    """
    faces = [*search.faces, *search.unused]
    references = np.concatenate([search.references, _list_drawable_references(search.faces, search.policy)])
    rows = np.arange(len(faces))
    return find_leaks(faces, rows, search.vectors, references, search.policy, search.rules, limit, progress)


def find_ledger_leaks(ledger: Ledger, limit: int = 20, progress: Progress = lambda *_: None) -> Leaks:
    """Does the same as `search_leaks`, and raises the same errors as `read_leak_search`."""
    return search_leaks(read_leak_search(ledger), limit, progress)


def find_leaks(
    faces: Sequence[FaceLine],
    rows: np.ndarray,
    vectors: np.ndarray,
    references: np.ndarray,
    policy: str,
    rules: Rules,
    limit: int = 20,
    progress: Progress = lambda *_: None,
) -> Leaks:
    """Finds all leaks among `faces`.

    Row i of `vectors`, float32 (m, d), is the unit embedding of the face `faces[rows[i]]`. Each row of `references`,
    int (k, 2), has the indices in `faces` of a target and of one of its references. `policy` tells how the dataset was
    split: identity or photos.
    """
    count = Counter(face.split for face in faces)
    faces_of = {name: count[name] for name in SPLITS if count[name]}
    leaks = Leaks(limit, len(faces), faces_of, targets=len(np.unique(references[:, 0])))
    pairs = FacePairs(faces, rows, vectors, rules)
    # Find photos and people that are in two splits.
    leaks.add("photo", _find_in_two_splits(faces, "photo"))
    if policy == "identity":
        leaks.add("identity", _find_in_two_splits(faces, "person"))
    else:
        leaks.unchecked.append(
            "Leaks of the kinds identity and cosine were not searched, because with --split-by photos a person may be "
            "in every split."
        )
    if len(rows) < len(faces):
        leaks.unchecked.append(
            f"Leaks of the kind cosine, and near-duplicates with different crops, were not searched, because "
            f"{len(faces) - len(rows)} of {len(faces)} faces have no embedding: run `likeness leaks DATASET "
            "--benchmark BENCH` with a dataset of the same photos."
        )
    # Compare every face with every face of the other splits.
    splits = list(combinations([name for name in SPLITS if (pairs.split == name).any()], 2))
    photo_copies: set[tuple[int, int]] = set()
    embedded_pairs = 0
    for step, (a, b) in enumerate(splits):
        progress("compare", step, len(splits))
        one, other = np.flatnonzero(pairs.split == a), np.flatnonzero(pairs.split == b)
        leaks.pairs += len(one) * len(other)
        if policy == "identity":
            embedded_pairs += int((pairs.row[one] >= 0).sum()) * int((pairs.row[other] >= 0).sum())
        for i, j in pairs.find_photo_copies(one, other):
            photo_copies |= set(zip(i.tolist(), j.tolist(), strict=True))
            leaks.add("near_duplicate", _make_leaks(faces, pairs, "near_duplicate", i, j, "copies of one photo"))
        for similar in pairs.judge_similar_faces(one, other, policy == "identity"):
            i, j = similar.i, similar.j
            new = np.array([pair not in photo_copies for pair in zip(i.tolist(), j.tolist(), strict=True)], bool)
            copies = new & similar.is_copy
            leaks.add(
                "near_duplicate", _make_leaks(faces, pairs, "near_duplicate", i[copies], j[copies], "one picture")
            )
            leaks.alike_pairs += int(similar.is_alike.sum())
            near = new & ~similar.is_copy & similar.is_person
            what = f"one person, by a threshold of {rules.same_person:g}"
            leaks.add("cosine", _make_leaks(faces, pairs, "cosine", i[near], j[near], what))
    progress("compare", len(splits), len(splits))
    leaks.expected_pairs = round(embedded_pairs * rules.false_match_rate, 1)
    # Find references that show the target, a copy of the target, or the target's photo.
    references = np.unique(references, axis=0)
    for start in range(0, len(references), PAIRS_PER_BATCH):
        targets, refs = references[start : start + PAIRS_PER_BATCH].T
        leaks.add("own_reference", _find_own_references(faces, pairs, targets, refs))
    return leaks


def _find_own_references(
    faces: Sequence[FaceLine], pairs: FacePairs, targets: np.ndarray, refs: np.ndarray
) -> list[Leak]:
    leaks = []
    # Few references have a hash that is similar to the target's hash, and a cosine takes much more time than a hash.
    same = pairs.are_in_same_photo(targets, refs)
    near = np.flatnonzero(pairs.have_similar_hashes(targets, refs))
    i, j = targets[near], refs[near]
    same[near] |= pairs.are_same_face(i, j, pairs.compute_cosines(i, j))
    for target, ref, is_copy in zip(targets.tolist(), refs.tolist(), same.tolist(), strict=True):
        a, b = faces[target], faces[ref]
        if target == ref or (a.picture is not None and a.picture == b.picture):
            what = "the target itself"
        elif a.photo == b.photo:
            what = "from the target's photo"
        elif (a.copy_of or a.face) == (b.copy_of or b.face) or is_copy:
            what = "a near-duplicate of the target"
        else:
            continue
        leaks += _make_leaks(faces, pairs, "own_reference", np.array([target]), np.array([ref]), what)
    return leaks


def _make_leaks(
    faces: Sequence[FaceLine], pairs: FacePairs, kind: str, i: np.ndarray, j: np.ndarray, what: str
) -> list[Leak]:
    """Returns a leak for each pair of faces."""
    leaks = []
    for a, b, cosine in zip(i.tolist(), j.tolist(), pairs.compute_cosines(i, j).tolist(), strict=True):
        one, other = faces[a], faces[b]
        value = None if np.isnan(cosine) else cosine
        leaks.append(Leak(kind, one.face, one.split, other.face, other.split, value, what))
    return leaks


def _find_in_two_splits(faces: Sequence[FaceLine], what: str) -> list[Leak]:
    """For each person or photo that is in several splits, returns one leak for each pair of these splits.

    `what` is "person" or "photo". The leak names the smallest face id in each of the two splits.
    """
    smallest: dict[str, dict[str, FaceLine]] = defaultdict(dict)
    for line in sorted(faces, key=lambda line: line.face):
        smallest[getattr(line, what)].setdefault(line.split, line)
    kind = "identity" if what == "person" else what
    return [
        Leak(kind, by_split[a].face, a, by_split[b].face, b, None, f"{what} {name}")
        for name, by_split in sorted(smallest.items())
        for a, b in combinations(sorted(by_split, key=SPLITS.index), 2)
    ]


def _list_pair_references(ledger: Ledger, faces: Sequence[FaceLine]) -> np.ndarray:
    """Returns (target, reference) for each reference in the ledger's table `pairs`, as indices in `faces`."""
    number_of = {line.face: i for i, line in enumerate(faces)}
    rows = ledger.query("SELECT target, unnest(refs) AS ref FROM pairs").iter_rows()
    return make_pairs_array(
        (number_of[target], number_of[ref]) for target, ref in rows if target in number_of and ref in number_of
    )


def _list_drawable_references(faces: Sequence[FaceLine], policy: str) -> np.ndarray:
    """Returns (target, reference), as indices in `faces`, for each reference that may be drawn in val and test.

    draw_references.py draws references.
    """
    sides: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, line in enumerate(faces):
        if line.copy_of is None:
            sides[line.person, line.split].append(i)
    return make_pairs_array(
        (target, ref)
        for (person, split), targets in sides.items()
        if split != "train"
        for target in targets
        for ref in sides.get((person, "train" if policy == "photos" else split), ())
        if faces[ref].photo != faces[target].photo
    )


def make_pairs_array(pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Returns the pairs as an array, int64 (k, 2)."""
    return np.fromiter(chain.from_iterable(pairs), np.int64).reshape(-1, 2)
