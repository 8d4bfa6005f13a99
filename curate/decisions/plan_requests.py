"""Turns requests into numbered decisions, each with what it takes back.

The requests of a decision file have the same result as commands that record one request each. Each request therefore
sees the people and the log as the earlier requests leave them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from curate.decisions.consent_requests import PhotoConsents
from curate.decisions.lookup.face_lookup import FaceLookup
from curate.decisions.lookup.old_people import ReadEmbeddings
from curate.decisions.requests import NothingToDo, Request, parse_request
from curate.decisions.take_back import merge_taken, parse_taken_back, take_older_back
from curate.people.constraints.contradictions import Contradiction
from curate.people.pending.people_now import Change, PeopleNow
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import Decision
from manifests.ledger.decisions.in_force import select_active, select_in_force

# A function that raises BadInput if one of the decisions is not allowed. Its second argument is the people before these
# decisions.
Check = Callable[[Sequence[Decision], PeopleNow], None]


@dataclass(frozen=True)
class PlannedRequests:
    """The decisions to record, a phrase for each of them, and notices about decisions that the log contains already."""

    decisions: list[Decision]
    phrases: list[str]
    notices: list[str]
    change: Change | None  # what the decisions change, or None if there is no decision to record


def plan_requests(
    requests: Sequence[Request],
    lookup: FaceLookup,
    photos: PhotoConsents,
    last_number: int,
    read_embeddings: ReadEmbeddings,
    check: Check,
) -> PlannedRequests:
    """Returns the requested decisions, without the decisions that the log already contains.

    The people of `lookup` stay as they are. The numbers of the new decisions follow `last_number`, the last number that
    was ever used. The log contains a requested decision if an equal decision is in force, and one of two conditions
    holds:

    - Every newer decision in force that names the same faces is repeated by a later request. If a decision file gets
      new lines at its end and is used again, only the new lines are therefore recorded.
    - The requested decision contradicts other decisions, and no newer decision takes the equal decision back, not even
      in part.

    Raises BadInput if a request is wrong or contradicts a label. The message contains the line of the file.
    """
    _check_numbers(requests)
    several, start = len(requests) > 1, lookup
    people = start.people.copy() if several else start.people
    lookup = start.look_into(people) if several else start
    planned = PlannedRequests([], [], [], None)
    number_of: dict[int, int] = {}  # number of a line in the file -> number of its decision in the log
    later = _LaterRequests(requests, start, photos)
    change = None
    for place, request in enumerate(requests):
        with _add_line_to_errors(request):
            taken_back = parse_taken_back(request, number_of)
            try:
                parsed = parse_request(request, lookup, photos, number_of, read_embeddings)
            except NothingToDo:
                if not planned.decisions:
                    raise
                # raises NothingToDo again if the request would change nothing even without the earlier requests
                parse_request(request, start, photos, number_of, read_embeddings)
                planned.notices.append(
                    f"{request.get('_where', '')}The {request['kind']} is not recorded, because earlier decisions of "
                    "this command have the same effect."
                )
                continue
            if several:
                _remember_splits(request, parsed, lookup)
            same = [_find_same(people, decision) for decision, _ in parsed]
            is_new = [one is None or later.name_again(people, one, place) for one in same]
            number = last_number + len(planned.decisions)
            new = [decision for (decision, _), own in zip(parsed, is_new, strict=True) if own]
            new = [
                replace(one, number=number + count, takes_back=merge_taken([*one.takes_back, *taken_back]))
                for count, one in enumerate(new, 1)
            ]
            try:
                check(new, people)
                new, change = take_older_back(people, new) if new else (new, change)
            except Contradiction:
                if not _are_whole(people, same):
                    raise
                is_new, new = [False] * len(parsed), []
            planned.decisions.extend(new)
            _add_sentences(planned, parsed, same, is_new, lookup)
            last = planned.decisions[-1] if is_new[-1] else same[-1]
            if isinstance(line := request.get("number"), int) and last is not None:
                number_of[line] = last.number
            if new and several:
                people.follow(new, change)
    if planned.decisions and several:
        change = start.people.plan(planned.decisions)  # plans all decisions in one step, as `read_desk` does
    return replace(planned, change=change if planned.decisions else None)


def _check_numbers(requests: Sequence[Request]) -> None:
    """Raises BadInput if two lines of a file have the same number."""
    numbers: set[int] = set()
    for request in requests:
        own = request.get("number")
        if isinstance(own, int):
            if own in numbers:
                with _add_line_to_errors(request):
                    raise BadInput(f"Two lines have the number {own}. Give each line a different number, or no number.")
            numbers.add(own)


def _remember_splits(request: Request, parsed: Sequence[tuple[Decision, str]], lookup: FaceLookup) -> None:
    """Adds the faces of a split to `lookup.taken_out`. Any other request, or a split with `rest`, empties
    `taken_out`.
    """
    if request["kind"] != "split" or "rest" in request:
        lookup.taken_out.clear()
        return
    for decision, _ in parsed:
        lookup.add_taken_out(decision.parts[0])


def _add_sentences(
    planned: PlannedRequests,
    parsed: Sequence[tuple[Decision, str]],
    same: Sequence[Decision | None],
    is_new: Sequence[bool],
    lookup: FaceLookup,
) -> None:
    """Adds a phrase to `planned` for each new decision of a request, and a notice for each of the other decisions."""
    for (_, phrase), old, own in zip(parsed, same, is_new, strict=True):
        if own:
            planned.phrases.append(phrase)
        elif old is not None:
            planned.notices.append(
                f"The log already contains this decision as {lookup.name_decision(old)}: {phrase}. The decision is not "
                "recorded again."
            )


def _find_same(people: PeopleNow, decision: Decision) -> Decision | None:
    """Returns the newest decision in force that is equal to a requested decision, or None."""
    alike = people.find_alike(decision)
    if not alike:
        return None
    in_force = {one.number for one in select_in_force(people.log)}
    wanted = replace(decision, number=0, takes_back=())
    found = [one for one in alike if one.number in in_force and replace(one, number=0, takes_back=()) == wanted]
    return max(found, key=lambda one: one.number, default=None)


def _are_whole(people: PeopleNow, decisions: Sequence[Decision | None]) -> bool:
    """Returns whether the log contains all these decisions, and no newer decision takes back any part of them."""
    active = select_active(people.log)
    return all(any(one is other for other in active) for one in decisions)


class _LaterRequests:
    """Finds the decisions of the log that later requests of a file repeat. Parses the requests at the first use."""

    def __init__(self, requests: Sequence[Request], lookup: FaceLookup, photos: PhotoConsents) -> None:
        self._requests, self._lookup, self._photos = requests, lookup, photos
        self._last: dict[Decision, int] | None = None  # decision -> place of the last request that makes the decision

    def name_again(self, people: PeopleNow, old: Decision, place: int) -> bool:
        """Returns True if a newer decision in force names faces of `old`, and no later request repeats that decision.

        Later requests are those after `place`.
        """
        newer = [
            one
            for one in select_in_force(people.log)
            if one.number > old.number and not one.places.isdisjoint(old.places)
        ]
        if not newer:
            return False
        if self._last is None:
            self._last = {}
            for number, request in enumerate(self._requests):
                self._last |= dict.fromkeys(self._parse(request), number)
        return any(self._last.get(replace(one, number=0, takes_back=()), -1) <= place for one in newer)

    def _parse(self, request: Request) -> list[Decision]:
        """Returns the decisions of a request, or [] if the request depends on the effect of earlier requests."""
        try:
            parsed = parse_request(request, self._lookup, self._photos, {}, _read_no_embeddings)
        except BadInput:
            return []
        return [replace(decision, takes_back=()) for decision, _ in parsed]


def _read_no_embeddings(faces: Sequence[str] | None) -> tuple[list[str], np.ndarray]:
    return [], np.zeros((0, 0), np.float32)


@contextmanager
def _add_line_to_errors(request: Request) -> Iterator[None]:
    """If the request is from a file, puts the file and line before the message of every BadInput."""
    try:
        yield
    except BadInput as error:
        if "_where" not in request:
            raise
        raise BadInput(f"{request['_where']}{error}") from None
