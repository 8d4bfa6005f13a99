"""The commands of this folder: curate, decide, optout. likeness.py mounts it and turns errors into a sentence."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifests.runtime.text import format_count

if TYPE_CHECKING:
    from curate.decisions.decide import LogEntry, Outcome
    from curate.photos.optout_faces import OptoutResult
    from curate.summary import Summary

PHOTOS_HELP = "Photos, folders of photos, and archives of photos: zip, tar, tar.gz, tar.bz2, tar.xz."
FACES_HELP = "auto, dlib, or insightface:<pack name or folder>. A dataset keeps the recognizer it began with."
FILTERS_HELP = "Which faces are dropped: default, strict, or a TOML file of SQL predicates (docs/curate.md)."
SPLIT_HELP = "identity: no identity, as grouped, on two sides. photos: for a collection of one person."
PAIRS_HELP = (
    "Which references a target keeps, in which order: random, nearest, affine-nearest (by landmarks), diverse "
    "(cover the person), hard-pose (other poses first), window (ReF-LDM's distances, for ArcFace) or window:LOW-HIGH."
)


def curate(
    photos: Annotated[list[Path], typer.Argument(help=PHOTOS_HELP, metavar="PHOTOS...")],
    out: Annotated[Path, typer.Option(help="The dataset's folder; made where it does not exist.", metavar="DATASET")],
    faces: Annotated[str, typer.Option(help=FACES_HELP)] = "auto",
    split_by: Annotated[str, typer.Option(help=SPLIT_HELP)] = "identity",
    pairs: Annotated[str, typer.Option(help=PAIRS_HELP)] = "random",
    min_photos: Annotated[int, typer.Option(help="Photos of a person below which its faces are no targets.")] = 2,
    min_references: Annotated[int, typer.Option(help="Usable references below which a face is no target.")] = 1,
    max_references: Annotated[int, typer.Option(help="References kept a target; training draws from them.")] = 16,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Who is in a photo: folder (its folder's name) or FILE.csv (columns photo, label) as truth for its "
            "largest face; hint or hint:FILE.csv only reports where the grouping disagrees.",
            show_default="none",
        ),
    ] = None,
    sidecar: Annotated[
        Path | None,
        typer.Option(
            help="Source, licence and consent (yes, no, withdrawn) of photos: a CSV with the columns file (a path "
            "below PHOTOS, or a sha256), source, licence, consent. Kept for later runs.",
            metavar="FILE.csv",
            show_default="what was told before",
        ),
    ] = None,
    require_consent: Annotated[
        bool, typer.Option("--require-consent", help="Drop photos of which no sidecar says that there is consent.")
    ] = False,
    landmarks: Annotated[str | None, typer.Option(help="dlib: also record 68 landmarks.", show_default="none")] = None,
    filters: Annotated[str, typer.Option(help=FILTERS_HELP, metavar="SET|FILE")] = "default",
    min_inter_ocular: Annotated[
        float | None,
        typer.Option(help="Drop faces with fewer pixels between the eyes.", show_default="the filters' own"),
    ] = None,
    same_person: Annotated[
        float | None,
        typer.Option(
            help="Merge two groups from this mean cosine on (average linkage), instead of the calibrated grouping.",
            show_default="found in the collection; dlib .925",
        ),
    ] = None,
    one_person_may_appear_twice: Annotated[
        bool, typer.Option("--collages", help="Let two faces of one photo be the same person.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes; the result does not depend on it.", show_default="all cores")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be looked at; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> None:
    """Find the faces, group them into people, pair them and split them, with a row for every file offered.

    The same command again resumes, and looks only at what is new.

    Example: likeness curate ~/Photos --out dataset
    """
    from curate.check_options import check_number, check_options
    from curate.config import CurateConfig, GroupRules, PairRules, SplitRules
    from curate.detection.filter_files import load_filters, set_min_inter_ocular
    from curate.pipeline import curate as run
    from manifests.runtime.progress import show_progress
    from manifests.runtime.workers import count_cores

    check_number("--min-inter-ocular", min_inter_ocular, 0, float("inf"), "pixels,")
    screen = load_filters(filters)
    if min_inter_ocular is not None:
        screen = set_min_inter_ocular(screen, min_inter_ocular)
    config = CurateConfig(
        faces=faces,
        landmarks=landmarks,
        labels=labels,
        sidecar=None if sidecar is None else str(sidecar),
        require_consent=require_consent,
        screen=screen,
        group=GroupRules(same_person=same_person, one_person_may_appear_twice=one_person_may_appear_twice),
        split=SplitRules(policy=split_by),
        pairs=PairRules(pairs, min_photos, min_references, max_references),
    )
    processes = count_cores() if workers is None else workers
    check_options(photos, out, config, processes)
    if dry_run:
        _say_would(photos, out, as_json)
        return
    with show_progress("items", as_json) as progress:
        summary = run(photos, out, config, processes, progress)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(summary), sort_keys=True))
        return
    typer.echo(told(summary))
    typer.echo(f"Next: {_next(summary, out)}")


def optout(
    dataset: Annotated[Path, typer.Argument(help="The folder of a dataset.", metavar="DATASET")],
    photo: Annotated[
        list[str] | None,
        typer.Option(help="A photo: its file, or the sha256 of its bytes; may be given again.", metavar="FILE|SHA256"),
    ] = None,
    photo_list: Annotated[Path | None, typer.Option(help="Such photos, one a line.", metavar="FILE")] = None,
    face: Annotated[
        list[Path] | None,
        typer.Option(help="A photo that shows the person alone; may be given again.", metavar="IMAGE"),
    ] = None,
    remember_face: Annotated[
        bool,
        typer.Option(
            "--remember-face",
            help="Keep the embeddings of --face, so that later photos are compared: that is biometric data.",
        ),
    ] = False,
    run: Annotated[
        list[Path] | None, typer.Option(help="A training run outside DATASET to clean too; may be given again.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; it cannot be undone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Keep photos and faces out, from now on and at every stage; what is in the dataset of them goes.

    A photo is remembered as an HMAC under the dataset's own key. A face is looked for once, or, with --remember-face,
    in every later photo too. docs/privacy.md says what each stage does.

    Exit codes: 0 done, 1 something is left, 2 refused.

    Example: likeness manifest optout DATASET --photo IMG_0042.jpg --dry-run
    """
    from curate.photos.optout_faces import opt_out_faces
    from manifests.cli import confirmed, say_purged
    from manifests.errors import BadInput
    from manifests.privacy.optout import plan_optout, read_photo_list
    from manifests.privacy.purge import purge

    told = [*(photo or []), *(read_photo_list(photo_list) if photo_list is not None else [])]
    if not told and not face:
        raise BadInput("Say who opts out: --photo, --photo-list or --face.")
    if remember_face and not face:
        raise BadInput("--remember-face belongs to --face.")
    if told and face:
        raise BadInput("Photos and faces are two commands: say --photo and --photo-list, or --face.")
    if told:
        plan = plan_optout(dataset, told, run or [])
        if confirmed(plan, dry_run, yes, as_json):
            say_purged(purge(dataset, plan), as_json)
        return
    found = opt_out_faces(dataset, face or [], remember_face, dry_run=True)
    if not as_json:
        _say_opted_out(found, True)
    if not dry_run and found.faces and not yes:
        if as_json or not sys.stdin.isatty():
            raise BadInput("Nothing was removed: it cannot be undone, so say --yes.")
        if not typer.confirm("This cannot be undone. Go on?"):
            return
    if not dry_run:
        found = opt_out_faces(dataset, face or [], remember_face, run or [])
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(found), "dry_run": dry_run}))
    elif not dry_run:
        _say_opted_out(found, False)


