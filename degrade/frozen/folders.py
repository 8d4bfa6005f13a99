"""Makes frozen sets from plain folders. A set has PNG files, theta.jsonl and card.json.

At the beginning, card.json is written with `complete` false, and marks the output folder as a set of Likeness. When
every image is finished, theta.jsonl is written. At the end, card.json is written again with `complete` true. The files
of a set contain no time, so the same command gives the same bytes.
"""

from __future__ import annotations

import errno
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degrade.frozen.jobs import Advance, Job, check_engine, open_untrusted_job_pool, run_jobs
from degrade.frozen.search_folder import search_folder
from degrade.frozen.set_files import (
    CARD,
    THETAS,
    Row,
    decode_name,
    describe_path,
    encode_card,
    encode_name,
    encode_rows,
    finish_set,
    make_card,
    plain_name,
    read_card,
    read_set_rows,
)
from degrade.presets import find_preset
from degrade.sampling import check_seed, sample_theta
from degrade.theta import Theta
from manifests.errors import BadInput, StoreFailed
from manifests.ledger.paths import LEDGER_NAME, PARTS
from manifests.pictures.images import FORMATS
from manifests.runtime.files import (
    LOCK,
    find_blocking_file,
    lock_folder,
    remove_temporary_files,
    sha256_file,
    write_atomically,
)
from manifests.runtime.text import format_count, make_printable
from manifests.runtime.uris import fold_name
from manifests.runtime.workers import check_workers
from manifests.stores.requests import check_writable
from manifests.stores.store_path import StorePath, parse_path

# The limits (ours) of --size are in pixels. An image below the lower limit is too small to show a face. Few images are
# larger than the upper limit.
MIN_SIZE, MAX_SIZE = 16, 8192
_UNSAFE_NAME = "has a name with //, or with . or .. between slashes, so it is not read"
# The errors of a disk for a name that is too long, or that has characters which the disk does not allow.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


@dataclass(frozen=True)
class FolderSummary:
    """Summarizes a frozen set after `degrade_folder` or `replay`."""

    folder: str
    preset: str | None  # None after a replay if the original set has no card
    seed: int | None
    size: int | None
    images: int
    images_written: int  # The number of images that this call wrote, repaired images included.
    images_repaired: int  # The number of written images that replaced a changed file.
    # The plain path of each skipped source, and of each folder that was left out, and the reason. Only the skipped
    # sources are in the card of the set, because the folders do not change the set.
    skipped: tuple[tuple[str, str], ...]


def choose_output_names(sources: list[Path]) -> list[Path]:
    """Returns the name of the PNG of each source, for example a/b.png for a/b.jpg.

    If two sources would get the same name, each PNG keeps the ending of its source before .png, for example
    a/b.jpg.png. A PNG also keeps this ending if a folder has the shorter name. Names that differ only in case or in
    their Unicode form count as the same, because many systems treat such names as one name.
    """
    counts = Counter(fold_name(source.with_suffix(".png")) for source in sources)
    folders = {fold_name(folder) for source in sources for folder in source.parents}
    # If another PNG already has the longer name, more endings are added until the name is free.
    taken = set(folders)
    names = []
    for source in sources:
        short = fold_name(source.with_suffix(".png"))
        alone = counts[short] == 1 and short not in folders
        name = source.with_suffix(".png") if alone else source.with_name(source.name + ".png")
        while fold_name(name) in taken or (not alone and fold_name(name) in counts):
            name = name.with_name(name.name + ".png")
        taken.add(fold_name(name))
        names.append(name)
    return names


