"""Collects what a menu for the consent shows: the present consent, and how many photos and faces a change affects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curate.review.session.view import View
from manifests.ledger.records import Face

MIXED = "mixed"  # the value of the menu if the photos of a person have different consents


def describe_consent_of_photo(view: View, face: Face) -> dict[str, Any]:
    """Returns the consent for the photo of a face as `value`, or "" if the consent is unknown.

    `others` is the number of faces of other people in the photo.
    """
    person = view.people.identity_of.get(face.representative)
    return {
        "value": view.consents.get(face.photo_id) or "",
        "others": _count_others(view, [face.photo_id], person),
    }


def describe_consent_of_person(view: View, person: str) -> dict[str, Any]:
    """Returns the consent for all photos of a person as `value`, or MIXED if the photos have different consents.

    `photos` is the number of the photos. `others` is the number of faces of other people in these photos.
    """
    photos = view.people.list_photos(person)
    values = {view.consents.get(photo) or "" for photo in photos}
    return {
        "value": values.pop() if len(values) == 1 else MIXED,
        "photos": len(photos),
        "others": _count_others(view, photos, person),
    }


def _count_others(view: View, photos: Sequence[str], person: str | None) -> int:
    """Returns the number of faces in these photos that belong to other people than `person`."""
    owner = view.people.identity_of
    faces = view.people.finder.select_photos(photos)
    return sum(owner.get(face.representative, person) != person for face in faces)
