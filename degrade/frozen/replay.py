"""Makes a frozen set again, byte for byte, from its theta.jsonl and the clean images (replay)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from degrade.frozen.folders import FolderSummary, read_output_card
from degrade.frozen.jobs import Advance, Job, check_engine, open_untrusted_job_pool, run_jobs
from degrade.frozen.set_files import (
    CARD,
    THETAS,
    Row,
    compare_versions,
    decode_name,
    encode_card,
    finish_set,
    hash_folder,
    make_card,
    read_card,
    read_theta_file,
)
from manifests.errors import BadInput
from manifests.runtime.files import lock_folder, remove_temporary_files, sha256_bytes, sha256_file, write_atomically
from manifests.runtime.text import make_printable
from manifests.runtime.workers import check_workers
from manifests.stores.store_path import parse_path


def replay(
    source: Path,
    thetas: Path,
    out: Path,
    workers: int | None = None,
    progress: Advance | None = None,
    dry_run: bool = False,
) -> FolderSummary:
    """Makes the set of the file `thetas` again in the folder `out`, from the clean images below `source`.

    `source` is the folder or the dataset from which the set was made, even if this folder was moved. A clean image that
    is not in its old place is found by its content, anywhere below `source`, for example in an export. The images and
    theta.jsonl of the new set have the same bytes as in the original set. The card of the new set differs from the
    original card only in the path of the source and in the versions. If the replay was interrupted, a second call
    continues the replay. A second call also makes missing and changed images again.

    If a clean image is missing or has changed, or if `out` contains anything except this set, raises BadInput and
    writes nothing. Also raises BadInput if the bytes of an image differ from the recorded bytes. The message names the
    images whose bytes differ. Images whose bytes differ are not written, and the card of the set stays incomplete.
    """
    source, thetas, out = parse_path(source), parse_path(thetas), parse_path(out)
    if workers is not None:
        check_workers(workers)
    if not source.is_dir():
        raise BadInput(f"{source} is not a folder: name the folder or the dataset from which the set was made.")
    rows = read_theta_file(thetas)
    if not rows:
        raise BadInput(f"{thetas} lists no images. Give the path of the file {THETAS} of a frozen set.")
    for engine in {row["engine"] for row in rows}:
        check_engine(engine)
    data = thetas.read_bytes()
    card = _make_replay_card(thetas, rows, sha256_bytes(data), source)
    existing_card = read_output_card(out)
    if existing_card is not None and existing_card.get("theta_sha256") != card["theta_sha256"]:
        raise BadInput(f"{out} contains another set (its {THETAS} differs): name another folder for --out.")

    complete = existing_card is not None and bool(existing_card.get("complete"))
    paths = [out / decode_name(row["file_encoded"]) for row in rows]
    hashes = [sha256_file(path) if path.is_file() else None for path in paths]
    todo = [n for n, row in enumerate(rows) if hashes[n] != row["sha256"]]
    sources = dict(zip(todo, _find_sources(source, [rows[n] for n in todo]), strict=True))
    skipped = [(name, reason) for name, reason in card.pop("skipped", [])]
    preset = card["preset"]["name"] if card["preset"] else None
    summary = (str(out), preset, card["seed"], card["size"], len(rows))
    if dry_run:
        return FolderSummary(*summary, images_written=0, images_repaired=0, skipped=tuple(skipped))

    with lock_folder(out):
        remove_temporary_files(out)
        if not complete:
            write_atomically(out / CARD, encode_card(card, complete=False))
        jobs = [_make_job(sources[n], rows[n]) for n in todo]
        different: list[str] = []
        if progress:
            progress(len(rows) - len(todo))
        with open_untrusted_job_pool(workers, len(jobs)) as map_in_order:
            for n, result in zip(todo, map_in_order(run_jobs, jobs), strict=True):
                if result.sha256 == rows[n]["sha256"]:
                    write_atomically(paths[n], result.png)
                else:
                    name = make_printable(decode_name(rows[n]["file_encoded"]))
                    different.append(name + (f" {result.problem}" if result.problem else ""))
                if progress:
                    progress(1)
        if different:
            guess = "another processor, other versions of OpenCV and numpy, or an edited θ"
            cause = "; ".join(compare_versions(_read_card_beside(thetas) or {})) or guess
            raise BadInput(
                f"{_list_names(different)} of {len(rows)} images differ from the bytes that {thetas} records, so they "
                f"were not written. Possible causes: {cause}. `likeness verify --originals {source}` on the original "
                "set shows the difference."
            )
        if not complete or not (out / THETAS).is_file():
            finish_set(out, card, data, len(rows), skipped)
        return FolderSummary(*summary, len(todo), sum(hashes[n] is not None for n in todo), tuple(skipped))


def _make_job(path: Path, row: Row) -> Job:
    return Job(path, row["size"], row["theta"], engine=row["engine"])


def _read_card_beside(thetas: Path) -> dict[str, Any] | None:
    """Returns the card beside a theta.jsonl, or None if there is no card or the card names another theta.jsonl."""
    try:
        card = read_card(thetas.parent)
    except BadInput:
        return None
    return card if card.get("theta_sha256") == sha256_file(thetas) else None


def _make_replay_card(thetas: Path, rows: list[Row], theta_sha256: str, source: Path) -> dict[str, Any]:
    """Returns the card of the original set, with the current path of the sources. The versions of Likeness and of its
    libraries are those of this run.
    """
    original = _read_card_beside(thetas) or {}
    sizes, engines = ({row[key] for row in rows} for key in ("size", "engine"))
    size = sizes.pop() if len(sizes) == 1 else None
    card = make_card(None, None, size, source.absolute(), " and ".join(sorted(engines)))
    keys = ("preset", "seed", "size", "theta_version", "skipped")
    card |= {key: original[key] for key in keys if key in original}
    replay_card: dict[str, Any] = json.loads(json.dumps(card | {"theta_sha256": theta_sha256}))
    return replay_card


def _find_sources(source: Path, rows: list[Row]) -> list[Path]:
    """Returns the clean image of each row: the file in its old place, or another file with the recorded bytes.

    Raises BadInput, with the names of the files, if sources are missing or have changed since they were degraded.
    """
    missing: list[str] = []
    changed: list[str] = []
    found: list[Path] = []
    others: dict[str, Path] | None = None  # sha256 -> file; filled if a source is not in its place
    for row in rows:
        path = source / decode_name(row["source_encoded"])
        try:
            sha256: str | None = sha256_file(path)
        except OSError:
            sha256 = None
        if sha256 != row["source_sha256"]:
            others = hash_folder(source) if others is None else others
            path = others.get(row["source_sha256"], path)
            if row["source_sha256"] not in others:
                (missing if sha256 is None else changed).append(make_printable(decode_name(row["source_encoded"])))
        found.append(path)
    problems = [f"{_list_names(names)} {word}" for names, word in ((missing, "missing"), (changed, "changed")) if names]
    if problems:
        raise BadInput(
            f"The set cannot be made again from {source}. Images: {', '.join(problems)}. Nothing was written. Name the "
            "folder or the dataset from which the set was made. The images of the folder must be unchanged."
        )
    return found


def _list_names(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} ({', '.join(names[:5])}{more})"
