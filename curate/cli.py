"""The commands `curate` and `manifest optout`.

This module also describes the result of a curation for other commands.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.runtime.flags import argument, flag
from manifests.runtime.text import format_count
from manifests.stores.store_path import parse_path

if TYPE_CHECKING:
    from curate.photos.name_rules import NameRules
    from curate.photos.optout_faces import OptoutResult
    from curate.run.summary import Summary

# Help texts that `curate` and `run` share. `manifest import` also uses ONE_RECOGNIZER and WINDOW.
ARCHIVES = (
    ", and zip or tar archives; also s3://, gs://, hf://, https:// and lists of addresses (docs/object_stores.md)"
)
ONE_RECOGNIZER = "; a dataset keeps the recognizer of its first run"
WINDOW = ", or window:LOW-HIGH with your own distances"
_FILES, _FACES, _PEOPLE, _CONSENT = "Files", "Faces", "People, splits and references", "Consent"


def curate(
    photos: Annotated[list[Path], argument("PHOTOS...", ARCHIVES, parser=parse_path)],
    out: Annotated[Path, flag("--out", ": the folder of a new or existing dataset", metavar="DATASET")],
    exclude: Annotated[
        list[str] | None, flag("--exclude", ", such as '*_edited.jpg'", repeat=True, panel=_FILES)
    ] = None,
    include: Annotated[list[str] | None, flag("--include", repeat=True, panel=_FILES)] = None,
    reread: Annotated[bool, flag("--reread", panel=_FILES)] = False,
    faces: Annotated[str, flag("--faces", ONE_RECOGNIZER, panel=_FACES)] = "auto",
    landmarks: Annotated[str | None, flag("--landmarks", default="none", panel=_FACES)] = None,
    filters: Annotated[str, flag("--filters", panel=_FACES)] = "default",
    min_inter_ocular: Annotated[
        float | None, flag("--min-inter-ocular", default="the number in --filters", panel=_FACES)
    ] = None,
    min_face: Annotated[
        float | None, flag("--min-face", default="16, or --min-inter-ocular if it is smaller", panel=_FACES)
    ] = None,
    labels: Annotated[str | None, flag("--labels", default="none", panel=_PEOPLE)] = None,
    same_person: Annotated[
        float | None, flag("--same-person", default="estimated from the photos; .925 for dlib", panel=_PEOPLE)
    ] = None,
    one_person_may_appear_twice: Annotated[bool, flag("--collages", panel=_PEOPLE)] = False,
    regroup: Annotated[bool, flag("--regroup", panel=_PEOPLE)] = False,
    memory: Annotated[str | None, flag("--memory", default="3/4 of the machine's memory", panel=_PEOPLE)] = None,
    split_by: Annotated[str, flag("--split-by", panel=_PEOPLE)] = "identity",
    pairs: Annotated[str, flag("--pairs", WINDOW, panel=_PEOPLE)] = "random",
    min_photos: Annotated[int, flag("--min-photos", panel=_PEOPLE)] = 2,
    min_references: Annotated[int, flag("--min-references", panel=_PEOPLE)] = 1,
    max_references: Annotated[
        int, flag("--max-references", "; training draws some of these references", panel=_PEOPLE)
    ] = 16,
    sidecar: Annotated[
        Path | None, flag("--sidecar", "; later runs remember its values", default="none", panel=_CONSENT)
    ] = None,
    require_consent: Annotated[bool, flag("--require-consent", panel=_CONSENT)] = False,
    allow_unmatched: Annotated[bool, flag("--allow-unmatched", panel=_CONSENT)] = False,
    store: Annotated[Path | None, flag("--store", default="none", parser=parse_path)] = None,
    workers: Annotated[int | None, flag("--workers", default="all cores")] = None,
    device: Annotated[str, flag("--device")] = "auto",
    engine: Annotated[str, flag("--engine", ": local, or ray for a Ray cluster (docs/scale.md)")] = "local",
    address: Annotated[str | None, flag("--address", default="none")] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Find the faces in photos, group them into people, divide the people into splits, and choose references.

    The ledger of the dataset gets a row for every file. If you repeat the command, it continues an interrupted run, and
    reads only new and changed files.

    Example: likeness curate ~/Photos --out dataset
    """
    from curate.photos.walk import check_photo_paths

    check_photo_paths(photos)  # a wrong path is reported before the slow imports of duckdb and OpenCV
    from manifests.runtime.cluster.connection import choose_engine

    cluster = choose_engine(engine, address, workers)  # also before the slow imports
    from curate.config import CurateConfig, GroupRules, PairRules, SplitRules
    from curate.detection.filter_files import load_filters, set_min_inter_ocular
    from curate.photos.name_rules import NameRules
    from curate.run.check_options import check_number, check_options
    from manifests.runtime.text import parse_size
    from manifests.runtime.workers import count_cores

    check_number("--min-inter-ocular", min_inter_ocular, 0, float("inf"), "a number of pixels")
    check_number("--min-face", min_face, 4, float("inf"), "a number of pixels")
    screen = load_filters(filters)
    if min_inter_ocular is not None:
        screen = set_min_inter_ocular(screen, min_inter_ocular)
    config = CurateConfig(
        faces=faces,
        landmarks=landmarks,
        min_face=min_face,
        labels=labels,
        sidecar=None if sidecar is None else str(sidecar),
        require_consent=require_consent,
        allow_unmatched=allow_unmatched,
        exclude=tuple(exclude or ()),
        include=tuple(include or ()),
        reread=reread,
        regroup=regroup,
        memory=None if memory is None else parse_size("--memory", memory),
        screen=screen,
        group=GroupRules(same_person=same_person, one_person_may_appear_twice=one_person_may_appear_twice),
        split=SplitRules(policy=split_by),
        pairs=PairRules(pairs, min_photos, min_references, max_references),
    )
    processes = count_cores() if workers is None else workers
    check_options(photos, out, config, processes, device, store)
    if dry_run:
        _print_plan(photos, out, NameRules(config.exclude, config.include), as_json)
        return
    from curate.run.pipeline import curate as curate_photos
    from manifests.runtime.progress import show_progress

    with show_progress("items", as_json) as progress:
        summary = curate_photos(photos, out, config, processes, progress, device=device, store=store, cluster=cluster)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(summary), sort_keys=True))
        return
    typer.echo(describe_summary(summary, out))
    typer.echo(f"Next: {_suggest_next(summary, out)}")


