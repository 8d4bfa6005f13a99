"""Defines the command `manifest export`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.ledger.paths import check_ledger_exists
from manifests.runtime.flags import argument, flag
from manifests.runtime.text import format_count

if TYPE_CHECKING:
    from manifests.export.export_dataset import ExportResult


def export(
    dataset: Annotated[Path, argument("DATASET")],
    format: Annotated[
        str,
        flag(
            "--format",
            ": refldm, dmdnet (also for ASFFNet), faceme, instantrestore, celebref, imagefolder, webdataset, lmdb or "
            "ffhq-zip",
        ),
    ],
    out: Annotated[Path, flag("--out", ": a new or empty folder outside the dataset", metavar="FOLDER")],
    split: Annotated[str | None, flag("--split", default="all three")] = None,
    lq_set: Annotated[str | None, flag("--set", ", to export its LQ images too", default="none")] = None,
    with_names: Annotated[bool, flag("--with-names", " (imagefolder, webdataset)")] = False,
    with_embeddings: Annotated[bool, flag("--with-embeddings", " (faceme, imagefolder, webdataset)")] = False,
    crops: Annotated[str, flag("--crops")] = "original",
    shard_mib: Annotated[int | None, flag("--shard-mib", " (webdataset)", low=1, default="512")] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Write the faces, references and splits in a format of other projects (docs/import_export.md).

    A photo whose consent is no or withdrawn is left out with all its faces. The command prints how many items it leaves
    out, and why. FOLDER appears only when the export is complete.

    Example: likeness manifest export DATASET --format imagefolder --out FOLDER
    """
    check_ledger_exists(dataset)
    from manifests.errors import BadInput
    from manifests.export.export_dataset import export_dataset
    from manifests.export.selection import ExportOptions
    from manifests.runtime.progress import show_progress

    options = ExportOptions(split or "all", lq_set, with_names, with_embeddings, crops)
    if shard_mib is not None:
        if format != "webdataset":
            raise BadInput(f"The format {format} has no shards. Leave --shard-mib out.")
        options = dataclasses.replace(options, shard_bytes=shard_mib * 2**20)
    with show_progress("images", as_json) as progress:
        result = export_dataset(dataset, out, format, options, dry_run, progress)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(result), "dry_run": dry_run}, sort_keys=True))
    else:
        typer.echo(_describe_export(result, dry_run))


def _describe_export(result: ExportResult, dry_run: bool) -> str:
    targets = ", ".join(f"{count} {split}" for split, count in result.targets.items())
    faces, people = format_count(result.faces, "face"), format_count(result.people, "person", "people")
    size = f"{result.bytes / 2**20:.1f} MiB"
    lines = [f"{faces} of {people}; targets: {targets}"]
    for kind, counts in result.left_out.items():
        lines.append(f"left out, {kind}: " + ", ".join(f"{count} {reason}" for reason, count in counts.items()))
    lines += [f"Note: {notice}" for notice in result.notices]
    if dry_run:
        lines.append(f"The command would write about {size} into {result.folder}.")
    elif result.written:
        lines.append(f"{format_count(result.files, 'file')}, {size}: {result.folder}")
    return "\n".join(lines)
