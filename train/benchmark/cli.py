"""Defines the commands `freeze` and `leaks`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.ledger.paths import MAX_SEED, check_ledger_exists
from manifests.runtime.flags import argument, flag
from manifests.runtime.text import format_count

if TYPE_CHECKING:
    from curate.people.leaks.find_leaks import Leaks


def freeze(
    dataset: Annotated[Path, argument("DATASET", "; the dataset needs a frozen set")],
    out: Annotated[Path, flag("--out", "; to resume, run the same command with the same folder", metavar="BENCH")],
    lq_set: Annotated[str | None, flag("--set", default="the only set of the split")] = None,
    split: Annotated[str, flag("--split")] = "test",
    max_references: Annotated[int, flag("--max-references", low=1)] = 4,
    seed: Annotated[int, flag("--seed", "; the references are drawn at random", low=0, high=MAX_SEED)] = 0,
    with_images: Annotated[bool, flag("--with-images")] = False,
    with_embeddings: Annotated[
        bool, flag("--with-embeddings", "; a benchmark with images and embeddings can be used without the dataset")
    ] = False,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Write a frozen set and its references as a benchmark.

    A benchmark is plain JSON. Everyone who has the same photos gets the same benchmark. The command writes no benchmark
    if the references of a target contain the target or a near-duplicate of the target, or if a person or a photo is in
    two splits.

    Example: likeness freeze DATASET --out BENCH

    Example: likeness freeze DATASET --out BENCH --set gfpgan-test-512-s0 --with-images --with-embeddings
    """
    check_ledger_exists(dataset)
    from manifests.runtime.progress import show_progress
    from train.benchmark.freeze import freeze as write_benchmark

    with show_progress("items", as_json) as progress:
        summary = write_benchmark(
            dataset, out, lq_set, split, max_references, seed, with_images, with_embeddings, dry_run, progress
        )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(summary)))
        return
    people = format_count(summary.people, "person", "people")
    what = f"{summary.cases} of {summary.images_in_set} images of {summary.lq_set}, {people}"
    if dry_run:
        typer.echo(f"Would freeze {what} in {summary.folder}.")
    else:
        state = f"{summary.written} files written" if summary.written else "no file changed"
        typer.echo(
            f"The benchmark in {summary.folder} has {what} ({state}).\nbenchmark {summary.benchmark}\n"
            f"short name {summary.name}"
        )
    if summary.cosines:
        typer.echo(
            f"{summary.cosines} pairs of faces from two splits look like one person: list these pairs with `likeness "
            f"leaks {dataset}`."
        )


