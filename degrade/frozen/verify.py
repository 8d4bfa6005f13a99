"""Verification of frozen sets: every image is made again from its θ, and all bytes are compared."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degrade.frozen.dataset_sets import Progress, list_sets, lq_path
from degrade.frozen.folders import find_images
from degrade.frozen.jobs import (
    Comparison,
    Job,
    check_engine,
    compare_job,
    compare_jobs,
    open_job_pool,
    open_untrusted_job_pool,
)
from degrade.frozen.set_files import (
    CARD,
    SET_FILES,
    THETAS,
    card_draws_rows,
    compare_versions,
    decode_name,
    encode_name,
    read_card,
    read_set_rows,
)
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.queries import read_set_detail
from manifests.ledger.records import Degradation
from manifests.runtime.files import sha256_file


@dataclass(frozen=True)
class Verification:
    """What `verify` found; the tuples hold file names (without .png: face ids, in a dataset)."""

    lq_set: str
    images: int
    missing_files: tuple[str, ...]  # recorded, and not on disk
    changed_files: tuple[str, ...]  # on disk with another sha256 than recorded
    unreproduced_files: tuple[str, ...]  # regenerated with another sha256 than recorded
    files_without_source: tuple[str, ...]  # the clean picture is gone, so nothing could be regenerated
    unexpected_files: tuple[str, ...]  # on disk and not recorded
    images_not_made: int  # images the set should have and has not got: the run that makes it was stopped
    largest_difference: int  # between a file and its regeneration, over all pixels, in 1/255
    version_differences: tuple[str, ...] = ()  # versions that made the set and are others here

    @property
    def ok(self) -> bool:
        """Every recorded file is there and regenerates to the recorded bytes, and there is no other."""
        wrong = (
            self.missing_files
            + self.changed_files
            + self.unreproduced_files
            + self.files_without_source
            + self.unexpected_files
        )
        return not wrong and self.images_not_made == 0

    def to_json(self) -> dict[str, Any]:
        """Returns the fields and `ok` as one JSON object."""
        return {**dataclasses.asdict(self), "ok": self.ok}


def verify_set(dataset: Path, lq_set: str, workers: int = 1, progress: Progress | None = None) -> Verification:
    """Regenerate every image of a frozen set from its recorded θ; compare it, and the file on disk, with the recorded
    sha256. Changes nothing. Raises BadInput where the ledger knows no such set."""
    dataset = Path(dataset)
    with Ledger.open(dataset) as ledger:
        rows = ledger.read_rows(Degradation, "lq_set = ?", lq_set)
        detail = read_set_detail(ledger, lq_set)
    if not rows and detail is None:
        known = ", ".join(list_sets(dataset)) or "none yet: make one with `likeness degrade`"
        raise BadInput(f"{dataset} has no frozen set {lq_set}; the sets are {known}.")
    expected = len(rows) if detail is None else len(detail["faces"])
    engine = (detail or {}).get("engine", "exact")
    check_engine(engine)
    jobs = [
        Job(
            crop_path(dataset, row.face_id),
            row.size,
            json.loads(row.theta),
            lq_path(dataset, lq_set, row.face_id),
            engine,
        )
        for row in rows
    ]
    compared: list[Comparison] = []
    with open_job_pool(workers, len(jobs)) as map_in_order:
        for comparison in map_in_order(compare_job, jobs):
            compared.append(comparison)
            if progress:
                progress(1)
    folder = dataset / "lq" / lq_set
    there = {path.stem for path in folder.glob("[!.]*") if path.name not in SET_FILES}
    unexpected = sorted(there - {row.face_id for row in rows})
    names_and_hashes = [(row.face_id, row.sha256) for row in rows]
    found = summarize(lq_set, names_and_hashes, compared, unexpected, images_not_made=expected - len(rows))
    # sets of Likeness 0.1 have no card: their records are rows of the ledger alone
    return check_set_files(found, folder) if (folder / CARD).is_file() else found


def verify_folder(
    out: Path, workers: int | None = None, progress: Progress | None = None, source: Path | None = None
) -> Verification:
    """As `sets.verify_set`, for a folder made by `degrade_folder` or `replay`, or a copy of any set.

    The clean pictures are looked for in `source`, or else where its card says; one that has changed since counts as
    gone.
    """
    out = Path(out)
    card, rows = read_card(out), read_set_rows(out)
    for engine in {row["engine"] for row in rows}:
        check_engine(engine)
    source = out / decode_name(card["source"]) if source is None else Path(source)
    if not source.is_dir() and source != out / decode_name(card["source"]):
        raise BadInput(f"{source} is not a folder: name the one with the clean pictures.")
    jobs = [
        Job(source / decode_name(r["source"]), r["size"], r["theta"], out / decode_name(r["file"]), r["engine"])
        for r in rows
    ]
    compared: list[Comparison] = []
    with open_untrusted_job_pool(workers, len(jobs)) as map_in_order:
        for row, found in zip(rows, map_in_order(compare_jobs, jobs), strict=True):
            same = found.source_sha256 == row["source_sha256"]
            compared.append(found if same else Comparison(found.disk_sha256, None, None, None))
            if progress:
                progress(1)
    recorded = [(row["file"], row["sha256"]) for row in rows]
    there = {encode_name(path) for path in find_images(out)}
    unexpected = sorted(there - {name for name, _ in recorded})
    unfinished = 0 if card.get("complete") else 1
    found = summarize(out.resolve().name, recorded, compared, unexpected, unfinished)
    return check_set_files(found, out)


def summarize(
    lq_set: str,
    recorded: list[tuple[str, str]],
    compared: list[Comparison],
    unexpected: list[str],
    images_not_made: int,
) -> Verification:
    """Sum comparisons up. `recorded` holds (name, sha256), in the order of `compared`."""
    both = list(zip(recorded, compared, strict=True))
    regenerated = [(name, sha256, found) for (name, sha256), found in both if found.regenerated_sha256 is not None]
    return Verification(
        lq_set,
        images=len(recorded),
        missing_files=tuple(name for (name, _), found in both if found.disk_sha256 is None),
        changed_files=tuple(name for (name, sha256), found in both if found.disk_sha256 not in (None, sha256)),
        unreproduced_files=tuple(name for name, sha256, found in regenerated if found.regenerated_sha256 != sha256),
        files_without_source=tuple(name for (name, _), found in both if found.regenerated_sha256 is None),
        unexpected_files=tuple(unexpected),
        images_not_made=max(0, images_not_made),
        largest_difference=max((found.difference or 0 for found in compared), default=0),
    )


def check_set_files(found: Verification, out: Path) -> Verification:
    """What `verify` found, and whether theta.jsonl is the one that the card names and whose θ its preset and seed draw,
    and with what the set was made."""
    card = read_card(out)
    named = card.get("theta_sha256")
    if named is not None and not (out / THETAS).is_file():
        found = dataclasses.replace(found, missing_files=(*found.missing_files, THETAS))
    elif named is not None and sha256_file(out / THETAS) != named:
        found = dataclasses.replace(found, changed_files=(*found.changed_files, THETAS))
    elif named is not None and not card_draws_rows(card, read_set_rows(out)):
        found = dataclasses.replace(found, changed_files=(*found.changed_files, CARD))
    return dataclasses.replace(found, version_differences=compare_versions(card))
