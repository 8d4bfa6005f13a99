"""The SELECTs on the ledger that more than one place of Likeness needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from manifests.errors import LedgerBroken
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Model

# ids and hashes, and URIs as `uri_of` writes them
_WORDS = ("p-[0-9a-f]+|[0-9a-f]+", "file://[A-Za-z0-9_.~%/-]+")
# The text of every row is cut into words, and the words are joined with the wanted texts. For a million rows
# this join is much faster than a comparison of every row with every text.
_COUNT_WORDS = """SELECT count(*) AS n FROM (SELECT unnest(regexp_extract_all(t::VARCHAR, ?)) AS word FROM {} t)
                  WHERE word IN (SELECT unnest(?::VARCHAR[]))"""


def read_recognizers(ledger: Ledger) -> list[Model]:
    """Returns the recognizers that the ledger names; a dataset that was curated to the end has exactly one."""
    return ledger.read_rows(Model, "role = 'recognizer'")


def read_recognizer(ledger: Ledger) -> Model:
    """Returns the recognizer of the dataset's embeddings.

    Raises LedgerBroken if the ledger does not name exactly one recognizer.
    """
    recognizers = read_recognizers(ledger)
    if len(recognizers) != 1:
        raise LedgerBroken(
            f"The ledger of {ledger.dataset} names {len(recognizers)} recognizers instead of one: run `likeness "
            "curate` again."
        )
    return recognizers[0]


def read_faces_with_reason(ledger: Ledger, reasons: Sequence[str]) -> list[Face]:
    """Returns the faces whose reason is one of `reasons`, ordered by face id."""
    return ledger.read_rows(Face, "list_contains(?, reason)", list(reasons))


def read_units(ledger: Ledger, *stages: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Returns (stage, unit, config hash, detail) of every finished unit of the stages, ordered by unit.

    The detail is empty if the unit has none.
    """
    frame = ledger.query(
        "SELECT stage, unit, config_hash, detail FROM stages WHERE list_contains(?, stage) ORDER BY unit", list(stages)
    )
    return [(*row, json.loads(detail) if detail else {}) for *row, detail in frame.iter_rows()]


def read_set_sizes(ledger: Ledger) -> dict[str, int]:
    """Returns the size in pixels of the images of every frozen set, by the name of the set in order."""
    return dict(ledger.query("SELECT DISTINCT lq_set, size FROM degradations ORDER BY lq_set").iter_rows())


def read_set_hashes(ledger: Ledger, lq_set: str) -> dict[str, str]:
    """Returns face id -> sha256 of the image, for every recorded image of a frozen set, ordered by face id."""
    frame = ledger.query("SELECT face_id, sha256 FROM degradations WHERE lq_set = ? ORDER BY face_id", lq_set)
    return dict(frame.iter_rows())


def read_set_detail(ledger: Ledger, lq_set: str) -> dict[str, Any] | None:
    """Returns the detail that `degrade` recorded when it began a frozen set, or None if it began no set of that name.

    The detail holds `faces`, the face ids of the set. It holds `engine` if the exact engine did not make the set.
    """
    frame = ledger.query("SELECT detail FROM stages WHERE stage = 'degrade' AND unit = ?", lq_set)
    return json.loads(frame["detail"][0]) if len(frame) else None


def count_mentions(ledger: Ledger, texts: Sequence[str]) -> tuple[int, list[str]]:
    """Returns the number of rows of all tables, and one sentence for each table in which one of the texts occurs.

    The texts are ids, hashes and URIs, and are looked for in every column.
    """
    sentences, rows = [], 0
    for (name,) in ledger.query("SELECT table_name FROM information_schema.tables ORDER BY 1").iter_rows():
        rows += int(ledger.query(f"SELECT count(*) AS n FROM {name}")["n"][0])
        count = sum(int(ledger.query(_COUNT_WORDS.format(name), words, list(texts))["n"][0]) for words in _WORDS)
        if count:
            sentences.append(f"{count} times in the table {name} of the ledger")
    return rows, sentences
