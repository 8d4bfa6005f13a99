"""The command `manifest import`, which makes a dataset from published lists."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from curate.cli import ONE_RECOGNIZER, WINDOW, describe_summary
from manifests.runtime.flags import argument, flag


def import_lists(
    source: Annotated[Path, argument("SOURCE")],
    format: Annotated[str, flag("--format", ": labelled-folder (CelebRef-HQ) or refldm (FFHQ-Ref)")],
    out: Annotated[Path, flag("--out", ": the folder of a new or an existing dataset", metavar="DATASET")],
    originals: Annotated[
        Path | None, flag("--originals", " to which the names in refldm lists are relative", default="beside the lists")
    ] = None,
    split_lists: Annotated[
        Path | None,
        flag(
            "--split-lists",
            "; each line of a file names an image or a person",
            default="id_based_ffhq_split for refldm",
        ),
    ] = None,
    faces: Annotated[str, flag("--faces", ONE_RECOGNIZER)] = "auto",
    landmarks: Annotated[str | None, flag("--landmarks", default="none")] = None,
    filters: Annotated[str, flag("--filters")] = "default",
    pairs: Annotated[str, flag("--pairs", f"{WINDOW}; references that the lists name are used instead")] = "random",
    workers: Annotated[int | None, flag("--workers", default="all cores")] = None,
    device: Annotated[str, flag("--device")] = "auto",
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Make a dataset from published lists, with the people, references and splits of the lists.

    Later runs of curate keep the people, references and splits of the lists. The faces are detected and aligned again.
    The page docs/import_export.md says how the new alignment changes images that are aligned already.

    Example: likeness manifest import FFHQ-Ref --format refldm --originals images1024x1024 --out DATASET
    """
    from curate.config import CurateConfig, PairRules
    from curate.detection.filter_files import load_filters
    from curate.imports.lists import read_lists
    from curate.run.check_options import check_dataset_folder, check_options
    from manifests.runtime.workers import count_cores

    config = CurateConfig(faces=faces, landmarks=landmarks, screen=load_filters(filters), pairs=PairRules(pairs))
    processes = count_cores() if workers is None else workers
    check_options([], out, config, processes, device)
    lists = read_lists(source, format, originals, split_lists)
    check_dataset_folder([source], out)
    if dry_run:
        counts = {
            "photos": len(lists.photos),
            "labels": len(set(lists.labels.values())),
            "targets": len(lists.references),
            "in_a_split": len(lists.splits),
            "missing": lists.missing,
            "notices": lists.notices,
        }
        if as_json:
            typer.echo(json.dumps(counts))
            return
        typer.echo(
            f"The command would import {counts['photos']} images and labels of {counts['labels']} people into {out}. "
            f"Of the images, {counts['targets']} are targets with references, and "
            f"{counts['in_a_split']} are in a split."
        )
        for notice in lists.notices:
            typer.echo(f"Note: {notice}")
        return
    from curate.run.pipeline import curate
    from manifests.runtime.progress import show_progress

    with show_progress("items", as_json) as progress:
        summary = curate(lists.photos, out, config, processes, progress, lists, device)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(summary), "missing": lists.missing}, sort_keys=True))
        return
    typer.echo(describe_summary(summary, out))
    name = shlex.quote(str(out))
    typer.echo(f"Next: likeness manifest show {name}, likeness manifest check {name}")
