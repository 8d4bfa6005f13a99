"""Turns one request into decisions.

A request has the same keys as a line of the decision file (docs/curate.md). A request contains the kind of the
decision, and the faces, people or numbers that the decision names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from curate.decisions.consent_requests import PhotoConsents, parse_consent
from curate.decisions.lookup.face_lookup import FaceLookup, merge_witnesses, name_single_witness
from curate.decisions.lookup.old_people import ReadEmbeddings, find_old_people
from curate.decisions.take_back import TAKING_KINDS, take_drops_back
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import CONSENT_KIND, MAX_NAME, PARTS, SIDED, Decision, FaceLocation, Place
from manifests.ledger.decisions.in_force import find_takers, find_undos
from manifests.ledger.records import SPLITS
from manifests.runtime.text import format_count

Request = Mapping[str, Any]
# Keys that `likeness decide DATASET list --json` adds to a line. When a decision file is read, only the key `number` is
# used. In a decision file, `undoes` can name another line by its `number`.
_LIST_KEYS = {"number", "made", "state", "missing"}
_MISSING_KEYS = {  # key -> the sentence for a request that lacks the key
    "faces": "Name the faces of the decision.",
    "to": "Name the person that the faces move to: --to ID, or `to` in a file.",
    "name": "Give the name: --name NAME, or `name` in a file.",
    "split": "Give the split: --split train, val or test, or `split` in a file.",
    "photos": "Name the photos, faces or people of the decision.",
    "consent": "Give the consent: --consent yes, no or withdrawn, or `consent` in a file.",
    "sides": "Name two people or more as the sides.",
    "undoes": "Give the number of the decision to take back.",
}


class NothingToDo(BadInput):
    """A request that changes nothing, because the people are already as the request asks."""


def parse_request(
    request: Request,
    lookup: FaceLookup,
    photos: PhotoConsents,
    number_of: Mapping[int, int],
    read_embeddings: ReadEmbeddings,
) -> list[tuple[Decision, str]]:
    """Returns the decisions of a request, and a phrase for each decision that describes the decision to the user.

    Most requests make one decision. A request to split faces from several people makes one decision for each person.
    Each returned decision has the number 0, because it is not in the log yet. `number_of` maps the number of an earlier
    line of the file to the number of its decision in the log. Raises BadInput if the request is wrong.
    """
    kind = _check_keys(request)
    if kind == "undo":
        return [_parse_undo(request, lookup, number_of)]
    if kind in SIDED:
        return [_parse_sides(kind, request, lookup)]
    if kind == "split":
        return _parse_split(request, lookup)
    if kind == CONSENT_KIND:
        return [parse_consent(request, lookup.people, photos)]
    if kind == "prefer":
        return [_parse_prefer(request, lookup)]
    if kind == "accept":
        faces = lookup.find_filtered_faces(request["faces"])
        return [(Decision(0, kind, (faces,)), f"{_describe(faces)} {_is_or_are(faces)} used in spite of the filters")]
    faces = lookup.find_faces(request["faces"], kind in ("rename", "lock", "assign"), may_be_dropped=kind == "move")
    if kind == "move":
        return [_parse_move(request, faces, lookup, read_embeddings)]
    if kind == "rename":
        name = _parse_text(request, "name")
        return [(Decision(0, kind, (faces,), name), f"the person of {_describe(faces)} is called {name}")]
    if kind == "assign":
        if request["split"] not in SPLITS:
            raise BadInput(f"The split is {request['split']!r}. Give {', '.join(SPLITS)}.")
        return [
            (
                Decision(0, kind, (faces,), request["split"]),
                f"{_describe(faces)} {_is_or_are(faces)} put into {request['split']}",
            )
        ]
    if kind == "drop":
        reason = _parse_text(request, "reason") if "reason" in request else None
        phrase = f"{_describe(faces)} {_is_or_are(faces)} taken out of use{f': {reason}' if reason else ''}"
        return [(Decision(0, kind, (faces,), reason), phrase)]
    meaning = "locked as one person, without faces of other people"
    return [(Decision(0, kind, (faces,)), f"{_describe(faces)} {_is_or_are(faces)} {meaning}")]


def _parse_text(request: Request, key: str) -> str:
    """Returns the name of a rename, or the reason of a drop, without spaces at its ends."""
    text = request[key]
    if not isinstance(text, str) or not text.strip() or not text.isprintable() or len(text.strip()) > MAX_NAME:
        raise BadInput(f"The {key} is {text!r}. Give a {key} on one line, of at most {MAX_NAME} characters.")
    return text.strip()


def _check_keys(request: Request) -> str:
    """Returns the kind of a request. Raises BadInput if the kind or a key is unknown, or if a key is missing."""
    kind = request.get("kind")
    if kind is None:
        raise BadInput(f"The decision has no kind. Give one of {', '.join(PARTS)}.")
    if not isinstance(kind, str) or kind not in PARTS:
        raise BadInput(f"{kind!r} is not a kind of decision. Give one of {', '.join(PARTS)}.")
    parts = ("sides",) if kind in SIDED else PARTS[kind]
    extra = {"rename": {"name"}, "assign": {"split"}, CONSENT_KIND: {"photos", "consent"}, "undo": {"undoes"}}.get(
        kind, set()
    )
    optional = {"reason"} if kind == "drop" else {"takes_back"} if kind in TAKING_KINDS else set()
    if unknown := sorted(set(request) - _LIST_KEYS - {"kind", "_where", *parts, *extra, *optional}):
        raise BadInput(f"A {kind} has no key {unknown[0]!r}. Leave this key out.")
    if missing := [part for part in (*parts, *sorted(extra)) if part != "rest" and part not in request]:
        raise BadInput(f"The {kind} is incomplete. {_MISSING_KEYS[missing[0]]}")
    return kind


def _parse_sides(kind: str, request: Request, lookup: FaceLookup) -> tuple[Decision, str]:
    if not isinstance(request["sides"], list) or len(request["sides"]) < 2:
        raise BadInput(f"The action {kind} needs two people or more. Name each person.")
    sides = tuple(lookup.find_person(side) for side in request["sides"])
    places = [frozenset(map(_get_place, side)) for side in sides]
    if any(one <= other for one, other in permutations(places, 2)):
        sentence = f"All ids of the action {kind} belong to one person already. "
        if kind == "apart":
            raise BadInput(f"{sentence}To take faces out of this person, use split.")
        raise NothingToDo(f"{sentence}To keep the faces of this person together, use `lock`.")
    effect = {
        "merge": "show one person",
        "together": "are in one split and stay different people",
        "apart": "show different people",
    }
    return Decision(0, kind, sides), f"{' and '.join(_describe(side) for side in sides)} {effect[kind]}"


def _parse_split(request: Request, lookup: FaceLookup) -> list[tuple[Decision, str]]:
    faces = lookup.find_faces(request["faces"])
    if "rest" in request:
        sides = [(faces, lookup.find_rest(request["rest"], faces))]
    else:
        by_identity: dict[str, list[FaceLocation]] = defaultdict(list)
        for face in faces:
            by_identity[lookup.find_identity(face)].append(face)
        sides = [
            (tuple(own), lookup.find_other_members(own, identity)) for identity, own in sorted(by_identity.items())
        ]
    if any(not rest for _, rest in sides):
        raise NothingToDo("The split names all faces of a person. Name only the faces that show another person.")
    if "rest" not in request:
        # If one command splits a person several times, each split makes another person. The faces that the earlier
        # splits took out of the person are therefore added to the rest of a later split.
        sides = [(own, merge_witnesses(rest, lookup.find_taken_out(own))) for own, rest in sides]
    return [
        (
            Decision(0, "split", side),
            f"{_describe(side[0])} {_is_or_are(side[0])} separated from the person of {_describe(side[1])}",
        )
        for side in sides
    ]


def _parse_move(
    request: Request, faces: tuple[FaceLocation, ...], lookup: FaceLookup, read: ReadEmbeddings
) -> tuple[Decision, str]:
    target = lookup.find_person(request["to"])
    if set(map(_get_place, faces)) <= set(map(_get_place, target)):
        raise NothingToDo(
            "The faces of the move already belong to the target person. To keep the faces with this person, use `lock`."
        )
    drops = take_drops_back(lookup.people, faces)
    if "rest" in request:
        rest = lookup.find_rest(request["rest"], [*faces, *target])
        if request["rest"] and not rest:
            raise BadInput(
                "`rest` names only faces that move, or faces of the target person. Name other faces, or leave `rest` "
                "out."
            )
    else:
        # By default, the rest are the other faces of the people whom the moved faces leave. A dropped face leaves its
        # old person. The faces of the target person are never in the rest.
        target_identity = {lookup.find_identity(face) for face in target[:1] if lookup.has_identity(face)}
        own = {lookup.find_identity(face) for face in faces if lookup.has_identity(face)} - target_identity
        if drops:
            own |= find_old_people(lookup.people, faces, target_identity, read)
        rest = name_single_witness(
            face for identity in sorted(own) for face in lookup.find_other_members([*faces, *target], identity)
        )
    phrase = f"{_describe(faces)} {_is_or_are(faces)} moved to the person of {_describe(target)}"
    return Decision(0, "move", (faces, target, rest), takes_back=drops), phrase


def _parse_prefer(request: Request, lookup: FaceLookup) -> tuple[Decision, str]:
    """Returns the decision to use one copy of a picture. The other copies are the rest of the decision."""
    faces = lookup.find_faces(request["faces"])
    if len(faces) != 1:
        raise BadInput(f"The action prefer takes one face, but {len(faces)} are named. Name the copy to use.")
    rest = lookup.find_faces(request["rest"]) if "rest" in request else lookup.find_copies(faces[0])
    if not rest:
        raise BadInput(
            "The face has no copies, so no other copy is used instead of it. Give a face that is a near-duplicate."
        )
    return Decision(0, "prefer", (faces, rest)), f"{_describe(faces)} is used instead of {_describe(rest)}"


def _parse_undo(request: Request, lookup: FaceLookup, number_of: Mapping[int, int]) -> tuple[Decision, str]:
    """Returns the decision for an undo, and a phrase that describes the decision."""
    own = request["undoes"]
    if not isinstance(own, int) or isinstance(own, bool):
        raise BadInput(f"undoes is {own!r}. Give the number of a decision. {_LIST_HELP}")
    number, log = number_of.get(own, own), lookup.people.log
    by_number = {decision.number: decision for decision in log}
    if number not in by_number:
        raise BadInput(f"There is no decision {number}. {_LIST_HELP}")
    name, undos = lookup.name_decision(by_number[number]), find_undos(log)
    takers = [undos[number]] if number in undos else find_takers(log).get(number, [])
    if takers:
        names = " and ".join(lookup.name_decision(by_number[taker]) for taker in takers)
        raise BadInput(
            f"Nothing is recorded: {name} is already taken back by {names}. To restore {name}, undo {names}."
        )
    return Decision(0, "undo", undoes=number), f"{name} is taken back"


_LIST_HELP = "`likeness decide DATASET list` prints the numbers."


def _get_place(face: FaceLocation) -> Place:
    return face.photo_id, face.box


def _is_or_are(faces: Sequence[FaceLocation]) -> str:
    return "is" if len(faces) == 1 else "are"


def _describe(faces: Sequence[FaceLocation]) -> str:
    """Returns the number of faces and the photo of the first face, as in `2 faces (photo 0a1b2c3d, ...)`."""
    return f"{format_count(len(faces), 'face')} (photo {faces[0].photo_id[:8]}{', ...' * (len(faces) > 1)})"
