"""Verifies frozen sets: makes every image again from its θ and compares all bytes with the records."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degrade.frozen.dataset_sets import list_sets, lq_path
from degrade.frozen.jobs import (
    Advance,
    Comparison,
    Job,
    check_engine,
    compare_job,
    compare_jobs,
    open_job_pool,
    open_untrusted_job_pool,
)
from degrade.frozen.search_folder import find_images
from degrade.frozen.set_files import (
    CARD,
    SET_FILES,
    THETAS,
    card_gives_thetas,
    compare_versions,
    decode_name,
    find_source,
    hash_folder,
    plain_name,
    read_card,
    read_set_rows,
)
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.queries import read_set_detail
from manifests.ledger.records import Degradation
from manifests.runtime.files import sha256_file
from manifests.stores.store_path import parse_path


@dataclass(frozen=True)
class Verification:
    """Holds the result of `likeness verify` for one set. The tuples contain file names, or face ids for a dataset."""

    lq_set: str
    images: int  # The number of recorded images.
    missing_files: tuple[str, ...]  # Recorded files that are not on disk.
    changed_files: tuple[str, ...]  # Files whose SHA-256 on disk differs from the record.
    unreproduced_files: tuple[str, ...]  # Images that get another SHA-256 when they are made again.
    files_without_source: tuple[str, ...]  # Images whose clean image is missing, has changed or cannot be read.
    unexpected_files: tuple[str, ...]  # Files that are on disk but not recorded.
    images_not_made: int  # The number of images that an unfinished set lacks; 1 if the number is unknown.
    largest_difference: int  # The largest difference of a pixel value between a file and its new image, in 1/255.
    # A text for each library whose version on this machine differs from the version that made the set.
    version_differences: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Returns whether every file on disk, and every image that was made again, matches its record.

        Also returns False if a file has no record, or if the set is not finished.
        """
        problems = (
            self.missing_files,
            self.changed_files,
            self.unreproduced_files,
            self.files_without_source,
            self.unexpected_files,
        )
        return not any(problems) and self.images_not_made == 0

    def to_json(self) -> dict[str, Any]:
        """Returns the fields and `ok` as one JSON object."""
        return {**dataclasses.asdict(self), "ok": self.ok}


def verify_set(dataset: Path, lq_set: str, workers: int = 1, progress: Advance | None = None) -> Verification:
    """Verifies a frozen set of a dataset and changes nothing.

    Every image is made again from its recorded θ. The new image and the file on disk are both compared with the
    recorded SHA-256. `progress` is called with the number of images verified since the last call. Raises BadInput if
    the ledger does not contain this set.
    """
    dataset = Path(dataset)
    with Ledger.open(dataset) as ledger:
        rows = ledger.read_rows(Degradation, "lq_set = ?", lq_set)
        detail = read_set_detail(ledger, lq_set)
    if detail is None:
        names = ", ".join(list_sets(dataset))
        advice = f"the sets are {names}" if names else "no set exists yet: make one with `likeness degrade`"
        raise BadInput(f"{dataset} has no frozen set {lq_set}; {advice}.")
    images_not_made = len(detail["faces"]) - len(rows)
    engine = detail.get("engine", "exact")
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
    comparisons: list[Comparison] = []
    with open_job_pool(workers, len(jobs)) as map_in_order:
        for comparison in map_in_order(compare_job, jobs):
            comparisons.append(comparison)
            if progress:
                progress(1)
    folder = dataset / "lq" / lq_set
    on_disk = {path.stem for path in folder.glob("[!.]*") if path.name not in SET_FILES}
    unexpected = sorted(on_disk - {row.face_id for row in rows})
    recorded = [(row.face_id, row.sha256) for row in rows]
    verification = _summarize(lq_set, recorded, comparisons, unexpected, images_not_made)
    # An unfinished set has no card yet.
    return _check_set_files(verification, folder) if (folder / CARD).is_file() else verification


