"""Defines the command `fid-statistics`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from manifests.runtime.flags import argument, flag
from manifests.runtime.text import format_count, make_printable


def fid_statistics(
    images: Annotated[Path, argument("IMAGES")],
    out: Annotated[Path, flag("--out", ": a new file, or a file to replace", metavar="FILE.npz")],
    fid_convention: Annotated[str, flag("--fid-convention")] = "torch-fidelity",
    weights: Annotated[Path | None, flag("--weights", default="torch's cache")] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Measure the statistics of a folder of images, for the metric fid_statistics.

    The file has the mean and the covariance of the features of all images, the number of images, the convention by
    which images are resized, and the sha256 of the network's file. `likeness evaluate --fid-statistics FILE.npz`
    compares restored images with the file. pytorch-fid and clean-fid also read the file.

    Example: likeness fid-statistics FFHQ --out ffhq.npz --fid-convention pytorch-fid --weights WEIGHTS
    """
    from train.evaluation.statistics.measure_folder import list_images, write_folder_statistics
    from train.run_folders import check_output_files

    check_output_files(out)
    files = list_images(images, fid_convention)
    if dry_run:
        plan = {"images": len(files), "convention": fid_convention, "writes": str(out)}
        typer.echo(
            json.dumps(plan)
            if as_json
            else f"The command would measure {len(files)} files and write {make_printable(out)}."
        )
        return
    from manifests.runtime.progress import show_progress

    with show_progress("images", as_json) as progress:
        measured = write_folder_statistics(images, out, fid_convention, weights, progress)
    typer.echo(json.dumps(measured) if as_json else _describe(measured))


def _describe(measured: dict[str, Any]) -> str:
    sentences = [
        f"{make_printable(measured['file'])} has the statistics of {format_count(measured['images'], 'image')}, by the "
        f"convention {measured['convention']}."
    ]
    if measured["gray_images"]:
        gray = format_count(measured["gray_images"], "gray image")
        sentences.append(f"Among them: {gray}, which FID counts like the others.")
    if len(measured["sizes"]) > 1:
        sizes = ", ".join(f"{count} of {size} px" for size, count in measured["sizes"].items())
        sentences.append(
            f"The images have several sizes: {sizes if len(measured['sizes']) <= 5 else 'more than five'}."
        )
    return " ".join(sentences)
