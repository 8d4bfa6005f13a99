"""The commands of this folder: degrade, verify, preview. likeness.py mounts them and turns errors into a sentence."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifests.ledger.paths import MAX_SEED
from manifests.runtime.files import find_blocking_file
from manifests.runtime.text import format_count

if TYPE_CHECKING:
    from degrade.frozen.dataset_sets import SetSummary
    from degrade.frozen.folders import FolderSummary
    from degrade.frozen.verify import Verification

_Json = Annotated[bool, typer.Option("--json", help="Print figures as JSON and nothing else.")]
_Workers = Annotated[
    int | None, typer.Option(help="Processes; the bytes do not depend on it.", show_default="all cores")
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be made; write nothing.")]
_PRESET_HELP = "A name of docs/degrade.md, such as gfpgan, codeformer or severe; or a .toml or .json file of your own."


@contextmanager
def _progress(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar; answers the function to tell how many more images are done, whose first call shows it: what is
    refused is one sentence and no bar."""
    from manifests.runtime.progress import show_progress

    with show_progress("images", quiet) as progress:
        done = 0

        def advance(images: int) -> None:
            nonlocal done
            done += images
            progress(what, done, total)

        yield advance


def _is_dataset(folder: Path) -> bool:
    from manifests.ledger.paths import LEDGER_NAME

    return (folder / LEDGER_NAME).is_file()


