"""A frozen set again, from its theta.jsonl and the clean pictures: the same bytes, or a sentence that says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from degrade.frozen.folders import FolderSummary, Progress, read_output_card
from degrade.frozen.jobs import Job, check_engine, open_untrusted_job_pool, run_jobs
from degrade.frozen.set_files import (
    CARD,
    THETAS,
    Row,
    compare_versions,
    decode_name,
    encode_card,
    encode_name,
    finish_set,
    make_card,
    read_card,
    read_theta_file,
)
from manifests.errors import BadInput
from manifests.runtime.files import lock_folder, remove_temporary_files, sha256_bytes, sha256_file, write_atomically
from manifests.runtime.workers import check_workers


def replay(
    source: Path,
    thetas: Path,
    out: Path,
    workers: int | None = None,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> FolderSummary:
    """Build the set of the file `thetas` in `out`, from the clean pictures below `source`: the folder, or the dataset,
    that the set was made from, wherever it lies now.

    Images and theta.jsonl come out byte for byte; so does the card, but for where `source` lies and the versions used.
    The same command resumes, and makes again what is gone or changed. Raises BadInput, with nothing written, where a
    source is missing or has changed, or where `out` holds anything else; and where pictures come out with other bytes
    than recorded, those are named and not written, and the set stays marked as incomplete.
    """
    source, thetas, out = Path(source), Path(thetas), Path(out)
    if workers is not None:
        check_workers(workers)
    if not source.is_dir():
        raise BadInput(f"{source} is not a folder: name the folder, or the dataset, that the set was made from.")
    rows = read_theta_file(thetas)
    if not rows:
        raise BadInput(f"{thetas} names no image: name the {THETAS} of a frozen set.")
    for engine in {row["engine"] for row in rows}:
        check_engine(engine)
    data = thetas.read_bytes()
    card = _card(thetas, rows, sha256_bytes(data), source)
    there = read_output_card(out)
    if there is not None and there.get("theta_sha256") != card["theta_sha256"]:
        raise BadInput(f"{out} holds another set (its {THETAS} differs): name another folder for --out.")

    complete = there is not None and bool(there.get("complete"))
    paths = [out / decode_name(row["file"]) for row in rows]
    hashes = [sha256_file(path) if path.is_file() else None for path in paths]
    todo = [n for n, row in enumerate(rows) if hashes[n] != row["sha256"]]
    _check_sources(source, [rows[n] for n in todo])
    skipped = [(name, reason) for name, reason in card.pop("skipped", [])]
    preset = card["preset"]["name"] if card["preset"] else None
    done = (str(out), preset, card["seed"], card["size"], len(rows))
    if dry_run:
        return FolderSummary(*done, images_written=0, images_repaired=0, skipped=tuple(skipped))

    with lock_folder(out):
        remove_temporary_files(out)
        if not complete:
            write_atomically(out / CARD, encode_card(card, complete=False))
        jobs = [_job(source, rows[n]) for n in todo]
        differ: list[str] = []
        if progress:
            progress(len(rows) - len(todo))
        with open_untrusted_job_pool(workers, len(jobs)) as map_in_order:
            for n, result in zip(todo, map_in_order(run_jobs, jobs), strict=True):
                if result.sha256 == rows[n]["sha256"]:
                    write_atomically(paths[n], result.png)
                else:
                    differ.append(rows[n]["file"] + (f" {result.problem}" if result.problem else ""))
                if progress:
                    progress(1)
        if differ:
            elsewhere = "another processor, other versions of OpenCV and numpy, or an edited θ"
            why = "; ".join(compare_versions(_beside(thetas) or {})) or elsewhere
            raise BadInput(
                f"{_named(differ)} of {len(rows)} come out with other bytes than {thetas} records and were not written "
                f"({why}): `likeness verify --pictures {source}` on the original set says by how much."
            )
        if not complete or not (out / THETAS).is_file():
            finish_set(out, card, data, len(rows), skipped)
        return FolderSummary(*done, len(todo), sum(hashes[n] is not None for n in todo), tuple(skipped))


def _job(source: Path, row: Row) -> Job:
    return Job(source / decode_name(row["source"]), row["size"], row["theta"], engine=row["engine"])


def _beside(thetas: Path) -> dict[str, Any] | None:
    """The card beside a theta.jsonl, where there is one and it names this theta.jsonl."""
    try:
        card = read_card(thetas.parent)
    except BadInput:
        return None
    return card if card.get("theta_sha256") == sha256_file(thetas) else None


def _card(thetas: Path, rows: list[Row], theta_sha256: str, source: Path) -> dict[str, Any]:
    """The card of the set as it was, with where its sources are now and with what it is made now."""
    beside = _beside(thetas) or {}
    sizes, engines = ({row[key] for row in rows} for key in ("size", "engine"))
    size = sizes.pop() if len(sizes) == 1 else None
    card = make_card(None, None, size, encode_name(source.absolute()), " and ".join(sorted(engines)))
    kept = {key: beside[key] for key in ("preset", "seed", "size", "theta_version", "skipped") if key in beside}
    new: dict[str, Any] = json.loads(json.dumps(card | kept | {"theta_sha256": theta_sha256}))
    return new


def _check_sources(source: Path, rows: list[Row]) -> None:
    """Raise BadInput that names the sources that are missing or are not what was degraded."""
    missing, changed = [], []
    for row in rows:
        path = source / decode_name(row["source"])
        try:
            if sha256_file(path) != row["source_sha256"]:
                changed.append(row["source"])
        except OSError:
            missing.append(row["source"])
    found = [f"{_named(names)} {what}" for names, what in ((missing, "missing"), (changed, "changed since")) if names]
    if found:
        raise BadInput(
            f"The set cannot be built again from {source}, and nothing was written: {', '.join(found)}. Name the "
            "folder or dataset that it was made from, with the pictures as they were."
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} ({', '.join(names[:5])}{more})"
