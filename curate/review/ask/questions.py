"""Chooses the question whose answer is expected to correct the most wrong pairs of faces.

A question is about two sets of faces. For a question about two people, the sets are the faces of each person. For a
question about a face, the sets are the face and the other faces of its person. For a question about two parts of a
person, the sets are the parts. The calibrated evidence of the grouping gives the log odds that the two sets show one
person. The probability that the present grouping is wrong about the two sets follows from these odds. If the present
people are wrong, each face of the first set forms a wrong pair with each face of the second set. The gain of a question
is therefore the probability times the number of these pairs. The question with the largest gain comes first.

docs/review.md explains the numbers, and benchmarks/review_questions.py measures the order.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np
from scipy.special import expit

from curate.review.ask.centres import Centres
from curate.review.ask.question import FACE, PARTS, PEOPLE, Odds, Question
from manifests.report.suggestions import divide_faces

LIKELY = 0.05  # A question is likely to show an error if the grouping is wrong with at least this probability (ours).
_LEAST_GAIN = 0.02  # A question that is expected to correct fewer wrong pairs than this number (ours) is never asked.
_LEAST_FOR_PARTS = 4  # A person with fewer faces than this (ours) is never divided into two parts for a question.

# the kind of a question, its people with their versions, and the rows of the face or of the part in the embeddings
_Key = tuple[str, frozenset[tuple[str, int]], frozenset[int]]


@dataclass(frozen=True)
class _Entry:
    """A question of the queue. The question is current until a person of `versions` gets or loses a face."""

    kind: str
    versions: tuple[tuple[str, int], ...]
    part: frozenset[int]  # The rows of the face or of the part in the embeddings; empty for the kind PEOPLE.
    probability: float
    cosine: float

    @cached_property
    def key(self) -> _Key:
        return self.kind, frozenset(self.versions), self.part


class Questions:
    """The queue of questions about the people of a dataset. `follow` updates the queue after a change of the people."""

    def __init__(
        self,
        face_ids: Sequence[str],
        vectors: np.ndarray,
        person_of: Mapping[str, str],
        odds: Odds,
        unclear: Collection[str] = (),
        photo_of: Mapping[str, str] | None = None,
    ) -> None:
        """`vectors` are the unit embeddings of the faces, float32 (n, d). `person_of` maps a face to its person.

        No question is about a face without a person. No question is about a face in `unclear`, because the recognizer
        can hardly recognise such a face.
        `photo_of` maps a face to its photo. As in the grouping, the cosine of two faces of one photo is reduced by 1.
        """
        self._odds, self._vectors, self._face_ids = odds, vectors, list(face_ids)
        self._row = {face: row for row, face in enumerate(face_ids)}
        self._unclear = {self._row[face] for face in unclear if face in self._row}
        self._person_of = {self._row[face]: person for face, person in person_of.items() if face in self._row}
        self._rows: dict[str, list[int]] = {}  # person -> sorted rows of the person's faces that are not in `unclear`
        for row, person in sorted(self._person_of.items()):
            if row not in self._unclear:
                self._rows.setdefault(person, []).append(row)
        self._centres = Centres(vectors, face_ids, photo_of or {}, len(self._rows))
        self._version: dict[str, int] = {}
        self._apart: list[tuple[int, int]] = []  # Pairs of rows. The faces of the two rows show two people.
        self._apart_now: set[frozenset[str | None]] = set()  # The present people of each pair in `_apart`.
        # Maps the smallest row of a set of faces to pairs of sets. The first set of a pair is this set, and the second
        # set shows the same person.
        self._same: dict[int, list[tuple[frozenset[int], frozenset[int]]]] = {}
        self._locked: set[str] = set()
        self._skipped: set[_Key] = set()
        self._mixed: set[tuple[str, int]] = set()  # (person, version) of the people whose faces show several people
        self._heap: list[tuple[float, int, _Entry]] = []
        self._likely: dict[_Key, _Entry] = {}  # Maps a key to a current entry with a probability of at least LIKELY.
        self._likely_of: dict[str, set[_Key]] = {}  # Maps a person to the keys of `_likely` that contain the person.
        self._closed: set[_Key] = set()  # The keys of `_likely` whose questions are not open.
        self._unchecked: set[str | None] = set()  # The people whose questions `count_likely` must check again.
        self._numbers = count()
        self._set_centres(self._rows)
        seen: set[tuple[int, int]] = set()
        for slot, cosines in self._centres.compare_all():
            self._ask_about_people(slot, cosines, seen)
        for person in self._rows:
            self._ask_about_faces(person)

    def keep_apart(self, one: Iterable[str], other: Iterable[str]) -> None:
        """Records that two sets of faces show two people, so that no later question asks about these people."""
        first, second = self._find_rows(one), self._find_rows(other)
        if first and second:
            self._apart.append((first[0], second[0]))
            people = frozenset((self._person_of.get(first[0]), self._person_of.get(second[0])))
            self._apart_now.add(people)
            self._unchecked |= people

    def keep_together(self, one: Iterable[str], other: Iterable[str]) -> None:
        """Records that two sets of faces show one person, so that no later question divides them."""
        first, second = frozenset(self._find_rows(one)), frozenset(self._find_rows(other))
        if first and second:
            self._same.setdefault(min(first), []).append((first, second))
            self._same.setdefault(min(second), []).append((second, first))
            self._unchecked |= {self._person_of.get(min(first)), self._person_of.get(min(second))}

    def forget_answers(self) -> None:
        """Forgets all calls of `keep_apart` and `keep_together`. Skipped questions stay skipped."""
        self._unchecked |= {person for people in self._apart_now for person in people}
        self._unchecked |= {self._person_of.get(row) for row in self._same}
        self._apart, self._apart_now, self._same = [], set(), {}

    def set_locked(self, people: Iterable[str]) -> None:
        """Sets the people about whom no question is asked, because the user has confirmed the faces of these people."""
        new = set(people)
        self._unchecked |= new ^ self._locked
        self._locked = new

    def skip(self, question: Question) -> None:
        """Skips a question. The question is asked again only after one of its people has changed."""
        entry = next((one for one in self._iterate_entries() if self._show(one) == question), None)
        if entry is not None:
            self._skipped.add(entry.key)
            self._unchecked.update(question.people)

    def put_away_mixed(self, question: Question) -> str:
        """Skips a question. Returns the person of the question whose faces most likely show several people.

        Until the faces of this person have changed, no question is asked about the person.
        """
        self.skip(question)
        mixed = max(question.people, key=lambda person: (self._doubt(person), len(self._rows[person]), person))
        self._mixed.add((mixed, self._version[mixed]))
        self._unchecked.add(mixed)
        return mixed

    def _doubt(self, person: str) -> float:
        """Returns the largest probability of the likely questions about a face or a part of the person. Returns 0
        without such a question."""
        own = (key for key in self._likely_of.get(person, ()) if key[0] != PEOPLE and key in self._likely)
        return max((self._likely[key].probability for key in own), default=0.0)

    def follow(self, owner: Mapping[str, str | None]) -> None:
        """Updates the queue after a change of the people.

        `owner` maps each face that may have moved to its present person, or to None.
        """
        changed: dict[str, None] = {}
        for face, person in owner.items():
            row = self._row.get(face)
            if row is None or self._person_of.get(row) == person:
                continue
            old = self._person_of.pop(row, None)
            if person is not None:
                self._person_of[row] = person
            if row not in self._unclear:
                if old is not None:
                    self._rows[old].remove(row)
                    changed[old] = None
                if person is not None:
                    self._rows.setdefault(person, []).append(row)
                    changed[person] = None
        for person in changed:
            self._rows[person].sort()
        self._apart_now = {frozenset(map(self._person_of.get, rows)) for rows in self._apart}
        self._set_centres(changed)
        self._unchecked |= changed.keys()
        for person in changed:
            if self._rows[person]:
                self._ask_about_people(*self._centres.compare(person))
                self._ask_about_faces(person)

    def find_next(self) -> Question | None:
        """Returns the open question with the largest gain, or None."""
        return next(self.iterate(), None)

    def iterate(self) -> Iterator[Question]:
        """Yields the open questions, from the largest gain to the smallest. The queue does not change."""
        return map(self._show, self._iterate_entries())

    def _iterate_entries(self) -> Iterator[_Entry]:
        passed = []
        try:
            while self._heap:
                item = heapq.heappop(self._heap)
                if not self._is_current(item[2]):
                    continue
                passed.append(item)
                if self._is_open(item[2]):
                    yield item[2]
        finally:
            for item in passed:
                heapq.heappush(self._heap, item)

    def count_likely(self) -> int:
        """Returns the number of open questions with a probability of LIKELY or more."""
        keys = {key for person in self._unchecked for key in self._likely_of.get(person or "", ())}
        for key in keys & self._likely.keys():
            (self._closed.discard if self._is_open(self._likely[key]) else self._closed.add)(key)
        self._unchecked.clear()
        return len(self._likely) - len(self._closed)

    def _find_rows(self, faces: Iterable[str]) -> list[int]:
        return [self._row[face] for face in faces if face in self._row]

    def _is_current(self, entry: _Entry) -> bool:
        return all(self._version.get(person) == version for person, version in entry.versions)

    def _is_open(self, entry: _Entry) -> bool:
        """Returns whether a current entry still needs an answer."""
        people = [person for person, _ in entry.versions]
        if self._locked.intersection(people) or entry.key in self._skipped or self._mixed.intersection(entry.versions):
            return False
        if entry.kind == PEOPLE:
            return frozenset(people) not in self._apart_now
        known = [pair for row in entry.part for pair in self._same.get(row, ()) if pair[0] <= entry.part]
        rest = set(self._rows[people[0]]) - entry.part if known else set()
        return not any(other & rest for _, other in known)

    def _show(self, entry: _Entry) -> Question:
        people = [person for person, _ in entry.versions]
        if entry.kind == PEOPLE:
            people.sort(key=lambda person: (len(self._rows[person]), person))
            one, other = (self._rows[person] for person in people)
        else:
            one = sorted(entry.part)
            other = [row for row in self._rows[people[0]] if row not in entry.part]
        first, second = (tuple(self._face_ids[row] for row in rows) for rows in (one, other))
        return Question(entry.kind, first, second, tuple(people), entry.probability, entry.cosine)

    def _set_centres(self, people: Iterable[str]) -> None:
        """Computes the centres of people again. The earlier questions about these people are not current any more."""
        for person in people:
            self._centres.set(person, self._rows[person])
            self._version[person] = self._version.get(person, 0) + 1
            for key in self._likely_of.pop(person, set()):
                self._likely.pop(key, None)
                self._closed.discard(key)

    def _ask_about_people(self, slot: int, cosines: np.ndarray, seen: set[tuple[int, int]] | None = None) -> None:
        """Adds the questions about a person and the people with the nearest centres.

        `cosines` are the cosines of the person's centre to the centres of all people, float32 (people,). `seen` are the
        pairs of people that are already in the queue.
        """
        near, cosines = self._centres.find_nearest(slot, cosines)
        size, sizes = self._centres.sizes[slot], self._centres.sizes[near]
        probabilities = expit(self._odds.compute(cosines, np.full(len(near), size), sizes))
        gains = probabilities * sizes * size
        for place in np.flatnonzero(gains >= _LEAST_GAIN).tolist():
            other = int(near[place])
            pair = (min(slot, other), max(slot, other))
            if seen is not None and pair in seen:
                continue
            if seen is not None:
                seen.add(pair)
            people = (self._centres.people[pair[0]], self._centres.people[pair[1]])
            self._add(PEOPLE, people, frozenset(), probabilities[place], cosines[place], gains[place])

    def _ask_about_faces(self, person: str) -> None:
        """Adds the questions about the single faces and about the two parts of a person."""
        rows = self._rows[person]
        n = len(rows)
        if n < 2:
            return
        vectors = self._vectors[rows]
        rest = vectors.sum(0) - vectors
        cosines = np.einsum("nd,nd->n", vectors, rest) / np.maximum(np.linalg.norm(rest, axis=1), 1e-12)
        probabilities = expit(-self._odds.compute(cosines, np.ones(n), np.full(n, n - 1)))
        for place in np.flatnonzero(probabilities * (n - 1) >= _LEAST_GAIN).tolist():
            gain = probabilities[place] * (n - 1)
            self._add(FACE, (person,), frozenset((rows[place],)), probabilities[place], cosines[place], gain)
        divided = divide_faces(vectors) if n >= _LEAST_FOR_PARTS else None
        if divided is not None:
            part = divided[0]
            one, other = vectors[part].sum(0), vectors[~part].sum(0)
            cosine = one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12)
            sizes = int(part.sum()), int((~part).sum())
            probability = expit(-self._odds.compute(np.array([cosine]), *np.array(sizes).reshape(2, 1)))[0]
            if (gain := probability * sizes[0] * sizes[1]) >= _LEAST_GAIN:
                taken = frozenset(np.asarray(rows)[part].tolist())
                self._add(PARTS, (person,), taken, probability, cosine, gain)

    def _add(
        self, kind: str, people: tuple[str, ...], part: frozenset[int], probability: float, cosine: float, gain: float
    ) -> None:
        versions = tuple((person, self._version[person]) for person in people)
        entry = _Entry(kind, versions, part, float(probability), float(cosine))
        heapq.heappush(self._heap, (-float(gain), next(self._numbers), entry))
        if probability >= LIKELY:
            self._likely[entry.key] = entry
            for person in people:
                self._likely_of.setdefault(person, set()).add(entry.key)
