"""The commands of the ledger: show, query, check, why, export, purge, card, and the report."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifests.runtime.text import format_count

if TYPE_CHECKING:
    import polars as pl

    from manifests.export.export_dataset import ExportResult
    from manifests.privacy.purge import PurgeResult
    from manifests.privacy.purge_plan import PurgePlan

_Dataset = Annotated[Path, typer.Argument(help="The folder of a dataset.", metavar="DATASET")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def show(dataset: _Dataset, as_json: _Json = False) -> None:
    """Count what the ledger holds, with the reason for everything that was dropped.

    Example: likeness manifest show DATASET
    """
    from manifests.ledger.ledger import Ledger

    with Ledger.open(dataset) as ledger:
        counts = ledger.query(
            """SELECT 'files' AS kind, status, coalesce(reason, '') AS reason, count(*) AS n FROM files GROUP BY ALL
               UNION ALL SELECT 'photos', status, coalesce(reason, ''), count(*) FROM photos GROUP BY ALL
               UNION ALL SELECT 'faces', status, coalesce(reason, ''), count(*) FROM faces GROUP BY ALL
               UNION ALL SELECT 'splits', split, coalesce(reason, ''), count(*) FROM splits GROUP BY ALL
               UNION ALL SELECT 'pairs', split, '', count(*) FROM pairs GROUP BY ALL
               UNION ALL SELECT 'lq sets', lq_set, '', count(*) FROM degradations GROUP BY ALL
               UNION ALL SELECT 'identities',
                   CASE WHEN n > 1 THEN 'with two faces or more' ELSE 'with one face' END, '', count(*)
                   FROM (SELECT count(*) AS n FROM memberships GROUP BY identity_id) GROUP BY ALL
               ORDER BY ALL"""
        )
    _print(counts, as_json, f"{dataset}")


def query(
    dataset: _Dataset,
    sql: Annotated[str, typer.Argument(help="One SELECT; docs/ledger.md lists the tables.", metavar="SQL")],
    as_json: _Json = False,
) -> None:
    """Ask the ledger anything; it is opened read-only.

    Example: likeness manifest query DATASET "SELECT reason, count(*) FROM faces GROUP BY reason"
    """
    from manifests.ledger.ledger import Ledger

    with Ledger.open(dataset) as ledger:
        _print(ledger.query(sql), as_json, None)


def check(
    dataset: _Dataset,
    hashes: Annotated[
        bool, typer.Option(help="Read every crop, embedding shard and low-quality image and compare its sha256.")
    ] = True,
    as_json: _Json = False,
) -> None:
    """Prove that every row has its file, every file its row, and that nothing leaks between splits; else exit with 1.

    Files are those of the dataset: crops, embeddings, low-quality sets. Photos are not looked for. What has changed is
    named; remove it, and the command that made it makes it again.

    Example: likeness manifest check DATASET
    """
    from manifests.check import check_ledger
    from manifests.runtime.progress import show_progress

    with show_progress("files", as_json) as progress:
        wrong = check_ledger(dataset, hashes, progress)
    if as_json:
        typer.echo(json.dumps({"ok": not wrong, "wrong": wrong}))
    else:
        for line in wrong[:50]:
            typer.echo(line)
        if len(wrong) > 50:
            typer.echo(f"and {len(wrong) - 50} more")
        well = "All rows have their crops, embeddings and low-quality images, all of these their rows, no leak."
        typer.echo(f"{len(wrong)} wrong in all." if wrong else well)
    if wrong:
        raise typer.Exit(1)


def why(
    dataset: _Dataset,
    photo: Annotated[
        str,
        typer.Argument(
            help="A photo's path or file name, or the beginning of the id of a photo, face or person.", metavar="PHOTO"
        ),
    ],
    as_json: _Json = False,
) -> None:
    """Tell what became of a photo and of each face in it, and why. Put -- before a name that begins with a dash.

    Example: likeness manifest why DATASET holiday/IMG_0042.jpg
    """
    from manifests.why import explain_photo

    lines, rows = explain_photo(dataset, photo)
    typer.echo(json.dumps(rows) if as_json else "\n".join(lines))


def purge(
    dataset: _Dataset,
    person: Annotated[
        list[str] | None, typer.Option(help="An identity's id or name; may be given again.", metavar="ID|NAME")
    ] = None,
    photo: Annotated[
        list[str] | None,
        typer.Option(help="A photo's path, file name, or sha256; may be given again.", metavar="PHOTO"),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(help="A training run or benchmark outside DATASET to clean too; may be given again."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; it cannot be undone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Take a person or a photo out, with all that was made of them, keep them out, and prove that nothing is left.

    A photo that shows the person goes whole. The photo's own file is never touched. Names the checkpoints that were
    trained on them: weights cannot be cleaned. A purge that was stopped is finished by the same command, or by this
    one without --person and --photo. docs/privacy.md says what goes and what is remembered.

    Exit codes: 0 gone and proved, 1 something is left, 2 refused.

    Example: likeness manifest purge DATASET --person p-0a1b2c --dry-run
    """
    from manifests.errors import BadInput
    from manifests.privacy.purge import purge as purged
    from manifests.privacy.purge import read_unfinished_plan
    from manifests.privacy.purge_plan import plan_purge

    begun = read_unfinished_plan(dataset)
    if begun is None and not (person or photo):
        raise BadInput("Say whom to purge: --person ID, or --photo PHOTO.")
    if begun is not None:
        if dry_run:
            raise BadInput(f"A purge of {dataset} was stopped: finish it first, without --dry-run.")
        if not as_json:
            typer.echo("Finishing the purge that was stopped.")
        say_purged(purged(dataset, begun), as_json)
        if person or photo:
            typer.echo("If whom you named now was not in that one: the same command again purges them.", err=True)
        return
    plan = plan_purge(dataset, person or [], photo or [], run or [])
    if confirmed(plan, dry_run, yes, as_json):
        say_purged(purged(dataset, plan), as_json)


