"""Defines the commands `degrade`, `verify` and `preview`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.ledger.paths import DATASET_FILES, LEDGER_NAME, MAX_SEED
from manifests.runtime.files import find_blocking_file
from manifests.runtime.flags import argument, flag
from manifests.runtime.text import format_count, make_printable
from manifests.stores.store_path import StorePath, parse_path

if TYPE_CHECKING:
    from degrade.frozen.dataset_sets import SetSummary
    from degrade.frozen.folders import FolderSummary
    from degrade.frozen.verify import Verification


@contextmanager
def _show_images(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes a number of newly finished images, and moves a progress bar by this number.

    The progress bar appears when the function is called for the first time.
    """
    from manifests.runtime.progress import show_progress

    with show_progress("images", quiet) as progress:
        done = 0

        def advance(images: int) -> None:
            nonlocal done
            done += images
            progress(what, done, total)

        yield advance


def _is_dataset(folder: Path) -> bool:
    """Returns whether a folder is a dataset. Raises BadInput if the folder is the copy of a dataset in a store."""
    from manifests.errors import BadInput

    if not isinstance(folder, StorePath):
        return (folder / LEDGER_NAME).is_file()
    if any((folder / name).is_file() for name in sorted(DATASET_FILES)):
        raise BadInput(f"{folder} is the copy of a dataset in a store. Name the local folder of the dataset.")
    return False


