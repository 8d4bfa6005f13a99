"""Writes the dataset card, DATASET/card.md: contents, sources, consent, models and limits of a dataset.

The card does not contain a time, a path or a person's name. The same ledger gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import ENLARGED, PADDED
from manifests.runtime.files import remove_temporary_files, write_atomically
from manifests.runtime.text import format_count, format_markdown_table

CARD = "card.md"
# The card lists at most this many (ours) sources, licences and values of consent; the most frequent come first
_ROWS = 20

_COUNTS = """
    SELECT what, n FROM (
        SELECT 1 AS place, 'photos in use' AS what, count(*) AS n FROM photos WHERE status = 'ok'
        UNION ALL SELECT 2, 'faces in use', count(*) FROM faces WHERE status = 'ok'
        UNION ALL SELECT 3, 'people', count(*) FROM identities
        UNION ALL SELECT 4, 'people with two faces or more', count(*) FROM
            (SELECT 1 FROM memberships GROUP BY identity_id HAVING count(*) > 1)
        UNION ALL SELECT 5, 'targets with references', count(*) FROM pairs
        UNION ALL SELECT 6, 'frozen low-quality images', count(*) FROM degradations) ORDER BY place"""
# {0} is replaced by the column source, licence or consent
_STATEMENTS = f"""
    SELECT coalesce({{0}}, 'not stated') AS statement, count(*) AS n FROM photos WHERE status = 'ok'
    GROUP BY 1 ORDER BY n DESC, statement LIMIT {_ROWS}"""
_KEPT_OUT = "SELECT kind || 's, ' || reason AS what, count(*) AS n FROM kept_out GROUP BY 1 ORDER BY 1"
_MODELS = "SELECT role, file, licence, left(sha256, 16) FROM models ORDER BY ALL"
_DROPPED = """
    SELECT * FROM (
        SELECT 'files' AS kind, reason, count(*) AS n FROM files WHERE status <> 'ok' GROUP BY ALL
        UNION ALL SELECT 'photos', reason, count(*) FROM photos WHERE status <> 'ok' GROUP BY ALL
        UNION ALL SELECT 'faces', reason, count(*) FROM faces WHERE status <> 'ok' GROUP BY ALL) ORDER BY ALL"""
_SPLITS = """
    SELECT split, policy, count(DISTINCT identity_id), count(*), bool_or(locked) FROM splits
    WHERE status = 'ok' GROUP BY split, policy ORDER BY CASE split WHEN 'train' THEN 1 WHEN 'val' THEN 2 ELSE 3 END"""
_SETS = f"""
    SELECT lq_set, any_value(preset), any_value(size), count(*),
           count(*) FILTER ({ENLARGED.format("size")}), count(*) FILTER ({PADDED})
    FROM degradations LEFT JOIN faces USING (face_id) GROUP BY 1 ORDER BY 1"""
_CLEANED = "SELECT iteration, round, count(*) AS n FROM versions WHERE status = 'ok' GROUP BY ALL ORDER BY ALL"


def write_card(dataset: Path, during_purge: bool = False) -> Path:
    """Write the card if its text has changed, and return its path. `Ledger.open` explains `during_purge`."""
    with Ledger.open(dataset, during_purge=during_purge) as ledger:
        text = render_card(ledger)
    path = Path(dataset) / CARD
    remove_temporary_files(Path(dataset), recursive=False, shared=True)  # temporary files of killed processes
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomically(path, text.encode())
    return path


def render_card(ledger: Ledger) -> str:
    """Returns the card of a dataset as Markdown."""

    def table(head: Sequence[str], sql: str) -> str:
        rows = [[str(value) for value in row] for row in ledger.query(sql).iter_rows()]
        return format_markdown_table(head, rows) if rows else "None.\n"

    parts = (
        "# Dataset card\n\nLikeness writes this file again after every change of the dataset, and overwrites your "
        "edits. `likeness manifest card` also writes this file.\n",
        "## Contents\n\n" + table(("what", "how many"), _COUNTS),
        "## Photos: source\n\n" + table(("source", "photos"), _STATEMENTS.format("source")),
        "## Photos: licence\n\n" + table(("licence", "photos"), _STATEMENTS.format("licence")),
        "## Photos: consent\n\n" + table(("consent", "photos"), _STATEMENTS.format("consent")),
        "## Kept out\n\n" + table(("what", "how many"), _KEPT_OUT),
        "The ledger contains a mark for each photo and face that is kept out. A mark is computed with the dataset's "
        "secret key. Without this key, nobody can find out which photo a mark stands for.\n",
        "## Models\n\n" + table(("role", "file", "licence", "sha256 begins"), _MODELS),
        "## Filters\n\n" + _format_filters(ledger.read_detail("filters")) + _format_kept(ledger.read_detail("screen")),
        table(("what", "reason", "how many"), _DROPPED),
        "## Splits\n\n" + table(("split", "by", "people", "faces", "locked"), _SPLITS),
        "## Frozen sets\n\n" + table(("set", "preset", "pixels", "images", "enlarged", "more than 2% outside"), _SETS),
        "The column `enlarged` counts the targets that have more pixels than the photo has in the same place. The "
        "column `more than 2% outside` counts the targets of which more than 2% lies outside the photo.\n",
        "## Cleaned pictures\n\n" + table(("iteration", "round", "versions"), _CLEANED),
        "A restorer made the cleaned pictures. Only training faces have cleaned pictures. The cleaned pictures are not "
        "ground truth. A cleaned picture replaces an original only if the user asks for cleaned pictures in a "
        "training or an export.\n",
        "## Limits\n\n"
        "- In this card, a person is a group of faces that a recognizer put together. Some groups are wrong. A "
        "recognizer makes more errors for some people than for others.\n"
        "- Photos, faces and people were not balanced by age, sex or skin colour. The distribution of age, sex and "
        "skin colour is unknown.\n"
        "- The supplier of the photos states source, licence and consent, and Likeness does not check the statements. "
        "Consent for a photo is not the consent of all people in the photo.\n"
        "- Face embeddings and crops are personal data. Ids are valid only in this dataset.\n",
    )
    return "\n".join(parts)


def _format_filters(detail: dict[str, Any]) -> str:
    if not detail:
        return "None recorded.\n"
    rows = [
        [str(rule["reason"]), f"`{rule['sql']}`", effect]
        for kind, effect in (
            ("filters", "the face is dropped"),
            ("test_filters", "the face is not a target in the test"),
        )
        for rule in detail.get(kind, ())
    ]
    return f"{detail['name']}, version {detail['version']}:\n\n" + format_markdown_table(
        ("reason", "where", "effect"), rows
    )


def _format_kept(screening: dict[str, Any]) -> str:
    """Returns a sentence about the faces that are in use only because of a decision. Returns "" if there are none."""
    count = screening.get("kept_by_decision", 0)
    if not count:
        return ""
    faces = format_count(count, "face")
    return f"\nIn the last curation, decisions overruled the filters and kept {faces} in use.\n"
