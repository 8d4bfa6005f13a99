"""Turns a request about the consent of photos into a decision.

A request names photos, faces or people. A face means its photo. A person means all photos that show the person, and the
photos with near-duplicates of the person's faces. The decision names only photos, and no faces or people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.decisions.lookup.face_lookup import MIN_PREFIX
from curate.people.pending.people_now import PeopleNow
from curate.photos.consent import CONSENT, find_consent_problem, find_strictest_consent, read_require_consent
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import CONSENT_KIND, Decision
from manifests.ledger.decisions.in_force import find_decided_consent
from manifests.ledger.ledger import Ledger
from manifests.privacy.erase import CONSENT_REFUSALS
from manifests.runtime.text import format_count

_SHA256 = 64  # number of hexadecimal digits of a sha256
_PHOTOS = "SELECT photo_id, sidecar_consent, consent FROM photos"
_FILES = "SELECT sha256, photo_id FROM files WHERE photo_id IS NOT NULL AND sha256 IS NOT NULL"


@dataclass
class PhotoConsents:
    """The photos of a dataset and their consent. None stands for an unknown consent."""

    sidecar: dict[str, str | None]  # Photo -> the consent in the sidecar.
    now: dict[str, str | None]  # Photo -> the consent that counts after all recorded decisions.
    photo_of_file: dict[str, str]  # The sha256 of a file -> its photo.
    require: bool = False  # Whether a photo whose consent is unknown may not be used.

    def may_use(self, consent: str | None) -> bool:
        """Returns whether a photo with this consent may be used."""
        return find_consent_problem(consent, self.require) is None


def read_photo_consents(ledger: Ledger) -> PhotoConsents:
    """Reads the consent of all photos."""
    rows = ledger.query(_PHOTOS).rows()
    files: dict[str, str] = dict(ledger.query(_FILES).iter_rows())
    return PhotoConsents(
        {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows}, files, read_require_consent(ledger)
    )


def parse_consent(request: Mapping[str, Any], people: PeopleNow, photos: PhotoConsents) -> tuple[Decision, str]:
    """Returns the decision of a request, and a phrase that describes the decision to the user.

    A whole sha256 that the dataset does not have is left out, because a decision file may come from another dataset.
    Raises BadInput if no photo is left, or if any other id is unknown.
    """
    value, names = request["consent"], request["photos"]
    if value not in CONSENT:
        raise BadInput(f"The consent is {value!r}. Give yes, no or withdrawn.")
    found: set[str] = set()
    unknown = 0
    for name in names if isinstance(names, list) else [names]:
        own = _find_photos(name, people, photos)
        found |= own
        unknown += not own
    if not found:
        raise BadInput(
            "The dataset has none of these photos. Give the id of a photo, of a face or of a person."
            if unknown
            else "The decision names no photo. Give the id of a photo, of a face or of a person."
        )
    named = tuple(sorted(found))
    left_out = f" ({format_count(unknown, 'photo')} not in the dataset)" if unknown else ""
    first = f"{format_count(len(named), 'photo')} ({named[0][:8]}{', ...' * (len(named) > 1)})"
    return Decision(0, CONSENT_KIND, name=value, photos=named), f"the consent for {first} is {value}{left_out}"


def check_sidecar(decisions: Iterable[Decision], photos: PhotoConsents) -> None:
    """Raises BadInput if a decision allows the use of a photo for which the sidecar refuses the consent."""
    for decision in decisions:
        if decision.kind == CONSENT_KIND and decision.name not in CONSENT_REFUSALS:
            refused = sum(photos.sidecar.get(photo) in CONSENT_REFUSALS for photo in decision.photos)
            if refused:
                raise BadInput(
                    f"Nothing is recorded: the sidecar says no for {refused} of these photos. Change their lines in "
                    "the sidecar and run `likeness curate` again."
                )


def describe_copies(decisions: Iterable[Decision], people: PeopleNow, photos: PhotoConsents) -> list[str]:
    """Returns [], or a notice about copies that stay in use although the decisions forbid the use of the copied photos.

    `people` are the people before the decisions.
    """
    refused = {photo for one in decisions if one.name in CONSENT_REFUSALS for photo in one.photos}
    originals = {face.representative for face in people.finder.select_photos(refused)}
    copies = (
        {face.photo_id for face in people.faces.values() if face.representative in originals} if originals else set()
    )
    copies -= refused | {photo for photo in copies if photos.now.get(photo) in CONSENT_REFUSALS}
    if not copies:
        return []
    number, verb = format_count(len(copies), "copy", "copies"), "stays" if len(copies) == 1 else "stay"
    return [
        f"{number} of photos without consent {verb} in use, because the consent for a photo does not cover its copies."
    ]


def find_changed_consents(log: Sequence[Decision], photos: PhotoConsents) -> dict[str, str | None]:
    """Returns the new consent of each photo whose consent changes. `log` is the whole log with the new decisions."""
    decided = find_decided_consent(log)
    named = {photo for decision in log for photo in decision.photos if photo in photos.now}
    consents = {photo: find_strictest_consent(photos.sidecar[photo], decided.get(photo)) for photo in sorted(named)}
    return {photo: consent for photo, consent in consents.items() if consent != photos.now[photo]}


def describe_lost_photos(consents: Mapping[str, str | None], photos: PhotoConsents) -> list[str]:
    """Returns a notice about the photos whose use the new consents forbid, or [].

    `photos` has the consents before the change.
    """
    lost = sum(photos.may_use(photos.now[photo]) and not photos.may_use(new) for photo, new in consents.items())
    if not lost:
        return []
    number, its = format_count(lost, "photo"), "Its" if lost == 1 else "Their"
    return [f"{number} may not be used any more. {its} crops and embeddings are erased when the decision is applied."]


def _find_photos(name: object, people: PeopleNow, photos: PhotoConsents) -> set[str]:
    """Returns the photos that an id, or the beginning of an id, names.

    If `name` is a complete sha256 that the dataset does not have, the result is empty. Raises BadInput for any other
    unknown id, or if several ids begin with `name`.
    """
    if not isinstance(name, str) or len(name) < MIN_PREFIX:
        raise BadInput(
            f"{name!r} is not an id. Give at least the first {MIN_PREFIX} characters of the id of a photo, of a face "
            "or of a person."
        )
    if name in photos.photo_of_file:
        return {photos.photo_of_file[name]}
    tables: tuple[Mapping[str, object], ...] = (
        (people.members,) if name.startswith("p-") else (photos.now, people.faces)
    )
    ids = [own for table in tables for own in ([name] if name in table else _find_longer(name, table))]
    if len(ids) == 1:
        return set(people.list_photos(ids[0])) if name.startswith("p-") else {_find_photo(ids[0], people)}
    if ids:
        raise BadInput(f"{len(ids)} ids begin with {name}. Give more characters of the id.")
    if len(name) == _SHA256 and not set(name) - set("0123456789abcdef"):
        return set()
    raise BadInput(
        f"There is no photo, face or person with the id {name}. `likeness manifest why DATASET PHOTO` prints the ids "
        "of a photo, its faces and its people."
    )


def _find_longer(name: str, ids: Mapping[str, object]) -> list[str]:
    return [own for own in ids if own.startswith(name)]


def _find_photo(full_id: str, people: PeopleNow) -> str:
    """Returns the photo of a face. The id of a photo is returned unchanged."""
    face = people.faces.get(full_id)
    return full_id if face is None else face.photo_id