def degrade(
    source: Annotated[
        Path, argument("DATASET|FOLDER", ", also of s3://, gs:// or hf:// (docs/object_stores.md)", parser=parse_path)
    ],
    out: Annotated[
        Path | None,
        flag(
            "--out",
            ": the folder of the new set, also s3:// or gs://, needed for FOLDER; the sets of a dataset are in "
            "DATASET/lq",
            metavar="LQ",
            default="none",
            parser=parse_path,
        ),
    ] = None,
    preset: Annotated[str | None, flag("--preset", default="gfpgan")] = None,
    split: Annotated[
        str | None, flag("--split", "; a frozen set of val or test locks its split", default="test")
    ] = None,
    size: Annotated[
        int | None,
        flag(
            "--size",
            ": the side of the crops of a dataset, or the longer side of the images of a folder",
            default="512 for a dataset; the images of a folder keep their size",
        ),
    ] = None,
    seed: Annotated[int | None, flag("--seed", low=0, high=MAX_SEED, default="0")] = None,
    engine: Annotated[
        str | None,
        flag(
            "--engine",
            ": exact on this machine, ray for exact on a Ray cluster (docs/scale.md), or basicsr for the code of "
            "published papers",
            default="exact",
        ),
    ] = None,
    address: Annotated[str | None, flag("--address", default="none")] = None,
    replay: Annotated[Path | None, flag("--replay", default="none", parser=parse_path)] = None,
    workers: Annotated[int | None, flag("--workers", default="all cores")] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Make a frozen set: low-quality (LQ) images that anyone can make again, byte for byte.

    The set of a dataset is in DATASET/lq/<preset>-<split>-<size>-s<seed>/, and the degradation parameters of its images
    are in the ledger. For any other folder, --out names the folder of the set. A set contains PNG files, theta.jsonl
    and card.json. If the command is interrupted, run the same command again to continue.

    Example: likeness degrade DATASET --preset gfpgan --split test --seed 0

    Example: likeness degrade FOLDER --preset codeformer --seed 0 --out LQ

    Example: likeness degrade FOLDER --replay LQ/theta.jsonl --out LQ2
    """
    from manifests.errors import BadInput
    from manifests.runtime.cluster.connection import choose_cluster
    from manifests.runtime.workers import count_cores

    processes = count_cores() if workers is None else workers
    if not source.is_dir():
        raise BadInput(f"{source} is not a folder. Name a dataset, or a folder of images.")
    if replay is not None:
        options = {"preset": preset, "split": split, "seed": seed, "size": size, "engine": engine, "address": address}
        if superfluous := [name for name, value in options.items() if value is not None]:
            raise BadInput(f"A replay takes its options from {replay}. Leave --{superfluous[0]} out.")
        if out is None:
            raise BadInput("A replay needs --out. Name the folder for the set with --out.")
        _replay(source, replay, out, processes, dry_run, as_json)
        return
    from degrade.presets import find_preset

    preset, seed, engine = preset or "gfpgan", seed or 0, engine or "exact"
    cluster = choose_cluster(engine == "ray", address, workers)
    engine = "exact" if engine == "ray" else engine
    find_preset(preset)
    if _is_dataset(source):
        if out is not None:
            raise BadInput(f"{source} is a dataset and stores its sets in {source / 'lq'}. Leave --out out.")
        size = 512 if size is None else size
        _degrade_dataset(source, preset, split or "test", seed, size, engine, cluster, processes, dry_run, as_json)
        return
    if split is not None:
        raise BadInput(f"{source} is not a dataset and has no splits. Leave --split out.")
    if out is None:
        raise BadInput(f"{source} is not a dataset. Name a folder for its LQ images with --out.")
    _degrade_folder(source, out, preset, seed, size, engine, cluster, processes, dry_run, as_json)


def _degrade_dataset(
    dataset: Path,
    preset: str,
    split: str,
    seed: int,
    size: int,
    engine: str,
    cluster: str | None,
    workers: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    from degrade.frozen.dataset_sets import make_set, plan_set

    plan = plan_set(dataset, preset, split, seed, size, engine)
    if dry_run:
        _print(plan, as_json, f"Would make {format_count(plan.images, 'image')} in {plan.folder}.")
        return
    with _show_images("degrade", plan.images, as_json) as advance:
        summary = make_set(dataset, preset, split, seed, size, workers, advance, engine, cluster)
    joined = format_count(summary.later_faces, "face")
    note = f" {joined} joined the split after the set was begun and got no image." if summary.later_faces else ""
    note += describe_poor_targets(summary) + "".join(f"\nNote: {notice}" for notice in summary.notices)
    images = format_count(summary.images, "image")
    _print(summary, as_json, f"{images} in {summary.folder} ({_describe_new(summary)}).{note}")


def describe_poor_targets(summary: SetSummary) -> str:
    """Returns sentences that count enlarged targets, and targets whose crop lies partly outside the photo.

    Returns an empty string if the set has no such targets.
    """
    size, notes = summary.size, ""
    if summary.enlarged:
        notes += (
            f" {summary.enlarged} of {summary.images} targets are enlarged to {size} px, because they are smaller than "
            f"{size} px in their photo."
        )
    if summary.padded:
        notes += f" {summary.padded} of {summary.images} targets have more than 2% of their crop outside the photo."
    return notes


def _degrade_folder(
    folder: Path,
    out: Path,
    preset: str,
    seed: int,
    size: int | None,
    engine: str,
    cluster: str | None,
    workers: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    from degrade.frozen.folders import degrade_folder
    from degrade.frozen.search_folder import find_images

    if dry_run:
        plan = degrade_folder(folder, out, preset, seed, size, workers, dry_run=True, engine=engine)
        would = f"Would make {format_count(plan.images, 'image')} in {plan.folder}."
        _print(plan, as_json, would + _describe_skipped(plan))
        return
    with _show_images("degrade", len(find_images(folder, leave_out=out)), as_json) as advance:
        summary = degrade_folder(folder, out, preset, seed, size, workers, advance, engine=engine, cluster=cluster)
    images = format_count(summary.images, "image")
    sentence = f"{images} in {summary.folder} ({_describe_new(summary)})."
    _print(summary, as_json, sentence + _describe_skipped(summary))


def _describe_skipped(summary: FolderSummary) -> str:
    return "".join(f"\nskipped {make_printable(name)}: {reason}" for name, reason in summary.skipped)


def _replay(folder: Path, theta_file: Path, out: Path, workers: int, dry_run: bool, as_json: bool) -> None:
    from degrade.frozen.replay import replay
    from degrade.frozen.set_files import read_theta_file

    if dry_run:
        plan = replay(folder, theta_file, out, workers, dry_run=True)
        _print(plan, as_json, f"Would make {format_count(plan.images, 'image')} again in {plan.folder}.")
        return
    with _show_images("replay", len(read_theta_file(theta_file)), as_json) as advance:
        summary = replay(folder, theta_file, out, workers, advance)
    images = format_count(summary.images, "image")
    _print(summary, as_json, f"{summary.folder} has {images} with the recorded bytes ({_describe_new(summary)}).")


def _describe_new(summary: SetSummary | FolderSummary) -> str:
    changed = summary.images_repaired
    repaired = f"; {changed} of the new images replaced files that had changed" if changed else ""
    return f"{summary.images_written} new{repaired}"


def _print(summary: SetSummary | FolderSummary, as_json: bool, sentence: str) -> None:
    typer.echo(json.dumps(dataclasses.asdict(summary), sort_keys=True) if as_json else sentence)


def verify(
    source: Annotated[
        Path, argument("DATASET|LQ", "; without --set, all sets of a dataset are verified", parser=parse_path)
    ],
    lq_set: Annotated[str | None, flag("--set", default="all sets")] = None,
    originals: Annotated[
        Path | None,
        flag(
            "--originals",
            ", if this folder was moved after LQ was made",
            default="the folder that the card of LQ names",
            parser=parse_path,
        ),
    ] = None,
    workers: Annotated[int | None, flag("--workers", default="all cores")] = None,
    as_json: Annotated[bool, flag("--json")] = False,
) -> None:
    """Make the images of frozen sets again, compare the new images byte for byte with the files, and change nothing.

    Exit codes: 0 if every image and every file has the recorded bytes, 1 if anything differs.

    Example: likeness verify DATASET --set gfpgan-test-512-s0

    Example: likeness verify LQ
    """
    from manifests.errors import BadInput
    from manifests.runtime.workers import count_cores

    processes = count_cores() if workers is None else workers
    if not source.is_dir():
        raise BadInput(f"{source} is not a folder. Name a dataset, or a set of LQ images.")
    absolute = source.absolute()
    if not _is_dataset(source) and absolute.parent.name == "lq" and _is_dataset(absolute.parent.parent):
        if lq_set is not None:
            raise BadInput(f"{source} is a frozen set itself. Leave --set out, or name the dataset of this set.")
        source, lq_set = absolute.parent.parent, absolute.name
    if _is_dataset(source):
        if originals is not None:
            raise BadInput(f"{source} is a dataset, whose originals are its crops. Leave --originals out.")
        results = _verify_dataset(source, lq_set, processes, as_json)
    else:
        if lq_set is not None:
            raise BadInput(f"{source} is not a dataset and has no set {lq_set}. Leave --set out, or name a dataset.")
        results = [_verify_folder(source, originals, processes, as_json)]
    if as_json:
        typer.echo(json.dumps([result.to_json() for result in results], sort_keys=True))
    else:
        for result in results:
            typer.echo(_describe_verification(result))
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def _verify_dataset(dataset: Path, lq_set: str | None, workers: int, as_json: bool) -> list[Verification]:
    from degrade.frozen.dataset_sets import count_images, list_sets
    from degrade.frozen.verify import verify_set
    from manifests.errors import BadInput

    names = list_sets(dataset) if lq_set is None else [lq_set]
    if not names:
        raise BadInput(f"{dataset} has no frozen set yet. Make one with `likeness degrade {dataset}`.")
    results = []
    for name in names:
        with _show_images(name, count_images(dataset, name), as_json) as advance:
            results.append(verify_set(dataset, name, workers, advance))
    return results


def _verify_folder(folder: Path, originals: Path | None, workers: int, as_json: bool) -> Verification:
    from degrade.frozen.set_files import read_card, read_set_rows
    from degrade.frozen.verify import verify_folder

    read_card(folder)
    with _show_images(folder.resolve().name, len(read_set_rows(folder)), as_json) as advance:
        return verify_folder(folder, workers, advance, originals)


def _describe_verification(result: Verification) -> str:
    images = format_count(result.images, "image")
    if result.ok:
        same = "The files, and the images that were made again, have the recorded bytes."
        return f"{result.lq_set}: {images} verified. {same}"
    lines = [f"{result.lq_set}: {images} recorded."]
    if result.images_not_made:
        lines.append("  The set is not finished: run the same `likeness degrade` command again.")
    processor = "perhaps because the processor, OpenCV or numpy is not the same as before"
    guess = "perhaps because θ was edited" if "theta.jsonl" in result.changed_files else processor
    cause = "; ".join(result.version_differences) or guess
    for problem, names in (
        ("Files that are missing from the disk", result.missing_files),
        ("Files that have changed on the disk", result.changed_files),
        (f"Images that differ from their records when they are made again ({cause})", result.unreproduced_files),
        ("Images whose clean image is missing, changed or unreadable", result.files_without_source),
        ("Files that are on the disk but not recorded", result.unexpected_files),
    ):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            lines.append(f"  {problem}: {len(names)} ({', '.join(map(make_printable, names[:10]))}{more})")
    if result.unreproduced_files and not (result.missing_files or result.changed_files):
        lines.append(
            "  Every file on the disk has its recorded bytes. Only the images that were made again differ from the "
            "records."
        )
    if result.changed_files or result.unreproduced_files:
        lines.append(
            "  Largest difference of a pixel value between a file and the image that was made again: "
            f"{result.largest_difference}/255."
        )
    return "\n".join(lines)


def preview(
    image: Annotated[Path, argument("IMAGE", "; the presets are made for faces of 512 px")],
    out: Annotated[Path, flag("--out", ": the PNG file of the contact sheet", metavar="SHEET.png")],
    preset: Annotated[list[str] | None, flag("--preset", default="all presets", repeat=True)] = None,
    columns: Annotated[int, flag("--columns", "; each column uses the next seed", low=1, high=32)] = 4,
    seed: Annotated[int, flag("--seed", " of the first column", low=0, high=MAX_SEED)] = 0,
    size: Annotated[int, flag("--size", ": the longer side of the image, 16 to 4096", low=16, high=4096)] = 512,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
) -> None:
    """Write a contact sheet of presets: a row for each preset, with the clean image and then its degradations.

    Example: likeness preview face.png --out sheet.png --columns 6
    """
    from degrade.presets import PRESETS, find_preset
    from manifests.errors import BadInput

    presets = [find_preset(name) for name in preset] if preset else list(PRESETS.values())
    if os.path.realpath(out) == os.path.realpath(image) or (out.exists() and image.exists() and out.samefile(image)):
        raise BadInput(f"--out {out} is the image itself, and the sheet would overwrite this image. Name another file.")
    if (file := find_blocking_file(out.parent)) is not None:
        raise BadInput(f"--out {out} cannot be written, because {file} is a file. Name a file in another folder.")
    if out.is_dir():
        raise BadInput(f"--out {out} is a folder. Name a file that ends in .png.")
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out {out} does not end in .png. The sheet is a PNG file: give a name that ends in .png.")
    from degrade.preview import make_contact_sheet
    from manifests.pictures.png_files import LQ_PNG, encode_png
    from manifests.pictures.untrusted_images import open_reader
    from manifests.runtime.files import write_atomically

    with open_reader(limited=True) as read:
        pixels = read(image)
    if dry_run:
        typer.echo(f"Would write {len(presets)} rows of {columns} degradations to {out}.")
        return
    sheet = make_contact_sheet(pixels, presets, list(range(seed, seed + columns)), size)
    write_atomically(out, encode_png(sheet, LQ_PNG))
    # The lengths in θ are in pixels, and the ranges of the presets are for faces of 512 px.
    scale = min(size, max(pixels.shape)) / 512
    note = f" At {scale * 512:.0f} px, a preset is {1 / scale:.2g} times as severe as at 512 px." if scale < 1 else ""
    shown = f"{format_count(len(presets), 'preset')} with {format_count(columns, 'seed')} each"
    typer.echo(f"{out} shows {shown}.{note}")
