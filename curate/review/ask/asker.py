"""Asks the questions of a review, and turns each answer into a request of `likeness decide`."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from curate.people.clustering.threshold import MEAN_WITHIN, Evidence, estimate_spread
from curate.people.clustering.weak_faces import WEAK
from curate.review.ask.question import FACE, PEOPLE, Odds, Question
from curate.review.ask.questions import Questions
from curate.review.people.closeness import read_embeddings
from curate.review.session.session import Session
from curate.review.session.view import View
from manifests.errors import BadInput, LikenessError
from manifests.ledger.decisions.decision_log import Decision, FaceLocation
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.ledger import Ledger

ANSWERS = ("yes", "no", "mixed", "skip")
PICTURES = 12  # The page shows at most this many faces (ours) of each side of a question.


class Asker:
    """The questions about the people of a review. The questions change with each recorded decision."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._queue: Questions | None = None
        self._face_ids: list[str] = []  # The ids of the faces of the queue.
        # The view at the last update of the queue, and the length of the view's list `moves` at that time.
        self._view: View | None = None
        self._moves = 0
        self._active: list[Decision] = []  # The decisions in force at the last update of the queue.
        self._answered = 0  # Number of answers in this session.

    def describe(self) -> dict[str, Any]:
        """Returns a dict with the keys `question`, `likely` and `answered`.

        `question` is the next question, or None. `likely` is the number of questions that are likely to show an error.
        `answered` is the number of answers in this session.
        """
        with self._lock:
            view = self._follow()
            assert self._queue is not None
            question = self._queue.find_next()
            return {
                "question": None if question is None else _describe(question, view),
                "likely": self._queue.count_likely(),
                "answered": self._answered,
            }

    def prepare(self) -> None:
        """Makes the queue, which takes seconds for many faces. If this fails, `describe` makes the queue."""
        with self._lock, suppress(LikenessError):
            self._follow()

    def answer(self, name: object, answer: object) -> dict[str, Any]:
        """Records the answer to the question with the id `name`. The answers `mixed` and `skip` record nothing.

        Returns a dict with the keys `notices` and `open`. `notices` are the notices of the decision. After the answer
        `mixed`, `open` is the id of the person whose faces most likely show several people. After any other answer,
        `open` is None. Raises BadInput if the next question is now a different question, or if the answer is refused.
        """
        if answer not in ANSWERS:
            raise BadInput("An answer is yes, no, mixed or skip.")
        with self._lock:
            view = self._follow()
            assert self._queue is not None
            question = self._queue.find_next()
            if question is None or name_question(question) != name:
                raise BadInput(
                    "The people of this question have changed, so nothing is recorded. Answer the new question."
                )
            if answer == "skip":
                self._queue.skip(question)
                return {"open": None, "notices": []}
            if answer == "mixed":
                return {"open": self._queue.put_away_mixed(question), "notices": []}
            notices = self._session.record([make_request(question, answer == "yes", view)])
            self._answered += 1
            return {"open": None, "notices": notices}

    def _follow(self) -> View:
        """Brings the queue up to date with the view, and returns the view."""
        with self._session.lock:
            view = self._session.read()
            face_ids, vectors = read_embeddings(self._session.dataset, view)
            owner, log, moves = view.people.identity_of, list(view.people.log), len(view.moves)
            # after the ledger was read again, any face may belong to another person than before
            faces = view.moves[self._moves :] if view is self._view else face_ids
            moved = {face: owner.get(face) for face in faces}
            locked = {row.identity_id for row in view.people.identities.values() if row.locked}
        if self._queue is None or face_ids != self._face_ids:
            unclear = [face for face, row in view.numbers.items() if row.worth is not None and row.worth < WEAK]
            with Ledger.open(self._session.dataset) as ledger:
                odds = read_odds(ledger, vectors.shape[1] if vectors.size else 1)
            photo_of = {face: view.people.faces[face].photo_id for face in face_ids}
            person_of = {face: person for face, person in moved.items() if person is not None}
            self._queue = Questions(face_ids, vectors, person_of, odds, unclear, photo_of)
            self._face_ids, self._active = face_ids, []
        self._queue.follow(moved)
        active = select_active(log)
        known = len(self._active)
        # The queue cannot forget a single answer, for example after an undo. So it forgets all answers and reads them
        # again.
        if view is not self._view or active[:known] != self._active:
            self._queue.forget_answers()
            known = 0
        for one, other, is_same in _list_answers(active[known:], view):
            (self._queue.keep_together if is_same else self._queue.keep_apart)(one, other)
        self._view, self._moves, self._active = view, moves, active
        self._queue.set_locked(locked)
        return view