def describe_summary(summary: Summary, dataset: Path) -> str:
    """Returns the counts and the notices of a curation as text.

    The first lines of the text count the files, the photos, the faces and the people.
    """

    def format_counts(counts: dict[str, int]) -> str:
        ok_first = sorted(counts.items(), key=lambda item: (item[0] != "ok", -item[1]))
        return ", ".join(f"{count} {kind}" for kind, count in ok_first) or "none"

    unpaired = f"; no targets: {format_counts(summary.unpaired)}" if summary.unpaired else ""
    shown = "its photo shows" if summary.set_aside == 1 else "their photos show"
    set_aside = (
        f"; {format_count(summary.set_aside, 'face')} set aside, because {shown} people of several splits"
        if summary.set_aside
        else ""
    )
    lines = [
        f"files    {format_counts(summary.files)}",
        f"photos   {format_counts(summary.photos)}",
        f"faces    {format_counts(summary.faces)}",
        f"people   {summary.identities} with two photos or more, {summary.alone} with one; "
        f"at most {format_count(summary.largest, 'photo')} of one person",
        f"targets  {format_counts(summary.pairs)}{unpaired}{set_aside}",
        f"filters  targets that each set of filters would keep: "
        f"{', '.join(f'{name} {count}' for name, count in summary.rungs.items())}",
        f"leaks    {_describe_leaking(summary, dataset)}",
        f"models   {summary.faces_from}{_describe_devices(summary.devices)}; two faces with a cosine of "
        f"{summary.threshold:.3g} or more are one person; a share of {summary.false_match_rate:.2g} of the pairs of "
        "strangers also reaches this cosine",
    ]
    return "\n".join([*lines, *(f"Note: {notice}" for notice in summary.notices)])


def _describe_devices(devices: dict[str, int]) -> str:
    """Returns the devices that computed the embeddings. Several devices are listed with their numbers of faces."""
    if len(devices) < 2:
        return "".join(f" on the device {device}" for device in devices)
    return " on " + ", ".join(f"{device} ({format_count(count, 'face')})" for device, count in devices.items())


def _describe_leaking(summary: Summary, dataset: Path) -> str:
    """Returns for each split the share of its faces that leak to another split."""
    shares = [
        f"{count / total:.2%} of {name} ({count} of {format_count(total, 'face')})"
        for name, (count, total) in summary.leaking.items()
        if count
    ]
    if not shares:
        return "none"
    command = f"likeness leaks {shlex.quote(str(dataset))}"
    return f"{', '.join(shares)}: `{command}` lists the leaks, and its option --repair ends them"


def _suggest_next(summary: Summary, dataset: Path) -> str:
    """Returns the next step for the user: the commands to run after this curation."""
    name = shlex.quote(str(dataset))
    if not summary.files.get("ok"):
        return "name a folder that contains photos."
    if not summary.identities:
        return (
            f"run `likeness manifest show {name}`. The reasons that it prints say why no person has two usable photos."
        )
    train = f", likeness train {name} --out RUN" if summary.pairs.get("train") else ""
    return f"likeness manifest show {name}, likeness report {name}{train}"


