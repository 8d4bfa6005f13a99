"""Defines the command `export`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.runtime.flags import flag
from manifests.runtime.text import make_printable

if TYPE_CHECKING:
    from train.export.export_onnx import Exported
    from train.export.export_pretrained import ExportedFolder

FORMATS = ("onnx", "pretrained")


def export(
    run: Annotated[Path, flag("--run", ", or of one checkpoint; osdface:FOLDER names the released weights of OSDFace")],
    out: Annotated[Path, flag("--out", ": a new or an empty folder", metavar="FOLDER")],
    format: Annotated[str, flag("--format", ": onnx or pretrained")] = "onnx",
    precision: Annotated[
        str, flag("--precision", ": fp32, fp16 or int8, only for onnx; the files compute in fp32 in any case")
    ] = "fp32",
    base_model: Annotated[str | None, flag("--base-model", default="as in training")] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Write a restorer as ONNX files, or as a folder to share.

    --format onnx: `likeness restore --run onnx:FOLDER` restores without torch. The command compares the files with
    torch on several numbers of faces and references, and prints the largest difference of a pixel value, where pixel
    values are from 0 to 1. FOLDER appears only if the difference is at most 0.001. With --precision fp16 or int8, the
    files are smaller, and any difference is allowed. Restorers of the recipes tiny, osdface and refine-unet can be
    exported.

    --format pretrained: FOLDER has the weights, a diffusion base in the layout of diffusers, and a model card. The
    command `likeness restore --run FOLDER` restores with these files on any machine. Every restorer that Likeness
    trained can be exported.

    Example: likeness export --run dataset/run --format onnx --out restorer
    """
    from manifests.errors import BadInput
    from train.models.released import PREFIXES
    from train.restore.restorers.exported.manifest import ONNX

    if format not in FORMATS:
        raise BadInput(f"There is no format {format}: give --format {' or '.join(FORMATS)}.")
    if str(run).startswith(ONNX):
        raise BadInput(f"{run} is exported already: give the folder of the run.")
    if format == "pretrained":
        if str(run).startswith(PREFIXES):
            raise BadInput(f"{run} names weights that others released: share the files of their authors instead.")
        if precision != "fp32":
            raise BadInput(f"--precision {precision} is for --format onnx: leave --precision out.")
    if not str(run).startswith(PREFIXES):
        from train.models.checkpoint_files import find_newest_checkpoint

        find_newest_checkpoint(run)  # a wrong folder gives an error at once, before the slow import of torch
    from train.export.export_onnx import check_export_folder, export_onnx, list_files
    from train.export.export_pretrained import export_pretrained, list_pretrained_files

    check_export_folder(out)
    if dry_run:
        files = list_files(run, base_model) if format == "onnx" else list_pretrained_files(run, base_model)
        if as_json:
            typer.echo(json.dumps({"folder": str(out), "files": files}))
        else:
            typer.echo(f"The command would write {', '.join(files)} into {make_printable(out)}.")
        return
    if format == "pretrained":
        written = export_pretrained(run, out, base_model)
        typer.echo(json.dumps(dataclasses.asdict(written)) if as_json else _describe_folder(written))
        return
    exported = export_onnx(run, out, base_model, precision)
    typer.echo(json.dumps(dataclasses.asdict(exported)) if as_json else _describe(exported))


def _describe_folder(written: ExportedFolder) -> str:
    return (
        f"The command wrote {', '.join(written.files)} into {make_printable(written.folder)} "
        f"({written.bytes / 2**20:.1f} MiB). Read README.md before you share the folder, and state a licence there."
    )


def _describe(exported: Exported) -> str:
    faces, references = (sorted({numbers[place] for numbers in exported.checks}) for place in (0, 1))
    compared = f"{' or '.join(map(str, faces))} faces with {references[0]}"
    compared += f" to {references[-1]} references" if len(references) > 1 else " references"
    return "\n".join(
        [
            f"The command wrote {', '.join(exported.files)} into {make_printable(exported.folder)} "
            f"({exported.bytes / 2**20:.1f} MiB, {exported.precision}, opset {exported.opset}).",
            f"The largest difference to torch is {exported.difference:.1e} in pixel values from 0 to 1, or "
            f"{255 * exported.difference:.3f} levels of 255 ({compared}).",
        ]
    )
