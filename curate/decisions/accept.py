"""Checks which faces the decision `accept` may name, and says what the next curation does with them.

A face that a filter dropped has no crop and no embedding. The stages `screen` and `embed` of the next curation make the
crop and the embedding. The decision `accept` therefore has no effect before the next curation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from curate.detection.filter_files import is_dropped_by_filter
from curate.detection.reasons import PHOTO_VANISHED
from curate.photos.history.file_history import FILE_REPLACED
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import DROPPED_BY_DECISION, Decision
from manifests.ledger.decisions.face_finder import find_accepts, find_drops
from manifests.ledger.decisions.in_force import resolve_undos, select_active
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import NEAR_DUPLICATE, Face
from manifests.privacy.erase import CONSENT_MISSING, NO_CONSENT, OPTED_OUT
from manifests.runtime.text import format_count

# selects the photos that no file contains any more
_GONE_PHOTOS = """SELECT photo_id FROM photos
                  WHERE photo_id NOT IN (SELECT photo_id FROM files WHERE status = 'ok' AND photo_id IS NOT NULL)"""
# the reason of a face -> why the decision `accept` is refused for the face, as a part of a sentence
_CAUSES = {
    NO_CONSENT: "the consent for its photo is refused",
    CONSENT_MISSING: "no consent for its photo is known",
    OPTED_OUT: "its person opted out",
    PHOTO_VANISHED: "its photo is gone",
    FILE_REPLACED: "its photo is gone",
}


def read_gone_photos(ledger: Ledger) -> set[str]:
    """Returns the ids of the photos that no file contained at the last curation."""
    return set(ledger.query(_GONE_PHOTOS)["photo_id"])


def check_acceptable(
    face: Face, log: Sequence[Decision], has_file: bool, name_decision: Callable[[Decision], str]
) -> None:
    """Raises BadInput if no filter dropped the face, or if the next curation cannot use the face.

    `log` are all recorded decisions. `has_file` tells whether a file contains the photo of the face. `name_decision`
    returns the name of a decision for the user.
    """
    name, drop = face.face_id[:12], find_drops(log, [face]).get(face.face_id)
    if drop is not None:
        raise BadInput(f"The face {name} is not in use because of {name_decision(drop)}. Undo this decision instead.")
    if face.reason == DROPPED_BY_DECISION:
        raise BadInput(
            f"A decision dropped a copy of the face {name}, and therefore this face too. To use the face, undo the "
            "decision. `likeness decide DATASET list` prints the number of the decision."
        )
    if face.reason == NEAR_DUPLICATE:
        raise BadInput(f"Another copy is in use instead of the face {name}. To use this face, give: prefer {name}.")
    if face.status == "ok":
        raise BadInput(f"The face {name} is in use already. Leave this face out.")
    cause = None if is_dropped_by_filter(face) else _CAUSES.get(str(face.reason), "no filter dropped the face")
    if cause is None and not has_file:
        cause = "its photo is gone"
    if cause is not None:
        raise BadInput(f"The face {name} ({face.reason}) cannot be accepted, because {cause}. Leave this face out.")


def describe_next_curation(log: Sequence[Decision], decisions: Iterable[Decision], faces: Sequence[Face]) -> list[str]:
    """Returns notices about the faces that the next curation uses, or screens again, because of `decisions`.

    `log` are all recorded decisions, and `faces` are the faces of the ledger.
    """
    about_filters = [one for one in resolve_undos(decisions, log) if one.kind == "accept"]
    named, accepted = find_accepts(about_filters, faces), find_accepts(select_active(log), faces)
    rows = [face for face in faces if face.face_id in named]
    used = sum(face.face_id in accepted and is_dropped_by_filter(face) for face in rows)
    screened = sum(
        face.face_id not in accepted and not is_dropped_by_filter(face) and face.reason not in _CAUSES for face in rows
    )
    notices = []
    if used:
        notices.append(f"The next `likeness curate` uses {format_count(used, 'face')} that a filter dropped.")
    if screened:
        notices.append(f"The next `likeness curate` applies the filters to {format_count(screened, 'face')} again.")
    return notices
