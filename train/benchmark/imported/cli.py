"""Defines the command `import-benchmark`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from manifests.runtime.flags import argument, flag
from manifests.runtime.text import format_count


def import_benchmark(
    published: Annotated[Path, argument("PUBLISHED")],
    layout: Annotated[str, flag("--layout")],
    out: Annotated[Path, flag("--out", "; to resume, run the same command with the same folder", metavar="BENCH")],
    with_images: Annotated[
        bool, flag("--with-images", ", byte for byte; then the benchmark needs no other folder")
    ] = False,
    workers: Annotated[int | None, flag("--workers", default="all cores")] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Make a benchmark from a test set that others published, without a change to its files.

    The benchmark has the hashes of all files, the origin and the licence of the set, and a list of its problems.
    `likeness evaluate PUBLISHED --benchmark BENCH` measures restorers on the set. docs/benchmarks.md lists the layouts.

    Example: likeness import-benchmark DMDNet --layout dmdnet --out BENCH

    Example: likeness import-benchmark photos --layout my-layout.toml --out BENCH --with-images
    """
    from manifests.runtime.progress import show_progress
    from manifests.runtime.workers import count_cores
    from train.benchmark.imported.import_benchmark import import_benchmark as write_benchmark
    from train.benchmark.imported.layouts import find_layout
    from train.benchmark.imported.match_files import PROBLEMS

    processes = count_cores() if workers is None else workers
    with show_progress("pictures", as_json) as progress:
        summary = write_benchmark(published, layout, out, with_images, dry_run, processes, progress)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(summary)))
        return
    people = "" if summary.people is None else f" of {format_count(summary.people, 'person', 'people')}"
    typer.echo(
        f"{'Would import' if dry_run else 'Imported'} {summary.cases} of {format_count(summary.lq_images, 'LQ image')}"
        f"{people} at {summary.size} px, {'with' if summary.targets else 'without'} targets, "
        f"{summary.cases_with_references} of them with references."
    )
    for kind, count in summary.problems.items():
        typer.echo(f"{PROBLEMS[kind]}: {count}")
    description = find_layout(layout)[1]
    typer.echo(f"origin: {description.origin or 'not given'}\nlicence: {description.licence or 'not given'}")
    if not dry_run:
        state = f"{summary.written} files written" if summary.written else "no file changed"
        typer.echo(f"{summary.folder} ({state})\nbenchmark {summary.benchmark}")
        place = f"{out}" if summary.images else f"{published} --benchmark {out}"
        typer.echo(f"Next: likeness evaluate {place} --run RUN")
