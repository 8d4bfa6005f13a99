"""The command `decide`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifests.ledger.paths import check_ledger_exists
from manifests.runtime.flags import argument, flag
from manifests.runtime.text import format_count

if TYPE_CHECKING:
    from curate.decisions.decide import Outcome
    from curate.decisions.log_entries import LogEntry


def decide(
    dataset: Annotated[Path, argument("DATASET")],
    action: Annotated[str | None, argument("ACTION")] = None,
    ids: Annotated[list[str] | None, argument("ID...")] = None,
    to: Annotated[str | None, flag("--to")] = None,
    split_from: Annotated[str | None, flag("--from", default="the person that each face belongs to now")] = None,
    name: Annotated[str | None, flag("--name")] = None,
    split: Annotated[str | None, flag("--split", "; for assign")] = None,
    reason: Annotated[str | None, flag("--reason")] = None,
    consent: Annotated[str | None, flag("--consent")] = None,
    file: Annotated[Path | None, flag("--file")] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json", "; the action `list` then prints lines that --file can read")] = False,
) -> None:
    """Record decisions about which faces show the same person. Every later run keeps the decisions.

    The newest decision about a face counts. A new decision takes back the older decisions that it contradicts, and the
    command prints their numbers.

    The people, splits and references of the dataset change immediately. The actions are:

    `merge ID ID` joins two people into one person. `split FACE...` separates the faces from their person. `move FACE...
    --to ID` moves the faces to another person. `drop FACE...` takes the faces out of use, and `--reason TEXT` records
    why. `accept FACE...` lets the next `likeness curate` use faces that a filter dropped. `likeness decide` itself
    cannot use these faces, because it loads no face models. `rename ID --name NAME` gives a person a name. `lock ID`
    keeps the faces of a person together, and no face of another person can join them. `prefer FACE` uses this face
    instead of its near-duplicates. `together ID ID` puts two people into one split without merging them. `assign ID
    --split SPLIT` puts a person into a split. `apart ID ID` says that two people are not one person. `consent ID...
    --consent VALUE` sets the consent for photos: yes, no or withdrawn. In this action, the id of a face means its
    photo, and the id of a person means all photos of the person. `undo NUMBER` takes a decision back. `list` prints all
    decisions. `likeness review` only records decisions, and `apply` updates people, splits and references by these
    decisions.

    The command `likeness manifest why DATASET PHOTO` prints the ids of the faces and people in a photo.

    The exit code is 0 if the decision is recorded. The exit code is 2, and nothing is recorded, if the decision names
    an unknown id, contradicts a label, or joins people of two frozen splits. The exit code is also 2 if an undo makes
    older decisions contradict each other, or if the decision to undo is already taken back. The exit code is 1 if the
    ledger cannot be used, for example because another command uses it.

    Example: likeness decide DATASET merge p-0a1b2c p-3d4e5f
    """
    from manifests.errors import BadInput

    owners = (
        ("--to", to, "move"),
        ("--from", split_from, "split"),
        ("--name", name, "rename"),
        ("--split", split, "assign"),
        ("--reason", reason, "drop"),
        ("--consent", consent, "consent"),
    )
    for option, value, owner in owners:
        if value is not None and action != owner:
            raise BadInput(f"Only the action {owner} takes {option}. Leave {option} out, or use the action {owner}.")
    if action is not None and file is not None:
        raise BadInput(f"The action {action} and --file {file} exclude each other. Leave out the action or --file.")
    if action is None and file is None:
        raise BadInput(
            "The command names no action. Name an action, or name a file of decisions with --file. `likeness decide "
            "--help` shows an example."
        )
    if action == "list" and (ids or dry_run):
        raise BadInput("The action `list` takes only the option --json. Leave the other arguments out.")
    if action == "apply" and ids:
        raise BadInput("The action `apply` applies all decisions, and takes no ids. Leave the ids out.")
    check_ledger_exists(dataset)
    from curate.decisions.decide import apply_decisions_of
    from curate.decisions.decide import decide as record_and_apply
    from curate.decisions.log_entries import format_entry, read_decision_file, read_log_entries
    from manifests.card import write_card
    from manifests.runtime.progress import show_progress

    if action == "list":
        for entry in read_log_entries(dataset):
            typer.echo(json.dumps(format_entry(entry)) if as_json else _describe_entry(entry))
        return
    if action == "apply":
        with show_progress("faces", as_json) as progress:
            outcome = apply_decisions_of(dataset, dry_run, progress)
    else:
        lines = (
            read_decision_file(file)
            if file is not None
            else [
                _build_line(
                    str(action),
                    ids or [],
                    to=to,
                    rest=split_from,
                    name=name,
                    split=split,
                    reason=reason,
                    consent=consent,
                )
            ]
        )
        with show_progress("faces", as_json) as progress:
            outcome = record_and_apply(dataset, lines, dry_run, progress)
    if not dry_run:
        write_card(dataset)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(outcome), "dry_run": dry_run}))
    else:
        typer.echo(_describe_outcome(outcome, dry_run))


def _build_line(action: str, ids: list[str], **options: str | None) -> dict[str, Any]:
    """Returns the request that the arguments of the command describe. A line of a decision file has the same form.

    Raises BadInput if the number of ids is wrong.
    """
    from manifests.errors import BadInput

    if action == "undo":
        if len(ids) != 1 or not ids[0].isdecimal():
            raise BadInput(
                "The action undo takes the number of one decision. `likeness decide DATASET list` prints the numbers."
            )
        return {"kind": action, "undoes": int(ids[0])}
    if action in ("merge", "together", "apart"):
        return {"kind": action, "sides": list(ids)}
    if action == "consent":
        return {"kind": action, "photos": list(ids)} | {
            key: value for key, value in options.items() if value is not None
        }
    if action in ("rename", "lock", "assign") and len(ids) != 1:
        raise BadInput(f"The action {action} takes one id, but the command has {len(ids)}. Give the id of one person.")
    return {"kind": action, "faces": list(ids)} | {key: value for key, value in options.items() if value is not None}


def _describe_outcome(outcome: Outcome, dry_run: bool) -> str:
    lines = [
        f"{'The command would record decision' if dry_run else 'Decision'} {number} ({kind}): {what}."
        for number, kind, what in outcome.decisions
    ]
    notices = [f"Note: {notice}" for notice in outcome.notices]
    if not outcome.decisions and outcome.applied:
        verb = "would apply" if dry_run else "applied"
        lines.append(f"The command {verb} {format_count(outcome.applied, 'decision')}.")
    elif not outcome.decisions and not notices:
        return "All decisions are applied already."
    if outcome.only_filters:
        return "\n".join([*lines, *notices])
    if outcome.only_names:
        verb = "would be" if dry_run else "is now"
        lines += [
            f"{person} {verb} {f'called {new}' if new else 'without a name'}{f', and not {old}' if old else ''}."
            for person, old, new in outcome.names
        ]
        return "\n".join([*lines, *([] if outcome.names else ["No person's name changes."]), *notices])
    faces = format_count(len(outcome.moves), "face")
    total = f"The dataset then has {format_count(outcome.people, 'person', 'people')}."
    lines.append(f"The person of {faces} changes. {total}" if outcome.moves else f"No face moves. {total}")
    return "\n".join([*lines, *notices])


def _describe_entry(entry: LogEntry) -> str:
    from curate.decisions.log_entries import describe_state

    decision = entry.decision
    what = format_count(sum(map(len, decision.parts)), "face")
    if decision.kind == "undo":
        what = f"takes back decision {decision.undoes}"
    elif decision.photos:
        what = format_count(len(decision.photos), "photo")
    form = " ({})" if decision.kind == "drop" else " {}"
    name = form.format(decision.name) if decision.name else ""
    state = f", {words}" if (words := describe_state(entry, "decision ")) else ""
    more = f"; and {len(entry.missing) - 3} more" if len(entry.missing) > 3 else ""
    unused = (
        f", {format_count(len(entry.missing), 'face')} not in use ({'; '.join(entry.missing[:3])}{more})"
        if entry.missing
        else ""
    )
    return f"{decision.number:4d}  {entry.time:%Y-%m-%d %H:%M}  {decision.kind}{name}, {what}{state}{unused}"
