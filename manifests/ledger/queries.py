"""Queries of the ledger that more than one module of Likeness needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from manifests.errors import LedgerBroken
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Model
from manifests.runtime.text import format_count

# these patterns match ids, hashes, and the URIs that `uri_of` makes
_WORDS = ("p-[0-9a-f]+|[0-9a-f]+", "file://[A-Za-z0-9_.~%/-]+")
# Counts how often one of the searched texts is a word in the rows of a table. For a million rows, this is much faster
# than a comparison of every row with every text.
_COUNT_WORDS = """SELECT count(*) AS n FROM (SELECT unnest(regexp_extract_all(t::VARCHAR, ?)) AS word FROM {} t)
                  WHERE word IN (SELECT unnest(?::VARCHAR[]))"""

# Conditions on the row of a target in `faces`. Such a target shows less detail than its size suggests. ENLARGED is true
# if the target has more pixels than the photo has in the same place. {} is the size of the target in pixels, and
# `upsample` is the scale from the photo to the crop of 512 px. PADDED is true if more than 2% (ours) of the crop lies
# outside the photo.
ENLARGED = "upsample * {} > 512"
PADDED = "outside > 0.02"


def read_recognizers(ledger: Ledger) -> list[Model]:
    """Returns the recognizers that the ledger names.

    After a complete curation, the ledger names exactly one recognizer.
    """
    return ledger.read_rows(Model, "role = 'recognizer'")


def read_recognizer(ledger: Ledger) -> Model:
    """Returns the recognizer that made the dataset's embeddings.

    Raises LedgerBroken if the ledger does not name exactly one recognizer.
    """
    recognizers = read_recognizers(ledger)
    if len(recognizers) != 1:
        raise LedgerBroken(
            f"The ledger of {ledger.dataset} names {len(recognizers)} recognizers instead of one: run `likeness "
            "curate` again."
        )
    return recognizers[0]


def is_curation_finished(ledger: Ledger) -> bool:
    """Returns whether the last `likeness curate` reached its end. Returns True for a dataset without a curation."""
    return bool(ledger.read_detail("curate").get("finished", True))


def read_faces_with_reason(ledger: Ledger, reasons: Sequence[str]) -> list[Face]:
    """Returns the faces whose reason is one of `reasons`, ordered by face id."""
    return ledger.read_rows(Face, "list_contains(?, reason)", list(reasons))


def read_units(ledger: Ledger, *stages: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Returns (stage, unit, config hash, detail) of every finished unit of these stages, ordered by unit.

    The detail is an empty dict if the unit has no detail.
    """
    frame = ledger.query(
        "SELECT stage, unit, config_hash, detail FROM stages WHERE list_contains(?, stage) ORDER BY unit", list(stages)
    )
    return [(*row, json.loads(detail) if detail else {}) for *row, detail in frame.iter_rows()]


def read_set_sizes(ledger: Ledger) -> dict[str, int]:
    """Returns a dict that maps the name of each frozen set to the size of its images in pixels, ordered by name."""
    return dict(ledger.query("SELECT DISTINCT lq_set, size FROM degradations ORDER BY lq_set").iter_rows())


def read_set_hashes(ledger: Ledger, lq_set: str) -> dict[str, str]:
    """Returns a dict that maps face id to the sha256 of the face's image in a frozen set, ordered by face id."""
    frame = ledger.query("SELECT face_id, sha256 FROM degradations WHERE lq_set = ? ORDER BY face_id", lq_set)
    return dict(frame.iter_rows())


def read_set_detail(ledger: Ledger, lq_set: str) -> dict[str, Any] | None:
    """Returns the facts that `degrade` recorded when it began a frozen set, or None if no set has this name.

    The key `faces` has the face ids of the set. The key `engine` is missing if the exact engine made the set.
    """
    frame = ledger.query("SELECT detail FROM stages WHERE stage = 'degrade' AND unit = ?", lq_set)
    return json.loads(frame["detail"][0]) if len(frame) else None


def count_poor_targets(ledger: Ledger, faces: Sequence[str], size: int) -> tuple[int, int]:
    """Returns how many of the targets `faces` of `size` px fulfil ENLARGED, and how many fulfil PADDED."""
    row = ledger.query(
        f"SELECT count(*) FILTER ({ENLARGED.format('?')}), count(*) FILTER ({PADDED}) FROM faces "
        "WHERE list_contains(?, face_id)",
        size,
        list(faces),
    ).row(0)
    return int(row[0]), int(row[1])


def count_mentions(ledger: Ledger, texts: Sequence[str]) -> tuple[int, list[str]]:
    """Returns the number of rows of all tables, and a phrase for each table that contains at least one of the texts.

    The texts are ids, hashes and URIs. The search covers every column.
    """
    phrases, rows = [], 0
    for (name,) in ledger.query("SELECT table_name FROM information_schema.tables ORDER BY 1").iter_rows():
        rows += int(ledger.query(f"SELECT count(*) AS n FROM {name}")["n"][0])
        count = sum(int(ledger.query(_COUNT_WORDS.format(name), words, list(texts))["n"][0]) for words in _WORDS)
        if count:
            phrases.append(f"{format_count(count, 'time')} in the table {name} of the ledger")
    return rows, phrases