def leaks(
    dataset: Annotated[Path, argument("DATASET|BENCH")],
    benchmark: Annotated[
        Path | None,
        flag("--benchmark", "; the embeddings of the dataset are used to check the benchmark", default="none"),
    ] = None,
    limit: Annotated[int, flag("--limit", low=0)] = 20,
    repair: Annotated[
        bool, flag("--repair", "; a decision puts people who look alike into one split, or drops a face")
    ] = False,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Look for leaks: a person, a photo or near-duplicates in two splits, or a target among its own references.

    The command compares every face with every face of the other splits. The command also prints which checks were not
    possible.

    With --repair, the command records decisions that end the leaks. docs/benchmarks.md explains these decisions.
    `likeness decide DATASET list` shows the decisions, and `likeness decide DATASET undo NUMBER` takes a decision back.

    Exit codes: 0 if there is no leak, 1 if there is a leak. With --repair, the exit code is 1 if leaks are left.

    Example: likeness leaks DATASET

    Example: likeness leaks DATASET --repair

    Example: likeness leaks DATASET --benchmark BENCH
    """
    from manifests.errors import BadInput

    for folder in (dataset, benchmark):
        if folder is not None and not folder.is_dir():
            raise BadInput(f"{folder} is not a folder. Give a dataset or a benchmark.")
    from train.benchmark.imported.imported_benchmark import is_imported

    for folder in (dataset, benchmark):
        if folder is not None and is_imported(folder):
            raise BadInput(
                f"{folder} is an imported benchmark. Its files have no splits and no face ids, so `likeness leaks` "
                "cannot check it. Give a dataset, or a benchmark that `likeness freeze` wrote."
            )
    from curate.people.leaks.audit import audit_dataset
    from manifests.runtime.progress import show_progress
    from train.benchmark.frozen_benchmark import is_benchmark
    from train.benchmark.leaks import find_benchmark_leaks

    if benchmark is not None and not is_benchmark(benchmark):
        raise BadInput(f"--benchmark {benchmark} is not a benchmark. Give a folder that `likeness freeze` wrote.")
    if benchmark is not None and is_benchmark(dataset):
        raise BadInput(f"{dataset} is a benchmark itself. With --benchmark, give a dataset as the first argument.")
    if repair and (benchmark is not None or is_benchmark(dataset)):
        raise BadInput("--repair changes a dataset, not a benchmark. Give a dataset, and leave --benchmark out.")
    if dry_run and not repair:
        raise BadInput("--dry-run works only with --repair. Leave --dry-run out, or give --repair.")
    if repair:
        _repair(dataset, dry_run, as_json)
        return
    with show_progress("steps", as_json) as progress:
        if benchmark is not None:
            result = find_benchmark_leaks(benchmark, dataset, limit, progress)
        elif is_benchmark(dataset):
            result = find_benchmark_leaks(dataset, None, limit, progress)
        else:
            result = audit_dataset(dataset, limit, progress)
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        _print_leaks(result)
    if result.total:
        raise typer.Exit(1)


def _repair(dataset: Path, dry_run: bool, as_json: bool) -> None:
    from curate.decisions.repair_leaks import repair_leaks
    from manifests.card import write_card
    from manifests.runtime.progress import show_progress

    with show_progress("steps", as_json) as progress:
        result = repair_leaks(dataset, dry_run, progress)
    if not dry_run:
        write_card(dataset)
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(result), "dry_run": dry_run}))
    else:
        would, is_ = ("Would put", "Would drop") if dry_run else ("Put", "Dropped")
        for large, small in result.together:
            typer.echo(f"{would} {small} into the split of {large}. {small} and {large} stay different people.")
        for face in result.dropped:
            typer.echo(f"{is_} face {face}.")
        if not dry_run:
            share = (result.targets_moved + result.targets_lost) / max(result.targets, 1)
            typer.echo(
                f"Leaks before: {result.leaks_before}. Leaks now: {result.leaks_after}. Of {result.targets} targets, "
                f"{result.targets_moved} moved to another split and {result.targets_lost} are no longer targets "
                f"({share:.2%})."
            )
            if result.decisions:
                typer.echo(f"The decisions have the numbers {_list_numbers(result.decisions)}.")
    if result.leaks_after:
        raise typer.Exit(1)


def _print_leaks(result: Leaks) -> None:
    from curate.people.leaks.find_leaks import KINDS

    for kind in KINDS:
        examples = [leak for leak in result.examples if leak.kind == kind]
        for leak in examples:
            value = "" if leak.value is None else f"  cosine {leak.value:.4f}"
            ends = f"{leak.one} ({leak.one_split})  {leak.other} ({leak.other_split})"
            typer.echo(f"{kind}  {ends}{value}  {leak.what}")
        if more := result.counts[kind] - len(examples):
            typer.echo(
                f"{kind}  There {'is' if more == 1 else 'are'} {format_count(more, 'more leak')} of this kind: "
                f"list all with --limit {result.counts[kind]}"
            )
    typer.echo(", ".join(f"{count} {kind}" for kind, count in result.counts.items()) + ".")
    if result.alike_pairs or result.expected_pairs:
        typer.echo(
            f"{result.alike_pairs} pairs of faces from two splits have a cosine that is typical for two photos of one "
            f"person. {result.expected_pairs:.1f} pairs of strangers are expected to have such a cosine. A pair counts "
            "as a leak only if other photos confirm that the two faces are one person."
        )
    for sentence in result.unchecked:
        typer.echo(sentence)
    scope = f"{result.faces} faces, {result.pairs} pairs across splits, and the references of {result.targets} targets"
    typer.echo(f"{'Leaks were' if result.total else 'No leak was'} found among {scope}.")


def _list_numbers(numbers: Sequence[int]) -> str:
    """Returns increasing numbers as text, for example `3` or `3, 5`. If three or more numbers are all consecutive, the
    text is a range, for example `3 to 9`."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
