"""The command of this folder: curate. likeness.py mounts it and turns errors into a sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from curate.pipeline import Summary

FACES_HELP = "auto, dlib, or insightface:<pack name or folder>. A dataset keeps the recognizer it began with."
SPLIT_HELP = "identity: no identity, as grouped, on two sides. photos: for a collection of one person."
PAIRS_HELP = (
    "Which references a target keeps, in which order: random, nearest, affine-nearest (by landmarks), diverse "
    "(cover the person), hard-pose (other poses first), window (ReF-LDM's distances, for ArcFace) or window:LOW-HIGH."
)


def curate(
    photos: Annotated[list[Path], typer.Argument(help="Photos and folders of photos.", metavar="PHOTOS...")],
    into: Annotated[Path, typer.Option(help="The dataset's folder; made where it does not exist.", metavar="DATASET")],
    faces: Annotated[str, typer.Option(help=FACES_HELP)] = "auto",
    split: Annotated[str, typer.Option(help=SPLIT_HELP)] = "identity",
    pairs: Annotated[str, typer.Option(help=PAIRS_HELP)] = "random",
    min_photos: Annotated[int, typer.Option(help="Photos of a person below which its faces are no targets.")] = 2,
    min_references: Annotated[int, typer.Option(help="Usable references below which a face is no target.")] = 1,
    max_references: Annotated[int, typer.Option(help="References kept a target; training draws from them.")] = 16,
    landmarks: Annotated[str | None, typer.Option(help="dlib: also record 68 landmarks.", show_default="none")] = None,
    min_inter_ocular: Annotated[
        float | None, typer.Option(help="Drop faces with fewer pixels between the eyes.", show_default="16")
    ] = None,
    same_person: Annotated[
        float | None,
        typer.Option(help="Mean cosine that makes two groups one person.", show_default="the recognizer's"),
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

    Example: likeness curate ~/Photos --into dataset
    """
    from curate.config import CurateConfig, GroupRules, PairRules, ScreenRules, SplitRules
    from curate.options import check_number, check_options
    from curate.pipeline import curate as run
    from manifests.progress import progress
    from manifests.workers import default_workers

    check_number("--min-inter-ocular", min_inter_ocular, 0, float("inf"), "pixels,")
    screen = ScreenRules() if min_inter_ocular is None else ScreenRules(min_inter_ocular_px=min_inter_ocular)
    config = CurateConfig(
        faces=faces,
        landmarks=landmarks,
        screen=screen,
        group=GroupRules(same_person=same_person, one_person_may_appear_twice=one_person_may_appear_twice),
        split=SplitRules(policy=split),
        pairs=PairRules(pairs, min_photos, min_references, max_references),
    )
    processes = default_workers() if workers is None else workers
    check_options(photos, into, config, processes)
    if dry_run:
        _say_would(photos, into, as_json)
        return
    with progress("items", as_json) as report:
        summary = run(photos, into, config, processes, report)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(summary), sort_keys=True))
        return
    typer.echo(told(summary))
    typer.echo(f"Next: {_next(summary, into)}")


def told(summary: Summary) -> str:
    """The summary in a few lines."""

    def counts(found: dict[str, int]) -> str:
        first_ok = sorted(found.items(), key=lambda item: (item[0] != "ok", -item[1]))
        return ", ".join(f"{n} {what}" for what, n in first_ok) or "none"

    aside = f"; {summary.set_aside} faces set aside, their photo spans splits" if summary.set_aside else ""
    unpaired = f"; no targets: {counts(summary.unpaired)}" if summary.unpaired else ""
    lines = [
        f"files    {counts(summary.files)}",
        f"photos   {counts(summary.photos)}",
        f"faces    {counts(summary.faces)}",
        f"people   {summary.identities} with two photos or more (largest {summary.largest}), {summary.alone} with one",
        f"targets  {counts(summary.pairs)}{unpaired}{aside}",
        f"models   {summary.faces_from}, same person from a mean cosine of {summary.threshold:g}",
    ]
    return "\n".join([*lines, *(f"Note: {notice}" for notice in summary.notices)])


def _next(summary: Summary, into: Path) -> str:
    """What can be done with what there is."""
    if not summary.files.get("ok"):
        return "name a folder that holds photos."
    if not summary.identities:
        return f"likeness manifest show {into} says what became of the photos."
    train = f", likeness train {into} --out RUN" if summary.pairs.get("train") else ""
    return f"likeness manifest show {into}, likeness report {into}{train}"


def _say_would(photos: list[Path], into: Path, as_json: bool) -> None:
    from curate.scan import offered
    from manifests.records import File

    found = list(offered(photos))
    refused = sum(isinstance(item, File) for item in found)
    if as_json:
        typer.echo(json.dumps({"files": len(found) - refused, "not_walked": refused, "into": str(into)}))
        return
    typer.echo(f"Would look at {len(found) - refused} files ({refused} cannot be walked) and write {into}.")
