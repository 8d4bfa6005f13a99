"""Frozen sets without a dataset: a folder of pictures in, a folder with PNGs, theta.jsonl and card.json out; and sets
of either kind built again from a theta.jsonl.

card.json appears first, with `complete` false, and is what makes the folder ours; theta.jsonl follows when every image
is there, and the card again, with `complete` true. None holds a clock: the same command gives the same bytes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degrade.frozen.jobs import Job, check_engine, open_untrusted_job_pool, run_jobs
from degrade.frozen.set_files import (
    CARD,
    THETAS,
    Row,
    decode_name,
    encode_card,
    encode_name,
    encode_rows,
    finish_set,
    make_card,
    read_card,
    read_set_rows,
)
from degrade.presets import find_preset
from degrade.sampling import check_seed, sample_theta
from degrade.theta import Theta
from manifests.errors import BadInput
from manifests.ledger.paths import LEDGER_NAME, PARTS
from manifests.runtime.files import (
    LOCK,
    find_blocking_file,
    lock_folder,
    remove_temporary_files,
    sha256_file,
    write_atomically,
)
from manifests.runtime.images import FORMATS, is_picture
from manifests.runtime.workers import check_workers

MIN_SIZE, MAX_SIZE = 16, 8192  # of --size, pixels: below, no face is left; above, few pictures may be that large (ours)
# A file with one of these suffixes that is not a picture is skipped with a reason.
SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".avif",
    ".jp2",
    ".heic",
    ".heif",
    ".jxl",
}

Progress = Callable[[int], None]


@dataclass(frozen=True)
class FolderSummary:
    """A set after `degrade_folder`; `skipped` holds (percent-encoded name, reason)."""

    folder: str
    preset: str | None  # None: a replay of θ whose card is not there
    seed: int | None
    size: int | None
    images: int
    images_written: int  # by this call
    images_repaired: int  # of these: the file was there and was not what was frozen
    skipped: tuple[tuple[str, str], ...]


def find_images(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """Returns the pictures below `folder`, relative to it, in the order of their raw names.

    A picture is a file whose first bytes are those of a picture, whatever its name, or whose name is that of a picture.
    Files whose name begins with a dot, finished sets inside the folder, and links to folders are left out."""
    found = []
    for root, folders, files in os.walk(folder):
        here = Path(root)
        if here != folder and CARD in files and THETAS in files:
            folders.clear()
            continue
        folders[:] = [name for name in folders if leave_out is None or (here / name).resolve() != leave_out.resolve()]
        found += [(here / name).relative_to(folder) for name in files if _may_be_picture(here / name)]
    return sorted(found, key=os.fsencode)


def _may_be_picture(path: Path) -> bool:
    """Returns whether a file has the name or the first bytes of a picture."""
    if path.name.startswith("."):
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        return path.is_file() and is_picture(path)  # a pipe would wait for a writer
    except OSError:
        return False


def choose_output_names(sources: list[Path]) -> list[Path]:
    """a/b.jpg becomes a/b.png; where two sources would meet, both keep their own suffix: a/b.jpg.png."""
    meets = Counter(source.with_suffix(".png") for source in sources)
    # where such a name meets a third source's, it grows until it is alone
    taken: set[Path] = set()
    names = []
    for source in sources:
        alone = meets[source.with_suffix(".png")] == 1
        name = source.with_suffix(".png") if alone else source.with_name(source.name + ".png")
        while name in taken or (not alone and name in meets):
            name = name.with_name(name.name + ".png")
        taken.add(name)
        names.append(name)
    return names


def degrade_folder(
    folder: Path,
    out: Path,
    preset: str = "gfpgan",
    seed: int = 0,
    size: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
    engine: str = "exact",
) -> FolderSummary:
    """Degrade every picture below `folder` into `out`, at its own size or with its longer side area-resized to `size`
    where it is longer.

    θ is keyed by (seed, preset, path below `folder`). A picture that cannot be decoded, or is too small for its θ, is
    skipped and named in the card. `engine` is exact, or basicsr for the literature's own code. A file of a finished set
    that is gone, or no longer what was frozen, is made again, to the recorded bytes. Raises BadInput, with nothing
    written, for a folder without a picture that can be degraded and for an `out` that holds anything but this very set.
    """
    folder, out = Path(folder), Path(out)
    chosen = find_preset(preset)
    check_seed(seed)
    if workers is not None:
        check_workers(workers)
    if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
        raise BadInput(f"--size is {size}; say pixels from {MIN_SIZE} to {MAX_SIZE}.")
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder: name a folder of pictures, or a dataset.")
    sources = find_images(folder, leave_out=out)
    if not sources:
        raise BadInput(f"{folder} holds no picture ({', '.join(FORMATS)}): name another folder.")
    check_engine(engine)
    card = make_card(chosen, seed, size, encode_name(folder.absolute()), engine)
    _finished(out, card, sources)
    if dry_run:
        return FolderSummary(
            str(out), chosen.name, seed, size, len(sources), images_written=0, images_repaired=0, skipped=()
        )
    with lock_folder(out):
        remove_temporary_files(out)
        if finished := _finished(out, card, sources):  # asked again: another process may have made it meanwhile
            made, mended = _mend(folder, out, workers, progress)
            before = tuple((name, reason) for name, reason in read_card(out)["skipped"])
            return FolderSummary(str(out), chosen.name, seed, size, len(finished), made, mended, before)
        thetas = [sample_theta(chosen, seed, encode_name(source)) for source in sources]
        images, skipped = _make(folder, out, card, sources, thetas, workers, progress)
    return FolderSummary(str(out), chosen.name, seed, size, images, images, 0, tuple(skipped))


def _make(
    folder: Path,
    out: Path,
    card: dict[str, Any],
    sources: list[Path],
    thetas: list[Theta],
    workers: int | None,
    progress: Progress | None,
) -> tuple[int, list[tuple[str, str]]]:
    """Make the set of a card; how many images it has, and what was skipped for which reason."""
    size, engine = card["size"], card["engine"]
    write_atomically(out / CARD, encode_card(card, complete=False))
    names = choose_output_names(sources)
    jobs = [Job(folder / source, size, theta, engine=engine) for source, theta in zip(sources, thetas, strict=True)]
    rows: list[Row] = []
    skipped: list[tuple[str, str]] = []
    if progress:
        progress(0)
    with open_untrusted_job_pool(workers, len(jobs)) as map_in_order:
        for source, name, job, result in zip(sources, names, jobs, map_in_order(run_jobs, jobs), strict=True):
            if result.problem:
                skipped.append((encode_name(source), result.problem))
            else:
                write_atomically(out / name, result.png)
                names_and_hashes = {"file": encode_name(name), "source": encode_name(source), "sha256": result.sha256}
                made_by = {"size": size, "engine": engine, "theta": job.theta, "source_sha256": result.source_sha256}
                rows.append(names_and_hashes | made_by)
            if progress:
                progress(1)
    if not rows:
        _take_back(out)
        first = f"{skipped[0][0]} {skipped[0][1]}"
        raise BadInput(
            f"None of the {len(skipped)} pictures of {folder} can be degraded ({first}): name another folder."
        )
    finish_set(out, card, encode_rows(rows), len(rows), skipped)
    return len(rows), skipped


def _take_back(out: Path) -> None:
    """A set that came to nothing leaves nothing; a folder that is empty then goes with the lock, where that made it."""
    if {path.name for path in out.iterdir()} <= {CARD, LOCK}:
        (out / CARD).unlink()


def _mend(folder: Path, out: Path, workers: int | None, progress: Progress | None) -> tuple[int, int]:
    """Make what is gone or changed in a finished set again; how many images that were, and how many had changed."""
    rows = read_set_rows(out)
    paths = {row["file"]: out / decode_name(row["file"]) for row in rows}
    changed = {
        name for row in rows if paths[name := row["file"]].is_file() and sha256_file(paths[name]) != row["sha256"]
    }
    todo = [row for row in rows if row["file"] in changed or not paths[row["file"]].is_file()]
    if progress:
        progress(len(rows) - len(todo))
    jobs = [Job(folder / decode_name(r["source"]), r["size"], r["theta"], engine=r["engine"]) for r in todo]
    with open_untrusted_job_pool(workers, len(jobs)) as map_in_order:
        for row, job, result in zip(todo, jobs, map_in_order(run_jobs, jobs), strict=True):
            if result.problem:
                raise BadInput(f"{job.source} {result.problem}, so {paths[row['file']]} cannot be made again.")
            if result.source_sha256 != row["source_sha256"]:
                raise BadInput(
                    f"{job.source} has changed since it was degraded, so {paths[row['file']]} cannot be made again: "
                    "put the old picture back, or name another folder for --out."
                )
            if result.sha256 != row["sha256"]:
                raise BadInput(
                    f"{job.source} comes out with other bytes than {out / THETAS} records, so nothing was overwritten: "
                    f"`likeness verify {out}` says by how much."
                )
            write_atomically(paths[row["file"]], result.png)
            if progress:
                progress(1)
    return len(todo), len(changed)


def _finished(out: Path, card: dict[str, Any], sources: list[Path]) -> dict[str, str]:
    """File -> sha256 of this very set where `out` holds it whole; empty where it is to be made or finished. Raises
    BadInput where `out` holds anything else."""
    there = read_output_card(out)
    # another release may finish or mend a set: whatever decides a byte stands in the other keys
    mine = {key: value for key, value in json.loads(json.dumps(card)).items() if key != "likeness"}
    if there is not None and (other := [key for key in mine if there.get(key) != mine[key]]):
        raise BadInput(f"{out} holds another set (its {other[0]} differs): name another folder for --out.")
    if there is None or not there.get("complete"):
        return {}
    rows = read_set_rows(out)
    if sha256_file(out / THETAS) != there.get("theta_sha256"):
        raise BadInput(f"{out / THETAS} is not the one that {CARD} names: put it back, or name another --out.")
    known = {row["source"] for row in rows} | {name for name, _ in there["skipped"]}
    if known != {encode_name(source) for source in sources}:
        raise BadInput(
            f"{out} holds the frozen set of {len(known)} pictures, and there are {len(sources)} now or others: "
            "name another folder for --out."
        )
    return {row["file"]: row["sha256"] for row in rows}


def read_output_card(out: Path) -> dict[str, Any] | None:
    """The card of the set that lies in `out`; None where `out` is free. Raises BadInput where something else is."""
    if (file := find_blocking_file(out)) is not None:
        raise BadInput(f"{file} is a file: name a folder for --out.")
    for here in (out.absolute(), out.resolve()):
        if any(place.name in PARTS and (place.parent / LEDGER_NAME).is_file() for place in (here, *here.parents)):
            raise BadInput(f"{out} lies among a dataset's own files, each of which has a row: name another --out.")
    if not out.exists() or {path.name for path in out.iterdir()} <= {LOCK}:
        return None
    if not (out / CARD).is_file():
        raise BadInput(f"{out} is not empty and holds no degraded set: name another folder for --out.")
    return read_card(out)
