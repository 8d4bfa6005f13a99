"""Defines the command `restore`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.ledger.paths import MAX_SEED
from manifests.runtime.flags import argument, flag
from manifests.runtime.text import format_count, make_printable
from train.models.config import MOST_FACES, MOST_STEPS

if TYPE_CHECKING:
    from train.restore.decisions.outcomes import PhotoOutcome

_MODELS, _PAGE = "Models", "Page"


def restore(
    photos: Annotated[list[Path], argument("PHOTOS...")],
    run: Annotated[
        Path,
        flag(
            "--run",
            ", or of one checkpoint; onnx:FOLDER names the files of `likeness export`; osdface:FOLDER, "
            "refinefir:FOLDER and instantrestore:FOLDER name released weights of others",
        ),
    ],
    out: Annotated[Path, flag("--out", "; the command writes each restored photo into this folder", metavar="FOLDER")],
    reference: Annotated[list[Path] | None, flag("--reference", default="none", repeat=True)] = None,
    strength: Annotated[float, flag("--strength", low=0, high=1)] = 1.0,
    always: Annotated[bool, flag("--always")] = False,
    trust_references: Annotated[bool, flag("--trust-references")] = False,
    lossless: Annotated[bool, flag("--lossless")] = False,
    aligned: Annotated[bool, flag("--aligned")] = False,
    box: Annotated[str | None, flag("--box", default="none")] = None,
    steps: Annotated[
        int,
        flag("--steps", low=1, high=MOST_STEPS, panel=_MODELS),
    ] = 1,
    seed: Annotated[
        int | None,
        flag(
            "--seed",
            "; only a denoiser and `instantrestore:` draw noise",
            low=0,
            high=MAX_SEED,
            default="0",
            panel=_MODELS,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        flag(
            "--batch",
            "; the command halves this number if the memory is too small",
            low=1,
            high=MOST_FACES,
            default="from the free memory, at most 8 on a CPU and 32 on a GPU",
            panel=_MODELS,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        flag(
            "--precision",
            ": fp32 or bf16",
            default="bf16 where it is faster and safe (docs/train.md), else fp32",
            panel=_MODELS,
        ),
    ] = None,
    faces: Annotated[str | None, flag("--faces", default="as in training", panel=_MODELS)] = None,
    base_model: Annotated[str | None, flag("--base-model", default="as in training", panel=_MODELS)] = None,
    weights: Annotated[Path | None, flag("--weights", default="torch's cache", panel=_MODELS)] = None,
    engine: Annotated[str, flag("--engine", ": local, or ray for a Ray cluster (docs/scale.md)")] = "local",
    address: Annotated[str | None, flag("--address", default="none")] = None,
    page: Annotated[
        Path | None, flag("--page", "; the page shows each face, its references and its restoration", panel=_PAGE)
    ] = None,
    page_data: Annotated[
        Path | None, flag("--page-data", "; the report shows all JSON files in the folder RUN/restored", panel=_PAGE)
    ] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json", "; the JSON has a row for each photo")] = False,
) -> None:
    """Restore the faces in photos of any size, guided by reference photos of the same person.

    The command decides for each face whether to restore the face, and prints the decision. A face is kept unchanged if
    the face is already sharp, or if the restored face is worse than the face in the photo. Each face gets only
    references that seem to show the same person. If the only face of a photo is too degraded to be recognized, the face
    can still get the references. The command then prints the reason.

    Exit codes: 0 if a photo was restored or kept as it is, 1 if every photo failed or shows no face.

    Example: likeness restore old.jpg --reference her1.jpg --reference her2.jpg --run dataset/run --out restored
    """
    from manifests.runtime.cluster.connection import choose_engine
    from train.models.released import PREFIXES
    from train.restore.output_paths import plan_outputs
    from train.restore.outputs.log import select_earlier_entries
    from train.restore.restorers.exported.manifest import ONNX
    from train.run_folders import check_output_files

    cluster = choose_engine(engine, address)  # before the slow imports
    check_output_files(page, page_data)
    corners = _parse_box(box)
    plan, unreadable = plan_outputs(photos, out)
    if dry_run:
        select_earlier_entries(out, plan, None)
        outputs = [(one.photo, one.png if aligned else one.expect(lossless)) for one in plan]
        _print_plan(outputs, unreadable, as_json)
        return
    if not str(run).startswith((ONNX, *PREFIXES)):
        from train.models.checkpoint_files import find_newest_checkpoint

        find_newest_checkpoint(run)  # a wrong folder gives an error at once, before the slow import of torch
    from manifests.runtime.progress import show_progress
    from train.restore.restore_photos import restore as restore_photos

    sheet, notices = None, list[str]()
    if page is not None or page_data is not None:
        from train.restore.outputs.contact_sheet import ContactSheet, render_sheet  # imports torch, for the metrics

        sheet = ContactSheet()
    with show_progress("photos", as_json) as progress:
        rows = restore_photos(
            photos,
            reference or [],
            run,
            out,
            base_model=base_model,
            faces=faces,
            steps=steps,
            seed=seed,
            aligned=aligned,
            box=corners,
            strength=strength,
            always=always,
            trust_references=trust_references,
            lossless=lossless,
            batch=batch,
            precision=precision,
            progress=progress,
            say=notices.append,
            on_face=None if sheet is None else sheet.add,
            limited=True,
            cluster=cluster,
        )
    if sheet is not None:
        from train.run_folders import write_output_text

        facts = sheet.build(f"{run}", rows, weights)
        if page is not None:
            write_output_text(page, render_sheet(facts))
        if page_data is not None:
            write_output_text(page_data, json.dumps(facts))
    for notice in notices:
        typer.echo(notice, err=True)
    _print_rows(rows, out, as_json)
    if not any(row.output is not None for row in rows):
        raise typer.Exit(1)


def _print_plan(plan: list[tuple[Path, Path]], unreadable: list[tuple[Path, str]], as_json: bool) -> None:
    if as_json:
        rows = [{"photo": str(photo), "output": str(target)} for photo, target in plan]
        typer.echo(json.dumps([*rows, *({"photo": str(folder), "reason": reason} for folder, reason in unreadable)]))
        return
    for photo, target in plan:
        typer.echo(make_printable(f"Would restore {photo} into {target}."))
    for folder, reason in unreadable:
        typer.echo(make_printable(f"{folder}: {reason}"))


def _print_rows(rows: list[PhotoOutcome], out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
        return
    for row in rows:
        if row.reason is not None:
            typer.echo(make_printable(f"{row.photo}: {row.reason}"))
        for face in row.faces:
            typer.echo(make_printable(f"{row.photo}: {face.sentence}"))
    restored = [row for row in rows if row.status == "ok"]
    faces = format_count(sum(face.restored for row in restored for face in row.faces), "face")
    photos = f"{len(restored)} of {format_count(len(rows), 'photo')}"
    kept = sum(not face.restored for row in rows for face in row.faces)
    others = f" {format_count(kept, 'face')} {'was' if kept == 1 else 'were'} kept unchanged." if kept else ""
    typer.echo(f"The command restored {faces} in {photos} into {make_printable(out)}.{others}")


def _parse_box(text: str | None) -> tuple[float, float, float, float] | None:
    """Returns the corners (x0, y0, x1, y1) of a box in pixels. Raises BadInput if the text is not four numbers."""
    from manifests.errors import BadInput

    if text is None:
        return None
    try:
        x0, y0, x1, y1 = (float(edge) for edge in text.split(","))
    except ValueError:
        raise BadInput(f"--box {text} is not four numbers: give pixels x0,y0,x1,y1 like 120,80,260,240.") from None
    return x0, y0, x1, y1