def _say_opted_out(found: OptoutResult, would: bool) -> None:
    rate = "" if found.false_match_rate is None else f", which {found.false_match_rate:.2g} of strangers' pairs reach"
    whose = f"{format_count(len(found.faces), 'face')} of {format_count(found.people, 'person', 'people')}"
    typer.echo(
        f"{'To drop' if would else 'Dropped'}: {whose}, as alike as "
        f"{found.threshold:.3g}{rate}; {format_count(found.remembered, 'example')} "
        f"{'to be ' if would else ''}remembered."
    )
    for checkpoint in found.checkpoints:
        typer.echo(f"Trained on them, and weights cannot be cleaned, train anew: {checkpoint}")


def decide(
    dataset: Annotated[Path, typer.Argument(help="The folder of a dataset.", metavar="DATASET")],
    action: Annotated[
        str | None,
        typer.Argument(help="merge, split, move, drop, rename, lock, undo, or list.", metavar="ACTION"),
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Argument(help="Identity or face ids, or their first six characters; for undo a number.", metavar="ID..."),
    ] = None,
    to: Annotated[str | None, typer.Option(help="move: the person, an identity or a face id.", metavar="ID")] = None,
    not_in: Annotated[
        str | None,
        typer.Option("--from", help="split: from whom.", metavar="ID", show_default="the identity each face is in"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="rename: the person's name.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Decisions as JSON lines, all or none (docs/curate.md).", metavar="FILE")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; write nothing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else; of list, the lines that --file takes.")
    ] = False,
) -> None:
    """Say who is who; every later run keeps it. People, splits and pairs follow at once.

    merge ID ID: one person. split FACE...: not the person they are with. move FACE... --to ID: that person. drop
    FACE...: not to be used. rename ID --name NAME. lock ID: its faces stay together and nobody who was somebody else
    joins. undo NUMBER: takes a decision back. list: all of them. Faces and identities: likeness manifest why DATASET
    PHOTO.

    Exit codes: 0 decided, 2 refused (a contradiction, an unknown id), with nothing recorded; 1 the ledger failed.

    Example: likeness decide DATASET merge p-0a1b2c p-3d4e5f
    """
    from curate.decisions.decide import decide as make
    from curate.decisions.decide import format_entry, read_decision_file, read_log_entries
    from manifests.card import write_card
    from manifests.errors import BadInput
    from manifests.runtime.progress import show_progress

    for option, value, belongs in (("--to", to, "move"), ("--from", not_in, "split"), ("--name", name, "rename")):
        if value is not None and action != belongs:
            raise BadInput(f"{option} belongs to {belongs}.")
    if action is not None and file is not None:
        raise BadInput(f"--file {file} holds whole decisions: say {action} alone, or the file alone.")
    if action is None and file is None:
        raise BadInput("Say what to decide, or name a --file of decisions: likeness decide --help has an example.")
    if action == "list":
        if ids or dry_run:
            raise BadInput("list takes nothing more than --json.")
        for entry in read_log_entries(dataset):
            typer.echo(json.dumps(format_entry(entry)) if as_json else _listed(entry))
        return
    wanted = read_decision_file(file) if file is not None else [_wanted(str(action), ids or [], to, not_in, name)]
    with show_progress("faces", as_json) as progress:
        made = make(dataset, wanted, dry_run, progress)
    if not dry_run:
        write_card(dataset)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(made), "dry_run": dry_run}))
    else:
        typer.echo(_said(made, dry_run))