def degrade_folder(
    folder: Path,
    out: Path,
    preset: str = "gfpgan",
    seed: int = 0,
    size: int | None = None,
    workers: int | None = None,
    progress: Advance | None = None,
    dry_run: bool = False,
    engine: str = "exact",
    cluster: str | None = None,
) -> FolderSummary:
    """Makes, finishes or repairs a set in the folder `out`, with one degraded image for every image below `folder`.

    θ depends on (seed, preset, path below `folder`). Without `size`, an image keeps its size. If the longer side of an
    image is larger than `size`, the image is first area-resized to `size`. An image that cannot be decoded, or is too
    small for its θ, is skipped, and the card lists this image. The card also lists files of a store whose names
    Likeness cannot read, and images whose names the disk of `out` cannot hold. Datasets and frozen sets inside `folder`
    are left out. A missing or changed image of a finished
    set is made again with the recorded bytes. `progress` is called with the number of images finished since the last
    call. `engine` is `exact`, or `basicsr` for BasicSR's code. `cluster` is the address of a Ray cluster that degrades
    the images, or `local` to start Ray on this machine.

    Raises StoreFailed if a store failed to send an image. The set is then unfinished, and a repeated call finishes it.
    Raises BadInput if no image of the folder can be degraded, or if `out` contains anything except this set. When
    BadInput is raised, nothing is written.
    """
    folder, out = parse_path(folder), parse_path(out)
    checked_preset = find_preset(preset)
    check_seed(seed)
    if workers is not None:
        check_workers(workers)
    if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
        raise BadInput(f"--size is {size}; it must be from {MIN_SIZE} to {MAX_SIZE} pixels.")
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder: name a folder of images, or a dataset.")
    contents = search_folder(folder, leave_out=out)
    sources, unsafe_names, left_out = contents.images, contents.unsafe_names, contents.left_out
    if not sources:
        names, folders = len(unsafe_names), len(left_out)
        others = f", and {format_count(names, 'file')} with // or .. in the name" if names else ""
        others += (
            f", and {format_count(folders, 'dataset or frozen set', 'datasets or frozen sets')}" if folders else ""
        )
        raise BadInput(f"{folder} contains no image ({', '.join(FORMATS)}){others}: name another folder.")
    check_engine(engine)
    card = make_card(checked_preset, seed, size, folder.absolute(), engine)
    _count_finished(out, card, sources, unsafe_names)
    if dry_run:
        return FolderSummary(str(out), checked_preset.name, seed, size, len(sources), 0, 0, tuple(left_out))
    with lock_folder(out):
        remove_temporary_files(out)
        # The check is repeated under the lock, because another process can have made the set in the meantime.
        if images := _count_finished(out, card, sources, unsafe_names):
            written, repaired = _repair_set(folder, out, workers, progress, cluster)
            skipped = [(name, reason) for name, reason in read_card(out)["skipped"]]
        else:
            thetas = [sample_theta(checked_preset, seed, encode_name(source)) for source in sources]
            images, skipped = _make_set(folder, out, card, sources, unsafe_names, thetas, workers, progress, cluster)
            written, repaired = images, 0
    return FolderSummary(str(out), checked_preset.name, seed, size, images, written, repaired, (*left_out, *skipped))


def _make_set(
    folder: Path,
    out: Path,
    card: dict[str, Any],
    sources: list[Path],
    unsafe_names: list[str],
    thetas: list[Theta],
    workers: int | None,
    progress: Advance | None,
    cluster: str | None,
) -> tuple[int, list[tuple[str, str]]]:
    """Makes the set that a card describes.

    Returns the number of images in the set, and the skipped files with the reasons.
    """
    size, engine = card["size"], card["engine"]
    names = choose_output_names(sources)
    jobs = [Job(folder / source, size, theta, engine=engine) for source, theta in zip(sources, thetas, strict=True)]
    rows: list[Row] = []
    skipped: list[tuple[str, str]] = []
    failures: list[str] = []  # one sentence for each image that the store did not send
    with open_untrusted_job_pool(workers, len(jobs), cluster, [job.source for job in jobs]) as map_in_order:
        write_atomically(out / CARD, encode_card(card, complete=False))
        if progress:
            progress(0)
        for source, name, job, result in zip(sources, names, jobs, map_in_order(run_jobs, jobs), strict=True):
            if problem := result.problem or _write_image(out / name, result.png):
                skipped.append((plain_name(source), problem))
                failures += [f"{make_printable(plain_name(source))} {problem}"] if result.store_failed else []
            else:
                paths = describe_path("file", name) | describe_path("source", source)
                origin = {"size": size, "engine": engine, "theta": job.theta, "source_sha256": result.source_sha256}
                rows.append(paths | origin | {"sha256": result.sha256})
            if progress:
                progress(1)
    skipped += [(name, _UNSAFE_NAME) for name in unsafe_names]
    if not rows:
        _remove_empty_set(out)
    if failures:
        raise StoreFailed(
            f"The store failed, so {len(failures)} of {format_count(len(sources), 'image')} of {folder} could not be "
            f"read. For example, {failures[0]}. Check the store, then run the same command again to make the whole set."
        )
    if not rows:
        raise BadInput(
            f"None of the {len(skipped)} images of {folder} can be degraded. For example, {skipped[0][0]} "
            f"{skipped[0][1]}. Name another folder."
        )
    finish_set(out, card, encode_rows(rows), len(rows), skipped)
    return len(rows), skipped


def _write_image(path: Path, png: bytes) -> str | None:
    """Writes an image of the set. If the disk cannot hold the name of the file, returns the problem of the source."""
    try:
        write_atomically(path, png)
    except OSError as error:
        if error.errno not in _NAME_ERRORS or isinstance(path, StorePath):
            raise
        return f"has a name that the disk of the set cannot hold ({error.strerror})"
    return None