def degrade(
    source: Annotated[Path, typer.Argument(help="A dataset, or any folder of pictures.", metavar="DATASET|FOLDER")],
    preset: Annotated[str | None, typer.Option(help=_PRESET_HELP, show_default="gfpgan")] = None,
    split: Annotated[
        str | None,
        typer.Option(help="train, val or test of a dataset; val and test are locked by it.", show_default="test"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, help="Every draw follows from it and the face's id.", show_default="0"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side in pixels to area-resize to before degrading; in a folder, of a longer side that is larger.",
            show_default="512; a folder's own sizes",
        ),
    ] = None,
    workers: _Workers = None,
    out: Annotated[Path | None, typer.Option(help="Where the set of a plain folder, or a replay, goes.")] = None,
    replay: Annotated[
        Path | None, typer.Option(help="The theta.jsonl of a set to build again from its sources, byte for byte.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="exact, or basicsr: the literature's own code on the same θ.", show_default="exact"),
    ] = None,
    dry_run: _DryRun = False,
    as_json: _Json = False,
) -> None:
    """Make a frozen set of low-quality images that anyone can regenerate.

    A dataset keeps it as DATASET/lq/<preset>-<split>-<size>-s<seed>/, with every parameter in the ledger too. A plain
    folder needs --out. Either gets PNGs, theta.jsonl and card.json there. The same command again resumes.

    Example: likeness degrade DATASET --preset gfpgan --split test --seed 0

    Example: likeness degrade FOLDER --preset codeformer --seed 0 --out LQ

    Example: likeness degrade FOLDER --replay LQ/theta.jsonl --out LQ2
    """
    from degrade.frozen.dataset_sets import make_set, plan_set
    from degrade.frozen.folders import degrade_folder, find_images
    from manifests.errors import BadInput
    from manifests.runtime.workers import count_cores

    workers = count_cores() if workers is None else workers
    if replay is not None:
        options_of_a_set: dict[str, object] = {
            "preset": preset,
            "split": split,
            "seed": seed,
            "size": size,
            "engine": engine,
        }
        _replay(source, replay, out, workers, dry_run, as_json, options_of_a_set)
        return
    preset, seed, engine = preset or "gfpgan", seed or 0, engine or "exact"
    if _is_dataset(source):
        if out is not None:
            raise BadInput(f"{source} is a dataset and keeps its sets in {source / 'lq'}: leave --out away.")
        options = (preset, split or "test", seed, 512 if size is None else size)
        planned = plan_set(source, *options, engine=engine)
        if dry_run:
            _say(planned, as_json, f"Would make {format_count(planned.images, 'image')} in {planned.folder}.")
            return
        with _progress("degrade", planned.images, as_json) as advance:
            report = make_set(source, *options, workers=workers, progress=advance, engine=engine)
        later = f" {report.later_faces} faces joined the split later and are not in it." if report.later_faces else ""
        _say(report, as_json, f"{format_count(report.images, 'image')} in {report.folder} ({_made(report)}).{later}")
        return

    if not source.is_dir():
        raise BadInput(f"{source} is not a folder: name a dataset, or a folder of pictures.")
    if split is not None:
        raise BadInput(f"{source} is not a dataset and has no splits: leave --split away.")
    if out is None:
        raise BadInput(f"{source} is not a dataset: say with --out where its low-quality images go.")
    if dry_run:
        would = degrade_folder(source, out, preset, seed, size, workers, dry_run=True, engine=engine)
        _say(would, as_json, f"Would make {format_count(would.images, 'image')} in {would.folder}.")
        return
    with _progress("degrade", len(find_images(source, leave_out=out)), as_json) as advance:
        made = degrade_folder(source, out, preset, seed, size, workers, progress=advance, engine=engine)
    skipped = "".join(f"\nskipped {name}: {reason}" for name, reason in made.skipped)
    _say(made, as_json, f"{format_count(made.images, 'image')} in {made.folder} ({_made(made)}).{skipped}")


def _replay(
    source: Path,
    thetas: Path,
    out: Path | None,
    workers: int,
    dry_run: bool,
    as_json: bool,
    others: dict[str, object],
) -> None:
    from degrade.frozen.replay import replay
    from degrade.frozen.set_files import read_theta_file
    from manifests.errors import BadInput

    if senseless := [name for name, value in others.items() if value is not None]:
        raise BadInput(f"{thetas} says all that a replay needs: leave --{senseless[0]} away.")
    if out is None:
        raise BadInput("Say with --out where the set is to be built again.")
    if dry_run:
        would = replay(source, thetas, out, workers, dry_run=True)
        _say(would, as_json, f"Would build {format_count(would.images, 'image')} again in {would.folder}.")
        return
    with _progress("replay", len(read_theta_file(thetas)), as_json) as advance:
        made = replay(source, thetas, out, workers, advance)
    _say(
        made,
        as_json,
        f"{format_count(made.images, 'image')} in {made.folder}, byte for byte as recorded ({_made(made)}).",
    )


def _made(report: SetSummary | FolderSummary) -> str:
    mended = (
        f", {report.images_repaired} of them because the file was not what was frozen" if report.images_repaired else ""
    )
    return f"{report.images_written} made now{mended}"


def _say(report: object, as_json: bool, sentence: str) -> None:
    typer.echo(json.dumps(dataclasses.asdict(report), sort_keys=True) if as_json else sentence)  # type: ignore[call-overload]


def verify(
    lq: Annotated[Path, typer.Argument(help="A frozen set, or a dataset for all its sets.", metavar="LQ_SET|DATASET")],
    pictures: Annotated[
        Path | None,
        typer.Option(help="Where the clean pictures of a set are now.", show_default="where its card says"),
    ] = None,
    workers: _Workers = None,
    as_json: _Json = False,
) -> None:
    """Regenerate frozen sets and compare bytes; exits with 1 where anything differs, and changes nothing.

    Example: likeness verify DATASET/lq/gfpgan-test-512-s0
    """
    from degrade.frozen.dataset_sets import count_images, list_sets
    from degrade.frozen.set_files import read_card, read_set_rows
    from degrade.frozen.verify import verify_folder, verify_set
    from manifests.errors import BadInput
    from manifests.runtime.workers import count_cores

    workers = count_cores() if workers is None else workers
    if not lq.is_dir():
        raise BadInput(f"{lq} is not a folder: name a frozen set, or a dataset.")
    found: list[Verification] = []
    dataset = lq if _is_dataset(lq) else lq.absolute().parent.parent
    if _is_dataset(dataset) and (dataset == lq or lq.absolute().parent.name == "lq"):
        if pictures is not None:
            raise BadInput(f"{dataset} is a dataset and knows its clean pictures: leave --pictures away.")
        names = list_sets(dataset) if dataset == lq else [lq.absolute().name]
        if not names:
            raise BadInput(f"{lq} has no frozen set yet: make one with `likeness degrade {lq}`.")
        for name in names:
            with _progress(name, count_images(dataset, name), as_json) as advance:
                found.append(verify_set(dataset, name, workers, advance))
    else:
        read_card(lq)
        with _progress(lq.resolve().name, len(read_set_rows(lq)), as_json) as advance:
            found.append(verify_folder(lq, workers, advance, pictures))
    if as_json:
        typer.echo(json.dumps([verified.to_json() for verified in found], sort_keys=True))
    else:
        for verified in found:
            typer.echo(_told(verified))
    if not all(verified.ok for verified in found):
        raise typer.Exit(1)


def _told(verified: Verification) -> str:
    if verified.ok:
        return f"{verified.lq_set}: {format_count(verified.images, 'image')}, every byte as recorded and regenerated."
    lines = [f"{verified.lq_set}: {format_count(verified.images, 'image')} recorded."]
    if verified.images_not_made:
        lines.append("  unfinished: run the same `likeness degrade` command again.")
    guess = "its θ was edited?" if "theta.jsonl" in verified.changed_files else "another processor, OpenCV or numpy?"
    elsewhere = "; ".join(verified.version_differences) or guess
    for what, names in (
        ("missing from the disk", verified.missing_files),
        ("changed on the disk", verified.changed_files),
        (f"not regenerated to the recorded bytes ({elsewhere})", verified.unreproduced_files),
        ("not regenerated, the clean picture is gone, changed or unreadable", verified.files_without_source),
        ("on the disk and not recorded", verified.unexpected_files),
    ):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            lines.append(f"  {len(names)} {what}: {', '.join(names[:10])}{more}")
    if verified.unreproduced_files and not (verified.missing_files or verified.changed_files):
        lines.append("  every recorded file on the disk has its recorded bytes; only making it again differs here")
    if verified.changed_files or verified.unreproduced_files:
        lines.append(f"  largest difference of a pixel, file against regeneration: {verified.largest_difference}/255")
    return "\n".join(lines)


def preview(
    image: Annotated[Path, typer.Argument(help="Any picture; a 512 px face shows what the presets were made for.")],
    out: Annotated[Path, typer.Option(help="The sheet, a PNG.")],
    preset: Annotated[list[str] | None, typer.Option(help="May be given again.", show_default="all")] = None,
    columns: Annotated[int, typer.Option(help="Degradations per preset.", min=1, max=32)] = 4,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The first of them.")] = 0,
    size: Annotated[int, typer.Option(help="Longer side before degrading, pixels.", min=16, max=4096)] = 512,
    dry_run: _DryRun = False,
) -> None:
    """Write a contact sheet: a row a preset, the clean picture, then one degradation a seed.

    Example: likeness preview face.png --out sheet.png --columns 6
    """
    from degrade.presets import PRESETS, find_preset
    from degrade.preview import make_contact_sheet
    from manifests.errors import BadInput
    from manifests.runtime.files import write_atomically
    from manifests.runtime.png_files import LQ_PNG, encode_png
    from manifests.runtime.untrusted_images import open_reader

    chosen = [find_preset(name) for name in preset] if preset else list(PRESETS.values())
    with open_reader(limited=True) as read:
        pixels = read(image)
    if os.path.realpath(out) == os.path.realpath(image) or (out.exists() and out.samefile(image)):
        raise BadInput(f"--out is {image} itself, which would be overwritten: name another file.")
    if (file := find_blocking_file(out.parent)) is not None:
        raise BadInput(f"{file} is a file: name another folder for the sheet.")
    if out.is_dir():
        raise BadInput(f"--out is the folder {out}: name a file that ends in .png.")
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out is {out}; a sheet is a PNG, so let its name end in .png.")
    if dry_run:
        typer.echo(f"Would write {len(chosen)} rows of {columns} degradations to {out}.")
        return
    sheet = make_contact_sheet(pixels, chosen, list(range(seed, seed + columns)), size)
    write_atomically(out, encode_png(sheet, LQ_PNG))
    # lengths in θ are pixels, and the published ranges are for faces of 512
    small = min(size, max(pixels.shape)) / 512
    note = f" At {small * 512:.0f} px a preset is {1 / small:.2g} times as severe as at its 512." if small < 1 else ""
    typer.echo(f"{out}: {format_count(len(chosen), 'preset')}, {format_count(columns, 'seed')} each.{note}")