def verify_folder(
    out: Path, workers: int | None = None, progress: Advance | None = None, source: Path | None = None
) -> Verification:
    """Verifies a set made by `degrade_folder` or `replay`, or a copy of any set, and changes nothing.

    The clean images are read from `source`, or from the path in the card if `source` is None. A clean image that is not
    in its place is found by its content, anywhere in this folder. A clean image that has changed counts as missing.
    `progress` is called with the number of images verified since the last call. Raises BadInput if `out` is not a
    frozen set or `source` is not a folder.
    """
    out = parse_path(out)
    card, rows = read_card(out), read_set_rows(out)
    for engine in {row["engine"] for row in rows}:
        check_engine(engine)
    recorded_source = find_source(out, card)
    source = recorded_source if source is None else parse_path(source)
    if not source.is_dir() and source != recorded_source:
        raise BadInput(f"{source} is not a folder: name the folder of the clean images.")
    files = [decode_name(row["file_encoded"]) for row in rows]
    sources = [source / decode_name(row["source_encoded"]) for row in rows]
    missing = [n for n, path in enumerate(sources) if not path.is_file()]
    moved = hash_folder(source) if missing and source.is_dir() else {}
    for n in missing:
        sources[n] = moved.get(rows[n]["source_sha256"], sources[n])
    jobs = [
        Job(path, row["size"], row["theta"], out / file, row["engine"])
        for row, path, file in zip(rows, sources, files, strict=True)
    ]
    comparisons: list[Comparison] = []
    with open_untrusted_job_pool(workers, len(jobs)) as map_in_order:
        for row, comparison in zip(rows, map_in_order(compare_jobs, jobs), strict=True):
            same = comparison.source_sha256 == row["source_sha256"]
            comparisons.append(comparison if same else Comparison(comparison.disk_sha256, None, None, None))
            if progress:
                progress(1)
    recorded = [(row["file"], row["sha256"]) for row in rows]
    unexpected = sorted(plain_name(path) for path in set(find_images(out)) - set(files))
    images_not_made = 0 if card.get("complete") else 1
    verification = _summarize(out.resolve().name, recorded, comparisons, unexpected, images_not_made)
    return _check_set_files(verification, out)


def _summarize(
    lq_set: str,
    recorded: list[tuple[str, str]],
    comparisons: list[Comparison],
    unexpected: list[str],
    images_not_made: int,
) -> Verification:
    """Returns the verification of a set. `recorded` contains (name, SHA-256) pairs, in the order of `comparisons`."""
    both = [(name, sha256, each) for (name, sha256), each in zip(recorded, comparisons, strict=True)]
    regenerated = [(name, sha256, each) for name, sha256, each in both if each.regenerated_sha256 is not None]
    return Verification(
        lq_set,
        images=len(recorded),
        missing_files=tuple(name for name, _, each in both if each.disk_sha256 is None),
        changed_files=tuple(name for name, sha256, each in both if each.disk_sha256 not in (None, sha256)),
        unreproduced_files=tuple(name for name, sha256, each in regenerated if each.regenerated_sha256 != sha256),
        files_without_source=tuple(name for name, _, each in both if each.regenerated_sha256 is None),
        unexpected_files=tuple(unexpected),
        images_not_made=max(0, images_not_made),
        largest_difference=max((each.difference or 0 for each in comparisons), default=0),
    )


def _check_set_files(verification: Verification, out: Path) -> Verification:
    """Adds the problems of theta.jsonl and card.json, and the differences of versions, to a verification.

    theta.jsonl must be the file that the card names. The preset and the seed of the card must give the θ of all lines.
    """
    card = read_card(out)
    expected = card.get("theta_sha256")
    missing, changed = verification.missing_files, verification.changed_files
    if expected is not None and not (out / THETAS).is_file():
        missing = (*missing, THETAS)
    elif expected is not None and sha256_file(out / THETAS) != expected:
        changed = (*changed, THETAS)
    elif expected is not None and not card_gives_thetas(card, read_set_rows(out)):
        changed = (*changed, CARD)
    return dataclasses.replace(
        verification, missing_files=missing, changed_files=changed, version_differences=compare_versions(card)
    )
