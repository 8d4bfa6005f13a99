"""Performs each act of the user in the browser, and describes the act in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.review.session.session import Session
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import PARTS
from manifests.runtime.text import format_count


def perform(session: Session, act: object) -> dict[str, Any]:
    """Performs one act of the browser. Returns a dict with a `sentence` for the user, and the `notices` of decisions.

    `act` is either {"act": NAME}, where NAME is undo, redo, apply or seen, or {"requests": [...]} with the requests of
    `curate/decisions/requests.py`. If NAME is seen, `act` may also have the key `person`. Raises BadInput if the act is
    malformed, or if its requests are refused.
    """
    if not isinstance(act, Mapping):
        raise BadInput("An act is a JSON object.")
    name = act.get("act")
    if name == "undo":
        return {"sentence": session.undo()}
    if name == "redo":
        return {"sentence": session.redo()}
    if name == "apply":
        session.apply()
        return {"sentence": "The decisions are being applied."}
    if name == "seen":
        person = act.get("person")
        count = session.mark_seen(person if isinstance(person, str) else None)
        return {"sentence": f"{format_count(count, 'face')} marked as seen."}
    requests = act.get("requests")
    if name is not None or not isinstance(requests, list) or not requests:
        raise BadInput("The act has no requests.")
    for request in requests:
        if not isinstance(request, Mapping) or request.get("kind") not in PARTS:
            raise BadInput("The act has a request of an unknown kind.")
    person = session.read().people.identities.get(str(requests[0].get("to")))
    to = "" if person is None else f" to {person.name or person.identity_id}"
    notices = session.record(requests)
    return {"sentence": describe_requests(requests, to), "notices": notices}


def describe_requests(requests: list[Mapping[str, Any]], to: str = "") -> str:
    """Returns the sentence that the page shows after requests of one kind.

    For a move, `to` is text such as " to Ann".
    """
    first = requests[0]
    kind, faces = str(first["kind"]), sum(_count(request.get("faces")) for request in requests)
    reason = f" ({first['reason']})" if first.get("reason") else ""
    sentences = {
        "merge": f"{format_count(_count(first.get('sides')), 'person', 'people')} are one person.",
        "split": f"{format_count(faces, 'face')} taken out of the person.",
        "move": f"{format_count(faces, 'face')} moved{to}.",
        "drop": f"{format_count(faces, 'face')} dropped{reason}.",
        "rename": f"The name is {first.get('name')}.",
        "accept": f"The next `likeness curate` uses {format_count(faces, 'face')} that a filter dropped.",
        "lock": "The person is locked.",
        "prefer": "This copy is used as soon as the decisions are applied.",
        "consent": f"The consent is {first.get('consent')}.",
        "assign": f"The person is in the split {first.get('split')}.",
    }
    return sentences.get(kind, f"The decision is recorded ({kind}).")


def _count(value: object) -> int:
    return len(value) if isinstance(value, list) else 1