def _print_plan(photos: list[Path], dataset: Path, rules: NameRules, as_json: bool) -> None:
    from curate.photos.walk import walk_files
    from manifests.ledger.records import File

    items = list(walk_files(photos, rules=rules))
    skipped = sum(isinstance(item, File) for item in items)
    files = len(items) - skipped
    if as_json:
        typer.echo(json.dumps({"files": files, "not_walked": skipped, "dataset": str(dataset)}))
        return
    typer.echo(
        f"The command would read {format_count(files, 'file')}, skip {format_count(skipped, 'path')}, "
        f"and write {dataset}."
    )


def optout(
    dataset: Annotated[Path, argument("DATASET")],
    photo: Annotated[list[str] | None, flag("--photo", repeat=True)] = None,
    photo_list: Annotated[Path | None, flag("--photo-list", default="none")] = None,
    face: Annotated[list[Path] | None, flag("--face", repeat=True)] = None,
    remember_face: Annotated[bool, flag("--remember-face")] = False,
    run: Annotated[
        list[Path] | None,
        flag("--run", " outside the dataset, in which the photos or faces are erased too", repeat=True),
    ] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    yes: Annotated[bool, flag("--yes")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Keep photos or faces out of a dataset, now and in every later run. Delete everything that was made from these
    photos or faces.

    The dataset remembers a photo by an HMAC that is computed with the dataset's own key. The option --face takes an
    image of one face. This face is compared with the faces that are in the dataset now. With --remember-face, this face
    is also compared with the faces of later photos. docs/privacy.md describes each step of an opt-out.

    Exit codes: 0 if everything was deleted, 1 if something is left, 2 if the command refuses.

    Example: likeness manifest optout DATASET --photo IMG_0042.jpg --dry-run
    """
    from manifests.errors import BadInput
    from manifests.privacy.optout import plan_optout, read_photo_list

    photos = [*(photo or []), *(read_photo_list(photo_list) if photo_list is not None else [])]
    if not photos and not face:
        raise BadInput("Name the photos or faces to keep out with --photo, --photo-list or --face.")
    if remember_face and not face:
        raise BadInput("--remember-face needs --face. Name a photo of the person.")
    if photos and face:
        raise BadInput(
            "One command opts out either photos or faces. Leave out --face, or leave out --photo and --photo-list."
        )
    if not photos:
        _opt_out_faces(dataset, face or [], remember_face, run or [], dry_run, yes, as_json)
        return
    from curate.photos.read_files import read_photo_row
    from manifests.privacy.cli import Named, plan_and_purge
    from manifests.privacy.purge_plan import PurgePlan

    def plan(named: Sequence[Named]) -> PurgePlan:
        return plan_optout(dataset, [text for _, text in named], run or [], read_photo_row)

    plan_and_purge(dataset, [("--photo", text) for text in photos], plan, run or [], dry_run, yes, as_json)


def _opt_out_faces(
    dataset: Path, faces: list[Path], remember: bool, runs: list[Path], dry_run: bool, yes: bool, as_json: bool
) -> None:
    from curate.photos.optout_faces import opt_out_faces
    from manifests.privacy.cli import ask_before_deletion

    plan = opt_out_faces(dataset, faces, remember, dry_run=True)
    if not as_json:
        _print_optout(plan, True)
    if dry_run:
        if as_json:
            typer.echo(json.dumps({**dataclasses.asdict(plan), "dry_run": True}))
        return
    if plan.faces and not yes and not ask_before_deletion(as_json):
        return
    result = opt_out_faces(dataset, faces, remember, runs)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(result), "dry_run": False}))
    else:
        _print_optout(result, False)


def _print_optout(result: OptoutResult, is_plan: bool) -> None:
    rate = result.false_match_rate
    strangers = "" if rate is None else f" A share of {rate:.2g} of the pairs of strangers also reaches this cosine."
    faces, people = format_count(len(result.faces), "face"), format_count(result.people, "person", "people")
    examples = format_count(result.remembered, "example")
    typer.echo(
        f"{'To drop' if is_plan else 'Dropped'}: {faces} of {people}, with a cosine of {result.threshold:.3g} or more "
        f"to an example.{strangers} {'To remember' if is_plan else 'Remembered'} for later photos: {examples}."
    )
    for checkpoint in result.checkpoints:
        typer.echo(
            f"The checkpoint {checkpoint} was trained on these faces, and its weights cannot be cleaned. Train again."
        )