def read_odds(ledger: Ledger, dimensions: int) -> Odds:
    """Returns an object that computes the log odds that two sets of faces show one person. The object uses the evidence
    of the last grouping.

    With `--same-person`, the grouping is not calibrated. Two single faces then have even odds if their cosine equals
    the threshold. The spread and the mean cosine are then the numbers with which a calibration starts.
    """
    detail = ledger.read_detail("group")
    calibrated = detail.get("evidence")
    if calibrated is not None:
        evidence = Evidence(calibrated["spread"], calibrated["mean_within"])
        return Odds(evidence, float(np.log(calibrated["alpha"])))
    evidence, one = Evidence(estimate_spread(dimensions), MEAN_WITHIN), np.ones(1)
    cosine = np.array([float(detail.get("threshold", 0.0))])
    return Odds(evidence, float(evidence.compute_log_odds(cosine, cosine, one, one)[0]))


def make_request(question: Question, yes: bool, view: View) -> dict[str, Any]:
    """Returns the request of `likeness decide` that records an answer.

    If the user confirms that a face or a part belongs to its person, the request is a merge. The merge names each face
    by its photo and its box.
    """
    if question.kind == PEOPLE:
        return {"kind": "merge" if yes else "apart", "sides": list(question.people)}
    if not yes:
        return {"kind": "split", "faces": list(question.one)}
    return {"kind": "merge", "sides": [_list_places(side, view) for side in (question.one, question.other)]}


def name_question(question: Question) -> str:
    """Returns an id that changes if the question gets or loses a face."""
    text = "|".join((question.kind, *sorted(question.one), "", *sorted(question.other)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _list_places(faces: Sequence[str], view: View) -> list[dict[str, Any]]:
    places = (view.desk.lookup.locate(face) for face in faces)
    return [{"photo": place.photo_id, "box": list(place.box), "witness": len(faces) > 1} for place in places]


def _list_answers(active: Sequence[Decision], view: View) -> Iterator[tuple[list[str], list[str], bool]]:
    """Yields what the decisions say about two sets of faces: the two sets, and whether the sets show one person."""

    def find_faces(part: Sequence[FaceLocation]) -> list[str]:
        found = (view.people.finder.find(place)[0] for place in part)
        return [face.representative for face in found if face is not None]

    for one in active:
        parts = [find_faces(part) for part in one.parts]
        if one.kind in ("split", "move"):
            yield parts[0], parts[-1], False
        if one.kind == "move":
            yield from (([face], parts[1], True) for face in parts[0])
        if one.kind in ("merge", "apart"):
            pairs = [(first, second) for place, first in enumerate(parts) for second in parts[place + 1 :]]
            yield from ((first, second, one.kind == "merge") for first, second in pairs)


def _describe(question: Question, view: View) -> dict[str, Any]:
    """Returns what the page shows of a question."""
    sides = []
    for faces, person in zip((question.one, question.other), (*question.people, question.people[0]), strict=False):
        identity = view.people.identities[person]
        shown = sorted(faces, key=lambda face: (-_read_confidence(face, view), face))[:PICTURES]
        sides.append({
            "person": person,
            "name": identity.name or "",
            "count": len(faces),
            "faces": [view.describe_face(face) for face in shown],
        })  # fmt: skip
    one = "this face" if question.kind == FACE else "these faces"
    titles = {PEOPLE: "Are these two people the same person?", FACE: "Does this face belong to this person?"}
    return {
        "id": name_question(question),
        "kind": question.kind,
        "title": titles.get(question.kind, "Do these two groups of faces show the same person?"),
        "yes": "The two people are merged." if question.kind == PEOPLE else "The person stays as it is.",
        "no": "The two people stay apart." if question.kind == PEOPLE else f"The person loses {one}.",
        "mixed": "One side shows several people. The page of this person opens, so that you can correct the person.",
        "sides": sides,
        "probability": question.probability,
        "pairs": len(question.one) * len(question.other),
    }


def _read_confidence(face: str, view: View) -> float:
    numbers = view.numbers.get(face)
    return -1.0 if numbers is None else numbers.confidence