def _wanted(action: str, ids: list[str], to: str | None, not_in: str | None, name: str | None) -> dict[str, Any]:
    """The words of the command line as a line of the decisions file."""
    from manifests.errors import BadInput

    if action == "undo":
        if len(ids) != 1 or not ids[0].isdecimal():
            raise BadInput("undo takes the number of one decision; `likeness decide DATASET list` shows them.")
        return {"kind": action, "undoes": int(ids[0])}
    if action == "merge":
        return {"kind": action, "sides": list(ids)}
    if action in ("rename", "lock") and len(ids) != 1:
        raise BadInput(f"{action} takes one identity.")
    given = {"to": to, "rest": not_in, "name": name}
    return {"kind": action, "faces": list(ids)} | {key: value for key, value in given.items() if value is not None}


def _said(made: Outcome, dry_run: bool) -> str:
    lines = [f"{'Would be d' if dry_run else 'D'}ecision {n}, {kind}: {said}." for n, kind, said in made.decisions]
    people = len({person for face in made.moved for person in face[1:] if person})
    faces, whose = format_count(len(made.moved), "face"), format_count(people, "person", "people")
    there = "is 1 person" if made.people == 1 else f"are {made.people} people"
    changes = "changes" if len(made.moved) == 1 else "change"
    lines.append(
        f"{faces} of {whose} {changes}; there {there} then." if made.moved else f"Nobody moves; there {there}."
    )
    return "\n".join([*lines, *(f"Note: {notice}" for notice in made.notices)])


