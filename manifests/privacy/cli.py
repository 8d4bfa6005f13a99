"""Defines the command `manifest purge`.

The command `manifest optout` also uses this file to ask the user and print results.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.runtime.flags import argument, flag
from manifests.runtime.text import format_count

if TYPE_CHECKING:
    from manifests.privacy.purge import PurgeResult
    from manifests.privacy.purge_plan import PurgePlan


def purge(
    dataset: Annotated[Path, argument("DATASET")],
    person: Annotated[list[str] | None, flag("--person", repeat=True)] = None,
    photo: Annotated[list[str] | None, flag("--photo", repeat=True)] = None,
    run: Annotated[
        list[Path] | None, flag("--run", ", or of a benchmark; the command cleans this folder too", repeat=True)
    ] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    yes: Annotated[bool, flag("--yes")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Delete all data of a person or photo, prove that nothing is left, and keep the photos out of the dataset.

    If a photo shows the person, all data of the whole photo is deleted. The file of the photo itself is never changed.
    The command prints the checkpoints that were trained on the photos, because the weights of a model cannot be
    cleaned. To finish an interrupted purge, run the command again without --person and --photo. The page
    docs/privacy.md lists what is deleted and what stays.

    The exit code is 0 if the purge is proved, 1 if a trace is left, and 2 if the command refuses its input.

    Example: likeness manifest purge DATASET --person p-0a1b2c --dry-run
    """
    from manifests.errors import BadInput
    from manifests.privacy.purge import purge as delete_traces
    from manifests.privacy.purge import read_unfinished_plan
    from manifests.privacy.purge_plan import plan_purge

    unfinished = read_unfinished_plan(dataset)
    if unfinished is None and not (person or photo):
        raise BadInput("The command needs a person or a photo to purge. Give --person ID or --photo PHOTO.")
    if unfinished is not None:
        if dry_run:
            raise BadInput(f"An earlier purge of {dataset} was interrupted. Finish the purge without --dry-run.")
        if not as_json:
            typer.echo("The command now finishes an earlier purge that was interrupted.")
        print_purge(delete_traces(dataset, unfinished), as_json)
        if person or photo:
            typer.echo(
                "This run only finished the earlier purge. Run the command again to purge the new people and photos.",
                err=True,
            )
        return
    plan = plan_purge(dataset, person or [], photo or [], run or [])
    if confirm_purge(plan, dry_run, yes, as_json):
        print_purge(delete_traces(dataset, plan), as_json)


def confirm_purge(plan: PurgePlan, dry_run: bool, yes: bool, as_json: bool) -> bool:
    """Print the plan, and return whether the command may delete the data.

    Returns True with --yes, or if the user agrees on a terminal. Raises BadInput if the command cannot ask the user.
    """
    if as_json and dry_run:
        typer.echo(json.dumps({**dataclasses.asdict(plan), "traces": None, "dry_run": True}))
        return False
    if not as_json:
        photos, faces = format_count(len(plan.photos), "photo"), format_count(len(plan.faces), "face")
        images = format_count(plan.lq_images, "LQ image")
        typer.echo(f"The command {'would' if dry_run else 'will'} remove {photos} with {faces}, and {images}.")
        if plan.other_faces:
            others = format_count(plan.other_faces, "face")
            typer.echo(f"The plan includes {others} of other people in the same photos.")
        if plan.kept_out:
            new_photos = format_count(len(plan.kept_out), "photo")
            typer.echo(f"Likeness will keep out {new_photos} that the dataset does not contain.")
        for checkpoint in plan.checkpoints:
            typer.echo(f"The checkpoint {checkpoint} was trained on these photos, and its weights cannot be cleaned.")
    if dry_run or yes or not plan.photos:
        return not dry_run
    return ask_before_deletion(as_json)


def ask_before_deletion(as_json: bool) -> bool:
    """Asks the user on a terminal, and returns whether the command may delete the data.

    Raises BadInput if there is no terminal, or if the output is JSON.
    """
    from manifests.errors import BadInput

    if as_json or not sys.stdin.isatty():
        raise BadInput("Nothing was removed. Repeat the command with --yes to delete; a deletion cannot be undone.")
    return typer.confirm("The deletion cannot be undone. Delete now?")


def print_purge(result: PurgeResult, as_json: bool) -> None:
    """Print the number of deleted items of each kind, and the proof that nothing is left."""
    plan, proof = result.plan, result.proof
    if as_json:
        facts = {"removed": dict(result.removed), "kept_out": len(plan.kept_out), "checkpoints": plan.checkpoints}
        typer.echo(json.dumps({**facts, "proof": dataclasses.asdict(proof), "dry_run": False}))
        return
    removed = ", ".join(f"{count} {kind}" for kind, count in result.removed.items())
    typer.echo(f"Removed: {removed or 'nothing, because there was nothing to remove.'}")
    if plan.kept_out:
        typer.echo(f"Kept out: {format_count(len(plan.kept_out), 'photo')} that the dataset does not contain.")
    for checkpoint in plan.checkpoints:
        typer.echo(
            f"The checkpoint {checkpoint} was trained on these photos, and its weights cannot be cleaned. Train again."
        )
    for file in proof.own_files:
        typer.echo(f"Your own photo is still in the folder of the dataset. Delete this photo yourself: {file}")
    if plan.photos:
        traces = ", ".join(
            (
                format_count(len(plan.photos), "photo hash", "photo hashes"),
                format_count(len(plan.faces), "face id"),
                format_count(len(plan.traces.images), "image"),
                format_count(len(plan.traces.embeddings), "embedding"),
                format_count(len(plan.traces.uris), "file name"),
            )
        )
        typer.echo(
            f"Proof: Likeness looked for {traces} in {proof.files} files ({proof.bytes / 1e6:.1f} MB) and in "
            f"{proof.rows} rows of the ledger; nothing is left."
        )