def confirmed(plan: PurgePlan, dry_run: bool, yes: bool, as_json: bool) -> bool:
    """Say what would go; whether it shall."""
    import dataclasses
    import sys

    from manifests.errors import BadInput

    if as_json and dry_run:
        typer.echo(json.dumps({**dataclasses.asdict(plan), "traces": None, "dry_run": True}))
        return False
    if not as_json:
        photos, faces = format_count(len(plan.photos), "photo"), format_count(len(plan.faces), "face")
        goes = f"{photos} with {faces}, {format_count(plan.lq_images, 'low-quality image')}"
        typer.echo(f"{'Would remove' if dry_run else 'To remove'}: {goes}.")
        if plan.other_faces:
            typer.echo(f"Of other people, in the same photos: {format_count(plan.other_faces, 'face')}.")
        if plan.kept_out:
            typer.echo(f"{format_count(len(plan.kept_out), 'photo')} not in the dataset: to be kept out.")
        for checkpoint in plan.checkpoints:
            typer.echo(f"Trained on them, and weights cannot be cleaned: {checkpoint}")
    if dry_run or yes or not plan.photos:
        return not dry_run
    if as_json or not sys.stdin.isatty():
        raise BadInput("Nothing was removed: it cannot be undone, so say --yes.")
    return typer.confirm("This cannot be undone. Go on?")


def say_purged(done: PurgeResult, as_json: bool) -> None:
    """What went, and the proof."""
    import dataclasses

    plan, proof = done.plan, done.proof
    if as_json:
        told = {"removed": dict(done.removed), "checkpoints": plan.checkpoints, "proof": dataclasses.asdict(proof)}
        typer.echo(json.dumps({**told, "dry_run": False}))
        return
    typer.echo("Removed: " + (", ".join(f"{n} {what}" for what, n in done.removed.items()) or "nothing was there."))
    for checkpoint in plan.checkpoints:
        typer.echo(f"Trained on them, and weights cannot be cleaned, train anew: {checkpoint}")
    for file in proof.own_files:
        typer.echo(f"Your own photo still lies in the dataset's folder, remove it yourself: {file}")
    if plan.photos:
        sought = ", ".join(
            (
                format_count(len(plan.photos), "photo hash", "photo hashes"),
                format_count(len(plan.faces), "face id"),
                format_count(len(plan.traces.images), "picture"),
                format_count(len(plan.traces.embeddings), "embedding"),
                format_count(len(plan.traces.uris), "file name"),
            )
        )
        typer.echo(
            f"Proof: looked for {sought} in {proof.files} files ({proof.bytes / 1e6:.1f} MB) and {proof.rows} rows of "
            "the ledger: nothing is left."
        )


def card(
    dataset: _Dataset,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the card; write nothing.")] = False,
) -> None:
    """Write DATASET/card.md: counts, sources, licences of photos and models, consent, filters, splits, limits.

    Example: likeness manifest card DATASET
    """
    from manifests.card import render_card, write_card
    from manifests.ledger.ledger import Ledger

    if dry_run:
        with Ledger.open(dataset) as ledger:
            typer.echo(render_card(ledger))
        return
    typer.echo(str(write_card(dataset)))


