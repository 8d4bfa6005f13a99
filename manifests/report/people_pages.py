"""Reads all people of the dataset for the pages people-1.html, people-2.html and so on, and sorts the people in three
orders.

Every person and every face has a short id, which `likeness decide` accepts.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.report.thumbnails import make_thumbnail
from manifests.runtime.text import make_printable
from manifests.runtime.uris import display_path, path_of, uri_of

PEOPLE_A_PAGE = 24  # Number of people on a page.
FACES = 48  # Number of faces that a page shows for each person. The face with the lowest confidence comes first.
ROWS = 200  # Largest number of people in each of the three lists.
MIN_ID = 8  # Least number of characters of a short id (ours). `likeness decide` needs at least 6.

_PEOPLE = """
SELECT m.identity_id, i.name, count(*) AS faces, min(confidence) AS weakest, min(margin) AS closest,
       CASE WHEN bool_or(i.doubtful) THEN 'doubtful, set aside' ELSE any_value(s.split) END AS split
FROM memberships m LEFT JOIN identities i USING (identity_id) LEFT JOIN splits s USING (face_id)
GROUP BY ALL ORDER BY faces DESC, m.identity_id"""
_FACES = """
SELECT m.identity_id, m.face_id, m.confidence, min(u.uri) FILTER (u.status = 'ok') AS uri
FROM memberships m JOIN faces f USING (face_id) LEFT JOIN files u ON u.photo_id = f.photo_id
WHERE list_contains(?, m.identity_id) GROUP BY ALL ORDER BY m.identity_id, m.confidence, m.face_id"""


@dataclass(frozen=True)
class People:
    """All people of a dataset, and the short ids of people and faces."""

    rows: list[dict[str, Any]]  # A row for each person. The person with the most faces comes first.
    short_id: dict[str, str]  # Maps the id of a person or face to its short id.

    @property
    def pages(self) -> int:
        return -(-len(self.rows) // PEOPLE_A_PAGE)


def list_people(ledger: Ledger) -> People:
    """Returns all people. The key `page` of a row is the number of the page that shows the person."""
    rows = ledger.query(_PEOPLE).rows(named=True)
    for place, row in enumerate(rows):
        row["page"] = place // PEOPLE_A_PAGE + 1
    faces = ledger.query("SELECT face_id FROM faces ORDER BY 1")["face_id"].to_list()
    short = {**shorten_ids(sorted(row["identity_id"] for row in rows), MIN_ID + 2), **shorten_ids(faces, MIN_ID)}
    return People(rows, short)


def shorten_ids(ids: list[str], least: int) -> dict[str, str]:
    """Returns a dict that maps each id to its shortest prefix that is not a prefix of another id.

    A short id has at least `least` characters. `ids` must be sorted and all different.
    """
    short = {}
    for place, name in enumerate(ids):
        others = [ids[other] for other in (place - 1, place + 1) if 0 <= other < len(ids)]
        length = least
        while any(other[:length] == name[:length] for other in others) and length < len(name):
            length += 1
        short[name] = name[:length]
    return short


def read_page(ledger: Ledger, people: People, number: int) -> list[dict[str, Any]]:
    """Returns the people of one page. A face has its picture, short id, confidence, and the file of its photo."""
    rows = [row for row in people.rows if row["page"] == number]
    faces: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for person, face, confidence, uri in ledger.query(_FACES, [row["identity_id"] for row in rows]).iter_rows():
        if len(faces[person]) < FACES:
            faces[person].append(
                {
                    "image": make_thumbnail(crop_path(ledger.dataset, face), 96),
                    "id": people.short_id[face],
                    "confidence": f"{confidence:.2f}",
                    "file": "" if uri is None else make_printable(display_path(uri).name),
                    "link": "" if uri is None else uri_of(path_of(uri)),
                }
            )
    return [{**row, "id": people.short_id[row["identity_id"]], "images": faces[row["identity_id"]]} for row in rows]


def list_orders(people: People) -> list[tuple[str, list[dict[str, Any]]]]:
    """Sorts the people with two faces or more in three ways.

    Each item of the result is a title, which names the order, and a list of the first ROWS people in this order.
    """
    several = [{**row, "id": people.short_id[row["identity_id"]]} for row in people.rows if row["faces"] > 1]
    return [
        ("Most faces first", several[:ROWS]),
        ("Lowest confidence first", sorted(several, key=lambda row: row["weakest"])[:ROWS]),
        ("Smallest margin first", sorted(several, key=lambda row: row["closest"])[:ROWS]),
    ]
