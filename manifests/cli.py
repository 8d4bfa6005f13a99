"""Defines the commands that read a ledger: show, query, check, why, card and report."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifests.ledger.paths import check_ledger_exists
from manifests.runtime.flags import argument, flag

if TYPE_CHECKING:
    import polars as pl

LISTED_PROBLEMS = 50  # largest number of problems that `check` prints; `check` only counts the other problems


def show(
    dataset: Annotated[Path, argument("DATASET")],
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Count the rows of the ledger by status and reason.

    Example: likeness manifest show DATASET
    """
    check_ledger_exists(dataset)
    from manifests.ledger.decisions.applied_decisions import describe_unapplied_decisions
    from manifests.ledger.ledger import Ledger

    with Ledger.open(dataset) as ledger:
        counts, unapplied = ledger.query(_COUNT_ROWS), describe_unapplied_decisions(ledger)
    _print_table(counts, as_json, f"{dataset}")
    if unapplied is not None:
        typer.echo(f"Note: {unapplied}", err=as_json)


_COUNT_ROWS = """
SELECT 'files' AS kind, status, coalesce(reason, '') AS reason, count(*) AS n FROM files GROUP BY ALL
UNION ALL SELECT 'photos', status, coalesce(reason, ''), count(*) FROM photos GROUP BY ALL
UNION ALL SELECT 'faces', status, coalesce(reason, ''), count(*) FROM faces GROUP BY ALL
UNION ALL SELECT 'splits', split, coalesce(reason, ''), count(*) FROM splits GROUP BY ALL
UNION ALL SELECT 'pairs', split, '', count(*) FROM pairs GROUP BY ALL
UNION ALL SELECT 'lq sets', lq_set, '', count(*) FROM degradations GROUP BY ALL
UNION ALL SELECT 'identities', CASE WHEN n > 1 THEN 'with two faces or more' ELSE 'with one face' END, '', count(*)
    FROM (SELECT count(*) AS n FROM memberships GROUP BY identity_id) GROUP BY ALL
ORDER BY ALL
"""


def query(
    dataset: Annotated[Path, argument("DATASET")],
    sql: Annotated[str, argument("SQL")],
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Run one SELECT statement on the ledger. The ledger does not change.

    Example: likeness manifest query DATASET "SELECT reason, count(*) FROM faces GROUP BY reason"
    """
    check_ledger_exists(dataset)
    from manifests.ledger.ledger import Ledger

    with Ledger.open(dataset) as ledger:
        _print_table(ledger.query(sql), as_json, None)


def check(
    dataset: Annotated[Path, argument("DATASET")],
    hashes: Annotated[bool, flag("--hashes/--no-hashes")] = True,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Check that every row has its file, that every file has its row, and that nothing leaks between splits.

    The command checks the files of the dataset: crops, embeddings and LQ images. The command does not look for the
    photos. If the command names a changed file, delete this file, and repeat the command that made it.

    The exit code is 0 if no problem was found, and 1 if a problem was found.

    Example: likeness manifest check DATASET
    """
    check_ledger_exists(dataset)
    from manifests.check import UNFINISHED, check_ledger
    from manifests.ledger.decisions.applied_decisions import describe_unapplied_decisions
    from manifests.ledger.ledger import Ledger
    from manifests.runtime.progress import show_progress

    with show_progress("files", as_json) as progress:
        problems = check_ledger(dataset, hashes, progress)
    with Ledger.open(dataset) as ledger:
        unapplied = describe_unapplied_decisions(ledger)
    if unapplied is not None:
        typer.echo(f"Note: {unapplied}", err=as_json)
    if as_json:
        typer.echo(json.dumps({"ok": not problems, "wrong": problems}))
    else:
        for problem in problems[:LISTED_PROBLEMS]:
            typer.echo(problem)
        if len(problems) > LISTED_PROBLEMS:
            typer.echo(f"and {len(problems) - LISTED_PROBLEMS} more")
        sound = "Every row has its file, every file has its row, and nothing leaks between splits."
        if problems != [UNFINISHED]:
            typer.echo(f"Problems in total: {len(problems)}." if problems else sound)
    if problems:
        raise typer.Exit(1)


def why(
    dataset: Annotated[Path, argument("DATASET")],
    photo: Annotated[str, argument("PHOTO", "; write -- before a name that begins with a dash")],
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Explain what each stage did with a photo and with each face in the photo, and why.

    Example: likeness manifest why DATASET holiday/IMG_0042.jpg
    """
    check_ledger_exists(dataset)
    from manifests.why.explain_photo import explain_photo

    lines, rows = explain_photo(dataset, photo)
    typer.echo(json.dumps(rows) if as_json else "\n".join(lines))


def card(
    dataset: Annotated[Path, argument("DATASET")],
    dry_run: Annotated[bool, flag("--dry-run", "; the command prints the card")] = False,
) -> None:
    """Write DATASET/card.md: counts, sources, licences, consent, filters, splits and limits of the dataset.

    Example: likeness manifest card DATASET
    """
    check_ledger_exists(dataset)
    from manifests.card import render_card, write_card
    from manifests.ledger.decisions.applied_decisions import check_decisions_applied
    from manifests.ledger.ledger import Ledger

    with Ledger.open(dataset) as ledger:
        check_decisions_applied(ledger)
        if dry_run:
            typer.echo(render_card(ledger))
            return
    typer.echo(str(write_card(dataset)))


def report(
    dataset: Annotated[Path, argument("DATASET")],
    run: Annotated[list[Path] | None, flag("--run", ", to show the results of the run", repeat=True)] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
) -> None:
    """Write DATASET/report/index.html: one page about the photos, faces, people, pairs, degradations and results.

    The pages people.html and people-1.html, people-2.html ... show all people, with ids for `likeness decide`.

    Example: likeness report DATASET --run RUN
    """
    if dry_run:
        typer.echo(f"Would write {dataset / 'report' / 'index.html'}.")
        return
    check_ledger_exists(dataset)
    from manifests.report.build_report import build_report

    typer.echo(str(build_report(dataset, run or [])))


def _print_table(frame: pl.DataFrame, as_json: bool, title: str | None) -> None:
    if as_json:
        typer.echo(json.dumps(frame.rows(named=True), default=_to_json))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for name, dtype in frame.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left")
    for row in frame.iter_rows():
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    console = Console()
    if not console.is_terminal:  # text for a pipe or a file may have any width, so no cell is cut
        console = Console(width=max(console.measure(table, options=console.options.update(width=1_000_000)).maximum, 1))
    console.print(table)


def _to_json(value: Any) -> float | str:
    """Converts a value for which JSON has no type: a decimal to a number, and any other value to a text."""
    return float(value) if isinstance(value, Decimal) else str(value)