def _remove_empty_set(out: Path) -> None:
    """Removes the card of a set that has no image. Afterwards, `lock_folder` removes the folder if `lock_folder`
    created it.
    """
    if {path.name for path in out.iterdir()} <= {CARD, LOCK}:
        (out / CARD).unlink()


def _repair_set(
    folder: Path, out: Path, workers: int | None, progress: Advance | None, cluster: str | None
) -> tuple[int, int]:
    """Makes the missing and changed images of a finished set again.

    Returns the number of images that were made again, and how many of these images replaced a changed file.
    """
    rows = read_set_rows(out)
    paths = {row["file_encoded"]: out / decode_name(row["file_encoded"]) for row in rows}
    changed = {
        name
        for row in rows
        if paths[name := row["file_encoded"]].is_file() and sha256_file(paths[name]) != row["sha256"]
    }
    todo = [row for row in rows if row["file_encoded"] in changed or not paths[row["file_encoded"]].is_file()]
    if progress:
        progress(len(rows) - len(todo))
    jobs = [Job(folder / decode_name(r["source_encoded"]), r["size"], r["theta"], engine=r["engine"]) for r in todo]
    with open_untrusted_job_pool(workers, len(jobs), cluster, [job.source for job in jobs]) as map_in_order:
        for row, job, result in zip(todo, jobs, map_in_order(run_jobs, jobs), strict=True):
            path = paths[row["file_encoded"]]
            if result.problem:
                raise BadInput(
                    f"{job.source} {result.problem}, so {path} cannot be made again: restore the source, or name "
                    "another folder for --out."
                )
            if result.source_sha256 != row["source_sha256"]:
                raise BadInput(
                    f"{job.source} has changed since it was degraded, so {path} cannot be made again: "
                    "restore the original image, or name another folder for --out."
                )
            if result.sha256 != row["sha256"]:
                raise BadInput(
                    f"The image of {job.source} was made again, and its sha256 differs from the sha256 in "
                    f"{out / THETAS}. Nothing was overwritten. `likeness verify {out}` shows the difference."
                )
            write_atomically(path, result.png)
            if progress:
                progress(1)
    return len(todo), len(changed)


def _count_finished(out: Path, card: dict[str, Any], sources: list[Path], unsafe_names: list[str]) -> int:
    """Returns the number of images in `out` if `out` contains exactly this set and the set is finished.

    Returns 0 if the set is not finished. Raises BadInput if `out` contains anything except this set.
    """
    existing_card = read_output_card(out)
    # The versions of Likeness in the two cards are not compared. Another version of Likeness can finish or repair a
    # set, because the other keys of the card determine all bytes.
    keys = {key: value for key, value in json.loads(json.dumps(card)).items() if key != "likeness"}
    if existing_card is not None and (different := [key for key in keys if existing_card.get(key) != keys[key]]):
        raise BadInput(f"{out} contains another set (its {different[0]} differs): name another folder for --out.")
    if existing_card is None or not existing_card.get("complete"):
        return 0
    rows = read_set_rows(out)
    if sha256_file(out / THETAS) != existing_card.get("theta_sha256"):
        raise BadInput(
            f"{out / THETAS} is not the file that {CARD} names: restore the file, or name another folder for --out."
        )
    recorded_sources = {row["source"] for row in rows} | {name for name, _ in existing_card["skipped"]}
    # earlier versions did not record the unsafe names
    if recorded_sources - set(unsafe_names) != {plain_name(source) for source in sources}:
        raise BadInput(
            f"{out} contains the frozen set of {len(recorded_sources)} images, but the folder of the sources now "
            f"contains other images ({len(sources)} in total): name another folder for --out."
        )
    return len(rows)


def read_output_card(out: Path) -> dict[str, Any] | None:
    """Returns the card of the set in `out`, or None if `out` is missing or empty.

    Raises BadInput if `out` is a file, belongs to a dataset, or contains anything except a frozen set.
    """
    if isinstance(out, StorePath):
        check_writable(str(out))
    if (file := find_blocking_file(out)) is not None:
        raise BadInput(f"{file} is a file: name a folder for --out.")
    for path in (out.absolute(), out.resolve()):
        if any(place.name in PARTS and (place.parent / LEDGER_NAME).is_file() for place in (path, *path.parents)):
            raise BadInput(f"{out} is inside a dataset's own folders: name another folder for --out.")
    if not out.exists() or {path.name for path in out.iterdir()} <= {LOCK}:
        return None
    if not (out / CARD).is_file():
        raise BadInput(f"{out} is not empty and contains no frozen set: name another folder for --out.")
    return read_card(out)