def _listed(entry: LogEntry) -> str:
    act = entry.act
    count = sum(map(len, act.parts))
    what = f"takes back {act.undoes}" if act.kind == "undo" else format_count(count, "face")
    named = f" {act.name}" if act.name else ""
    state = "" if entry.undone_by is None else f", undone by {entry.undone_by}"
    more = f"; and {len(entry.missing) - 3} more" if len(entry.missing) > 3 else ""
    gone = f", {len(entry.missing)} not in use ({'; '.join(entry.missing[:3])}{more})" if entry.missing else ""
    return f"{act.number:4d}  {entry.made:%Y-%m-%d %H:%M}  {act.kind}{named}, {what}{state}{gone}"


def told(summary: Summary) -> str:
    """The summary in a few lines."""

    def counts(found: dict[str, int]) -> str:
        first_ok = sorted(found.items(), key=lambda item: (item[0] != "ok", -item[1]))
        return ", ".join(f"{n} {what}" for what, n in first_ok) or "none"

    aside = (
        f"; {format_count(summary.set_aside, 'face')} set aside, their photo spans splits" if summary.set_aside else ""
    )
    unpaired = f"; no targets: {counts(summary.unpaired)}" if summary.unpaired else ""
    lines = [
        f"files    {counts(summary.files)}",
        f"photos   {counts(summary.photos)}",
        f"faces    {counts(summary.faces)}",
        f"people   {summary.identities} with two photos or more (largest {summary.largest}), {summary.alone} with one",
        f"targets  {counts(summary.pairs)}{unpaired}{aside}",
        f"models   {summary.faces_from}, same person from a cosine of {summary.threshold:.3g}, which "
        f"{summary.false_match_rate:.2g} of strangers' pairs reach",
    ]
    return "\n".join([*lines, *(f"Note: {notice}" for notice in summary.notices)])


def _next(summary: Summary, out: Path) -> str:
    """What can be done with what there is."""
    if not summary.files.get("ok"):
        return "name a folder that holds photos."
    if not summary.identities:
        return f"likeness manifest show {out} says what became of the photos."
    train = f", likeness train {out} --out RUN" if summary.pairs.get("train") else ""
    return f"likeness manifest show {out}, likeness report {out}{train}"


def _say_would(photos: list[Path], out: Path, as_json: bool) -> None:
    from curate.photos.walk import walk_files
    from manifests.ledger.records import File

    found = list(walk_files(photos))
    refused = sum(isinstance(item, File) for item in found)
    if as_json:
        typer.echo(json.dumps({"files": len(found) - refused, "not_walked": refused, "dataset": str(out)}))
        return
    typer.echo(f"Would look at {len(found) - refused} files ({refused} cannot be walked) and write {out}.")
