"""The command `manifest import`: published lists become a dataset. likeness.py mounts it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from curate.cli import FACES_HELP, FILTERS_HELP, PAIRS_HELP, told


def import_lists(
    source: Annotated[
        Path, typer.Argument(help="A folder with a folder a person; FFHQ-Ref's folder, or one CSV.", metavar="SOURCE")
    ],
    format: Annotated[str, typer.Option(help="labelled-folder (CelebRef-HQ) or refldm.", metavar="FORMAT")],
    out: Annotated[Path, typer.Option(help="The dataset's folder; made where it does not exist.", metavar="DATASET")],
    pictures: Annotated[
        Path | None,
        typer.Option(help="refldm: the folder that the names lie below.", show_default="beside the lists"),
    ] = None,
    split_lists: Annotated[
        Path | None,
        typer.Option(
            help="Folder with train_image.txt, val_image.txt, test_image.txt: a picture a line, or a person's folder.",
            show_default="refldm: id_based_ffhq_split",
        ),
    ] = None,
    faces: Annotated[str, typer.Option(help=FACES_HELP)] = "auto",
    landmarks: Annotated[str | None, typer.Option(help="dlib: also record 68 landmarks.", show_default="none")] = None,
    filters: Annotated[str, typer.Option(help=FILTERS_HELP, metavar="SET|FILE")] = "default",
    pairs: Annotated[str, typer.Option(help=f"For pictures that no list names references of. {PAIRS_HELP}")] = "random",
    workers: Annotated[
        int | None, typer.Option(help="Processes; the result does not depend on it.", show_default="all cores")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the lists, say what they hold; write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Make a dataset of published lists: curate, with people, references and splits as the lists have them.

    They hold on every later run of curate. Faces are found and aligned anew; docs/import_export.md says what that means
    for pictures that are aligned already.

    Example: likeness manifest import FFHQ-Ref --format refldm --pictures images1024x1024 --out DATASET
    """
    from curate.check_options import check_dataset_folder, check_options
    from curate.config import CurateConfig, PairRules
    from curate.detection.filter_files import load_filters
    from curate.imports.lists import read_lists
    from curate.pipeline import curate
    from manifests.runtime.progress import show_progress
    from manifests.runtime.workers import count_cores

    config = CurateConfig(faces=faces, landmarks=landmarks, screen=load_filters(filters), pairs=PairRules(pairs))
    processes = count_cores() if workers is None else workers
    check_options([], out, config, processes)
    lists = read_lists(source, format, pictures, split_lists)
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
            f"Would import {counts['photos']} pictures of {counts['labels']} people, {counts['targets']} targets with "
            f"references, {counts['in_a_split']} pictures in a split, into {out}."
        )
        for notice in lists.notices:
            typer.echo(f"Note: {notice}")
        return
    with show_progress("items", as_json) as progress:
        summary = curate(lists.photos, out, config, processes, progress, lists)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(summary), "missing": lists.missing}, sort_keys=True))
        return
    typer.echo(told(summary))
    typer.echo(f"Next: likeness manifest show {out}, likeness manifest check {out}")
