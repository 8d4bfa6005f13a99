"""Defines the command `manifest purge`.

The command `manifest optout` also uses this file to ask the user and print results.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifests.runtime.flags import argument, flag
from manifests.runtime.text import format_count

if TYPE_CHECKING:
    from manifests.privacy.purge import PurgeResult
    from manifests.privacy.purge_plan import PurgePlan

Named = tuple[str, str]  # One thing to purge: the option, `--person` or `--photo`, and its text.


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
    cleaned. If a purge was stopped, run the same command again: it finishes the purge. The page
    docs/privacy.md lists what is deleted and what stays.

    The exit code is 0 if the purge is proved, 1 if a trace is left, and 2 if the command refuses its input.

    Example: likeness manifest purge DATASET --person p-0a1b2c --dry-run
    """
    from manifests.errors import BadInput
    from manifests.privacy.purge import read_unfinished_plan
    from manifests.privacy.purge_plan import plan_purge

    named = [*(("--person", text) for text in person or []), *(("--photo", text) for text in photo or [])]
    if not named and read_unfinished_plan(dataset) is None:
        raise BadInput("The command needs a person or a photo to purge. Give --person ID or --photo PHOTO.")

    def plan(named: Sequence[Named]) -> PurgePlan:
        texts = {option: [text for other, text in named if other == option] for option in ("--person", "--photo")}
        return plan_purge(dataset, texts["--person"], texts["--photo"], run or [])

    plan_and_purge(dataset, named, plan, run or [], dry_run, yes, as_json)


def plan_and_purge(
    dataset: Path,
    named: Sequence[Named],
    make_plan: Callable[[Sequence[Named]], PurgePlan],
    runs: Sequence[Path],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Finish an earlier purge that was stopped, then purge everything in `named`, and print both results.

    If `named` is what the earlier purge already removed, only the earlier purge is finished. `make_plan` returns the
    plan for a part of `named`.
    """
    from manifests.errors import BadInput
    from manifests.privacy.purge import read_unfinished_plan
    from manifests.privacy.purge_plan import add_runs

    unfinished, earlier = read_unfinished_plan(dataset), None
    if unfinished is not None:
        if dry_run:
            raise BadInput(f"An earlier purge of {dataset} was stopped. Finish the purge without --dry-run.")
        if not (yes or {" ".join(item) for item in named} <= set(unfinished.named)):
            check_can_ask(as_json)
        plan = add_runs(dataset, unfinished, runs)
        if not as_json:
            typer.echo("The command first finishes an earlier purge that was stopped.")
        earlier = _run_purge(dataset, plan)
        if not as_json:
            print_purge(earlier, as_json)
        new = _plan_rest(plan, named, make_plan)
    else:
        new = make_plan(named)
    if new is None:
        if as_json and earlier is not None:
            print_purge(earlier, as_json)
        return
    new = dataclasses.replace(new, named=tuple(" ".join(item) for item in named))
    if confirm_purge(new, dry_run, yes, as_json):
        print_purge(_run_purge(dataset, new), as_json, earlier)


def _plan_rest(
    earlier: PurgePlan, named: Sequence[Named], make_plan: Callable[[Sequence[Named]], PurgePlan]
) -> PurgePlan | None:
    """Returns the plan for what is left of `named` after the earlier purge, or None if nothing is left.

    The earlier purge removed people and photos that `make_plan` can no longer find, so these are left out.
    """
    from manifests.errors import BadInput

    rest = [item for item in named if " ".join(item) not in earlier.named]
    try:
        plan = make_plan(named) if named else None
    except BadInput:
        if len(rest) == len(named):
            raise
        plan = make_plan(rest) if rest else None
    return None if plan is None or not (rest or plan.photos or plan.kept_out) else plan


def _run_purge(dataset: Path, plan: PurgePlan) -> PurgeResult:
    """Purge, and turn the error of a store into a sentence that says how to finish the purge."""
    from manifests.errors import StoreFailed
    from manifests.privacy.purge import purge as delete_traces
    from manifests.stores.failures import StoreError

    try:
        return delete_traces(dataset, plan)
    except StoreError as error:
        raise StoreFailed(
            f"The purge of {dataset} is not finished, because the store failed at {error.filename}: {error.strerror}. "
            "Run the same command again to finish it. Until then, other commands refuse the dataset."
        ) from None


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
    check_can_ask(as_json)
    return typer.confirm("The deletion cannot be undone. Delete now?")


def check_can_ask(as_json: bool) -> None:
    """Raises BadInput if there is no terminal, or if the output is JSON."""
    from manifests.errors import BadInput

    if as_json or not sys.stdin.isatty():
        raise BadInput("Nothing was removed. Repeat the command with --yes to delete; a deletion cannot be undone.")


def print_purge(result: PurgeResult, as_json: bool, earlier: PurgeResult | None = None) -> None:
    """Print the number of deleted items of each kind, and the proof that nothing is left.

    As JSON, the result of an earlier purge that the same command finished gets the key `earlier`.
    """
    plan, proof = result.plan, result.proof
    if as_json:
        before = {"earlier": _to_json(earlier)} if earlier is not None else {}
        typer.echo(json.dumps(_to_json(result) | before | {"dry_run": False}))
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
        if proof.store is not None:
            typer.echo(
                f"Likeness also searched the store {proof.store}: the names of "
                f"{format_count(proof.store_files, 'file')} and the bytes of "
                f"{format_count(proof.store_texts, 'text file')}; nothing is left. Older versions, which a bucket with "
                "versioning keeps, were not searched."
            )


def _to_json(result: PurgeResult) -> dict[str, Any]:
    plan = result.plan
    facts = {"removed": dict(result.removed), "kept_out": len(plan.kept_out), "checkpoints": plan.checkpoints}
    return {**facts, "proof": dataclasses.asdict(result.proof)}
