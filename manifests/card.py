"""DATASET/card.md: what the dataset holds, where it came from, who agreed, whose models it depends on.

No clock, no path, no name: the same ledger gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.runtime.files import remove_temporary_files, write_atomically

CARD = "card.md"
_SHOWN = 20  # sources and licences, the most frequent


def write_card(dataset: Path, finishing: bool = False) -> Path:
    """Write the card and answer where it lies; `finishing` is as in `Ledger.open`."""
    with Ledger.open(dataset, finishing=finishing) as ledger:
        text = render_card(ledger)
    path = Path(dataset) / CARD
    remove_temporary_files(Path(dataset), below=False, alone=False)  # what a killed process left half written of it
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomically(path, text.encode())
    return path


def render_card(ledger: Ledger) -> str:
    """The card as Markdown."""

    def table(head: Sequence[str], sql: str) -> str:
        rows = [[str(value) for value in row] for row in ledger.query(sql).iter_rows()]
        return _table(head, rows) if rows else "None.\n"

    def told(column: str) -> str:
        return table(
            (column, "photos"),
            f"""SELECT coalesce({column}, 'not told') AS said, count(*) AS n FROM photos WHERE status = 'ok'
                GROUP BY 1 ORDER BY n DESC, said LIMIT {_SHOWN}""",
        )

    kept_out = "SELECT kind || 's, ' || reason AS what, count(*) AS n FROM kept_out GROUP BY 1 ORDER BY 1"
    counts = """SELECT * FROM (
        SELECT 1 AS place, 'photos in use' AS what, count(*) AS n FROM photos WHERE status = 'ok'
        UNION ALL SELECT 2, 'faces in use', count(*) FROM faces WHERE status = 'ok'
        UNION ALL SELECT 3, 'people', count(*) FROM identities
        UNION ALL SELECT 4, 'people with two faces or more', count(*) FROM
            (SELECT 1 FROM memberships GROUP BY identity_id HAVING count(*) > 1)
        UNION ALL SELECT 5, 'targets with references', count(*) FROM pairs
        UNION ALL SELECT 6, 'frozen low-quality images', count(*) FROM degradations) ORDER BY place"""
    cleaned = """SELECT iteration, round, count(*) AS n FROM versions WHERE status = 'ok' GROUP BY ALL ORDER BY ALL"""
    dropped = """SELECT * FROM (
        SELECT 'files' AS kind, reason, count(*) AS n FROM files WHERE status <> 'ok' GROUP BY ALL
        UNION ALL SELECT 'photos', reason, count(*) FROM photos WHERE status <> 'ok' GROUP BY ALL
        UNION ALL SELECT 'faces', reason, count(*) FROM faces WHERE status <> 'ok' GROUP BY ALL) ORDER BY ALL"""
    splits = """SELECT split, policy, count(DISTINCT identity_id), count(*), bool_or(locked) FROM splits
        WHERE status = 'ok' GROUP BY split, policy
        ORDER BY CASE split WHEN 'train' THEN 1 WHEN 'val' THEN 2 ELSE 3 END"""
    frozen = "SELECT lq_set, any_value(preset), any_value(size), count(*) FROM degradations GROUP BY 1 ORDER BY 1"
    models = "SELECT role, file, licence, left(sha256, 16) FROM models ORDER BY ALL"
    parts: Iterable[str] = (
        "# Dataset card\n\nWritten by `likeness manifest card` and after every change; edits do not last.\n",
        "## What it holds\n\n" + _counted(ledger.query(counts).rows()),
        "## Photos: source\n\n" + told("source"),
        "## Photos: licence\n\n" + told("licence"),
        "## Photos: consent\n\n" + told("consent"),
        "## Kept out\n\n"
        + (table(("what", "how many"), kept_out) if ledger.has_table("kept_out") else "None.\n")
        + "\nKnown by marks under the dataset's own key, not by hash.\n",
        "## Models it depends on\n\n" + table(("role", "file", "licence", "sha256 begins"), models),
        "## Filters\n\n"
        + _filters(ledger.read_detail("filters"))
        + "\n"
        + table(("what", "reason", "how many"), dropped),
        "## Splits\n\n" + table(("split", "by", "people", "faces", "locked"), splits),
        "## Frozen sets\n\n" + table(("set", "preset", "pixels", "images"), frozen),
        "## Cleaned pictures\n\n"
        + (table(("iteration", "round", "versions"), cleaned) if ledger.has_table("versions") else "None.\n")
        + "\nMade by a restorer, of training faces alone; no ground truth, and nothing else stands in their place.\n",
        "## Limits\n\n"
        "- People are groups found by a recognizer, not names; some are wrong, and it errs more for some people than "
        "for others.\n"
        "- Photos, faces and people were not balanced by age, sex or skin; nothing here says how they are spread.\n"
        "- Source, licence and consent are as told, not checked. A photo's consent says nothing of others whom it "
        "shows.\n"
        "- Face embeddings and crops are personal data; ids mean nothing outside this dataset.\n",
    )
    return "\n".join(parts)


def _counted(rows: Sequence[tuple[Any, ...]]) -> str:
    return _table(("what", "how many"), [[str(what), str(n)] for _, what, n in rows])


def _filters(detail: dict[str, Any]) -> str:
    if not detail:
        return "None recorded.\n"
    rows = [[str(rule["reason"]), f"`{rule['sql']}`"] for rule in detail["filters"]]
    return f"{detail['name']}, version {detail['version']}:\n\n" + _table(("reason", "where"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |\n" for line in lines
    )