def export(
    dataset: _Dataset,
    format: Annotated[
        str,
        typer.Option(
            help="refldm, dmdnet (also ASFFNet), faceme, instantrestore, imagefolder, webdataset.", metavar="FORMAT"
        ),
    ],
    out: Annotated[Path, typer.Option(help="A new or empty folder, outside the dataset.", metavar="FOLDER")],
    split: Annotated[str | None, typer.Option(help="train, val or test.", show_default="all three")] = None,
    lq_set: Annotated[
        str | None,
        typer.Option("--set", help="The frozen set whose low-quality pictures go along.", show_default="none"),
    ] = None,
    with_names: Annotated[
        bool, typer.Option("--with-names", help="Write people's names (imagefolder, webdataset).")
    ] = False,
    with_embeddings: Annotated[
        bool,
        typer.Option(
            "--with-embeddings", help="Write face embeddings, which are biometric (faceme, imagefolder, webdataset)."
        ),
    ] = False,
    crops: Annotated[
        str, typer.Option(help="original, or best: what `likeness iterate` made of training faces, marked as such.")
    ] = "original",
    shard_mib: Annotated[
        int | None, typer.Option(min=1, help="webdataset: MiB that a shard stays below.", show_default="512")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written; write nothing.")] = False,
    as_json: _Json = False,
) -> None:
    """Write the faces, references and splits as others read them, whole or not at all (docs/import_export.md).

    Photos whose consent says no or withdrawn are left out, with all their faces. Everything left out is counted.

    Example: likeness manifest export DATASET --format imagefolder --out FOLDER
    """
    import dataclasses

    from manifests.errors import BadInput
    from manifests.export.export_dataset import export_dataset as write
    from manifests.export.selection import ExportOptions
    from manifests.runtime.progress import show_progress

    wanted = ExportOptions(split or "all", lq_set, with_names, with_embeddings, crops)
    if shard_mib is not None:
        if format != "webdataset":
            raise BadInput(f"{format} has no shards: leave --shard-mib out.")
        wanted = dataclasses.replace(wanted, shard_bytes=shard_mib * 2**20)
    with show_progress("pictures", as_json) as progress:
        made = write(dataset, out, format, wanted, dry_run, progress)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(made), "dry_run": dry_run}, sort_keys=True))
    else:
        typer.echo(_exported(made, dry_run))


def _exported(made: ExportResult, dry_run: bool) -> str:
    targets = ", ".join(f"{n} {split}" for split, n in made.targets.items())
    size = f"{made.bytes / 2**20:.1f} MiB"
    lines = [
        f"{format_count(made.faces, 'face')} of {format_count(made.people, 'person', 'people')}; targets: {targets}"
    ]
    lines += [
        f"left out, {what}: " + ", ".join(f"{n} {reason}" for reason, n in found.items())
        for what, found in made.left_out.items()
    ]
    lines += [f"Note: {notice}" for notice in made.notices]
    if dry_run:
        lines.append(f"Would write about {size} into {made.folder}.")
    elif made.written:
        lines.append(f"{format_count(made.files, 'file')}, {size}: {made.folder}")
    return "\n".join(lines)


def report(
    dataset: _Dataset,
    run: Annotated[list[Path] | None, typer.Option(help="A training run to show; may be given again.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say where it would be written; write nothing.")] = False,
) -> None:
    """Write DATASET/report/index.html: the funnel, the people, the pairs, the degradations, the training, the figures.

    Example: likeness report DATASET --run RUN
    """
    if dry_run:
        typer.echo(f"Would write {dataset / 'report' / 'index.html'}.")
        return
    from manifests.report.build_report import build_report

    typer.echo(str(build_report(dataset, run or [])))


def _print(frame: pl.DataFrame, as_json: bool, title: str | None) -> None:
    if as_json:
        typer.echo(json.dumps(frame.rows(named=True), default=_plain))
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
    if not console.is_terminal:  # a pipe or a file has no width to fit into
        console = Console(width=max(console.measure(table, options=console.options.update(width=1_000_000)).maximum, 1))
    console.print(table)


def _plain(value: Any) -> float | str:
    """What JSON has no word for: decimals, dates, blobs."""
    return float(value) if isinstance(value, Decimal) else str(value)
