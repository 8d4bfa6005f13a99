"""Names a recorded decision in sentences for the user.

The command line names a decision by its number, because `likeness decide DATASET list` prints the numbers. The browser
shows no numbers, so it names a decision by its kind and its people.
"""

from __future__ import annotations

from collections.abc import Iterable

from curate.people.pending.people_now import PeopleNow
from manifests.ledger.decisions.decision_log import CONSENT_KIND, Decision, FaceLocation
from manifests.runtime.text import format_count


def name_by_number(decision: Decision) -> str:
    """Returns a name such as `decision 3 (move)`."""
    return f"decision {decision.number} ({decision.kind})"


def name_in_words(decision: Decision, people: PeopleNow) -> str:
    """Returns a name such as `the move of 2 faces to Ann`. The people are those to whom the faces belong now."""
    if decision.kind == "undo":
        undone = next((one for one in people.log if one.number == decision.undoes), None)
        return "an undo" if undone is None else f"the undo of {name_in_words(undone, people)}"
    if decision.kind == CONSENT_KIND:
        return f"the consent {decision.name} for {format_count(len(decision.photos), 'photo')}"
    persons = [_name_person(part, people) for part in decision.parts]
    faces, sides = format_count(len(decision.parts[0]), "face"), " and ".join(persons)
    second = persons[:2][-1]  # the person whom the faces of a split leave, or to whom the faces of a move go
    words = {
        "merge": f"the merge into {persons[0]}",
        "split": f"the split of {faces} from {second}",
        "move": f"the move of {faces} to {second}",
        "drop": f"the drop of {faces}{f' ({decision.name})' if decision.name else ''}",
        "accept": f"the decision to use {faces} in spite of the filters",
        "rename": f"the name {decision.name}",
        "lock": f"the lock of {persons[0]}",
        "assign": f"the split {decision.name} for {persons[0]}",
        "prefer": "the choice of a copy",
        "together": f"the decision that {sides} are in one split",
        "apart": f"the decision that {sides} are different people",
    }
    return words[decision.kind]


def _name_person(faces: Iterable[FaceLocation], people: PeopleNow) -> str:
    """Returns the name, or the id, of the person to whom most of these faces belong now."""
    found = (people.finder.find(place)[0] for place in faces)
    own = [
        people.identity_of[face.representative] for face in found if face and face.representative in people.identity_of
    ]
    if not own:
        return "nobody"
    person = people.identities[max(sorted(set(own)), key=own.count)]
    return person.name or person.identity_id
