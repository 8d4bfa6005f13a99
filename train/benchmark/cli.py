"""The commands of benchmarks: freeze, leaks. likeness.py mounts them and turns errors into a sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.ledger.paths import MAX_SEED
from manifests.runtime.text import format_count

if TYPE_CHECKING:
    from train.benchmark.leaks import Leaks


def freeze(
    dataset: Annotated[Path, typer.Argument(help="A dataset with a frozen set.", metavar="DATASET")],
    out: Annotated[Path, typer.Option(help="The benchmark's folder; made where it does not exist.", metavar="BENCH")],
    lq_set: Annotated[
        str | None, typer.Option("--set", help="Name of the frozen set.", show_default="the only one of the split")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    max_references: Annotated[int, typer.Option(help="At most so many references a target.", min=1)] = 4,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Draws the references.")] = 0,
    with_pictures: Annotated[bool, typer.Option("--with-pictures", help="Copy crops and LQ pictures too.")] = False,
    with_embeddings: Annotated[
        bool,
        typer.Option(
            "--with-embeddings",
            help="With --with-pictures: the crops' embeddings too, biometric data; then no dataset is needed.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all and say what would be; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON and nothing else.")] = False,
) -> None:
    """Freeze a test set with its references as a benchmark: plain JSON by content hash, the same for the same photos.

    Refused where a target or its near-duplicate is among its references, and over any other sure leak. The same command
    again resumes.

    Example: likeness freeze DATASET --out BENCH

    Example: likeness freeze DATASET --out BENCH --set gfpgan-test-512-s0 --with-pictures --with-embeddings
    """
    from manifests.runtime.progress import show_progress
    from train.benchmark.freeze import freeze as frozen

    with show_progress("items", as_json) as progress:
        made = frozen(
            dataset, out, lq_set, split, max_references, seed, with_pictures, with_embeddings, dry_run, progress
        )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(made)))
        return
    people = format_count(made.people, "person", "people")
    what = f"{made.cases} of {made.images_in_set} images of {made.lq_set}, {people}"
    if dry_run:
        typer.echo(f"Would freeze {what}, in {made.folder}.")
    else:
        state = f"{made.written} files written" if made.written else "it was there"
        typer.echo(f"{what}, frozen in {made.folder} ({state}).\nbenchmark {made.benchmark}")
    if made.cosines:
        typer.echo(
            f"{made.cosines} pairs of faces in two splits look like one person's: see `likeness leaks {dataset}`."
        )


def leaks(
    dataset: Annotated[Path, typer.Argument(help="A dataset, or a benchmark of freeze.", metavar="DATASET|BENCH")],
    benchmark: Annotated[
        Path | None,
        typer.Option(
            help="Check this benchmark, with the embeddings of DATASET, which holds its photos.", metavar="BENCH"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Leaks of each kind to list; the totals count all.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures as JSON and nothing else.")] = False,
) -> None:
    """Look for leaks: no identity, photo, near-duplicate or too alike faces across splits, no target among references.

    Compares every face with every face of the other splits. Exits with 1 where something leaks, and says what could not
    be checked.

    Example: likeness leaks DATASET

    Example: likeness leaks DATASET --benchmark BENCH
    """
    from manifests.errors import BadInput
    from manifests.runtime.progress import show_progress
    from train.benchmark.frozen_benchmark import is_benchmark
    from train.benchmark.leaks import find_benchmark_leaks, find_dataset_leaks

    if benchmark is not None and not is_benchmark(benchmark):
        raise BadInput(f"--benchmark {benchmark} is not a benchmark: name a folder that `likeness freeze` wrote.")
    if benchmark is not None and is_benchmark(dataset):
        raise BadInput(f"{dataset} is a benchmark itself: name a dataset before --benchmark.")
    with show_progress("steps", as_json) as progress:
        if benchmark is not None:
            found = find_benchmark_leaks(benchmark, dataset, limit, progress)
        elif is_benchmark(dataset):
            found = find_benchmark_leaks(dataset, None, limit, progress)
        else:
            found = find_dataset_leaks(dataset, limit, progress)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        _print(found)
    if found.total:
        raise typer.Exit(1)


def _print(found: Leaks) -> None:
    from train.benchmark.leaks import KINDS

    for kind in KINDS:
        listed = [leak for leak in found.examples if leak.kind == kind]
        for leak in listed:
            value = "" if leak.value is None else f"  cosine {leak.value:.4f}"
            ends = f"{leak.one} ({leak.one_split})  {leak.other} ({leak.other_split})"
            typer.echo(f"{kind}  {ends}{value}  {leak.what}")
        if more := found.counts[kind] - len(listed):
            typer.echo(f"{kind}  and {more} more: say --limit {found.counts[kind]}")
    typer.echo(", ".join(f"{count} {kind}" for kind, count in found.counts.items()) + ".")
    if found.alike_pairs or found.expected_pairs:
        typer.echo(
            f"{found.alike_pairs} pairs across splits reach the cosine of one person; of strangers alone "
            f"{found.expected_pairs:g} are expected to. Listed as leaks are those that the people's other photos "
            "bear out."
        )
    for sentence in found.unchecked:
        typer.echo(f"Not checked: {sentence}")
    looked = f"{found.faces} faces, {found.pairs} pairs across splits, the references of {found.targets} targets"
    typer.echo(f"{'Leaks were' if found.total else 'No leak was'} found among {looked}.")
