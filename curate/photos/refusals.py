"""Checks before the scan that every refusal of consent in a sidecar matches a file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from curate.photos.consent import SidecarLine, list_places, normalise_path, read_sidecar
from curate.photos.name_rules import LEFT_OUT, NameRules
from curate.photos.walk import walk_files
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.records import File
from manifests.privacy.erase import CONSENT_REFUSALS
from manifests.privacy.kept_out import read_kept_out_list
from manifests.privacy.keys import HIDDEN_PREFIX, hide_uri
from manifests.runtime.archives import read_names
from manifests.runtime.text import format_count, make_printable
from manifests.runtime.uris import display_path, normalise_name, uri_of
from manifests.runtime.workers import BatchMap, FailedUnit, guard_units

_EXAMPLES = 20  # largest number (ours) of lines that an error names
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def check_refusals(dataset: Path, sidecar: str, paths: Sequence[Path], rules: NameRules, map_batches: BatchMap) -> None:
    """Raises BadInput if a line that refuses consent names neither a file under `paths` nor a file of the dataset.

    The error names the wrong lines. Lines with a sha256 are checked after the scan, by `check_refused_hashes`.
    """
    lines = [line for line in read_sidecar(Path(sidecar)) if line.consent in CONSENT_REFUSALS]
    lines = [line for line in lines if not _SHA256.fullmatch(line.file)]
    if not lines:
        return
    ledger_files, key = _read_files(dataset)
    hidden = {file.uri for file in ledger_files if file.uri.startswith(HIDDEN_PREFIX)}
    names = {normalise_name(display_path(file.uri)) for file in ledger_files if file.uri not in hidden}
    files: dict[str, Path] = {}  # Normalised path -> path of a file that may be an archive.
    left_out: set[str] = set()  # Folders whose files have no rows.
    for item in walk_files(paths, rules=rules):
        if isinstance(item, Path):
            files[normalise_path(item)] = item
        else:
            names.add(normalise_name(display_path(item.uri)))
            if item.reason in LEFT_OUT:
                left_out.add(normalise_name(display_path(item.uri)))
    names |= files.keys()

    def is_known(line: SidecarLine) -> bool:
        for place in list_places(line.file, paths):
            parents = {str(parent) for parent in Path(place).parents}
            if place in names or parents & left_out or (key and hide_uri(key, uri_of(place)) in hidden):
                return True
        return False

    lines = [line for line in lines if not is_known(line)]
    parents = {
        str(parent) for line in lines for place in list_places(line.file, paths) for parent in Path(place).parents
    }
    archives = [files[parent] for parent in sorted(parents & files.keys())]
    for (members,) in map_batches(read_names_batch, [[archive] for archive in archives]):
        names |= members
    raise_unmatched(sidecar, [line for line in lines if not is_known(line)])


def _read_files(dataset: Path) -> tuple[list[File], bytes]:
    """Returns the rows of the dataset's files, and the key that hides the names of kept-out files.

    Without kept-out files, the key is b"".
    """
    if not (dataset / LEDGER_NAME).exists():
        return [], b""
    with Ledger.open(dataset) as ledger:
        return ledger.read_rows(File), read_kept_out_list(ledger).key


def check_refused_hashes(ledger: Ledger, sidecar: str) -> None:
    """Raises BadInput if a line that refuses consent has the sha256 of no photo.

    The photos of the ledger and the kept-out photos are searched.
    """
    kept_out, photos = read_kept_out_list(ledger), {file.photo_id for file in ledger.read_rows(File)}
    raise_unmatched(
        sidecar,
        [
            line
            for line in read_sidecar(Path(sidecar))
            if line.consent in CONSENT_REFUSALS
            and _SHA256.fullmatch(line.file)
            and line.file.lower() not in photos
            and kept_out.reason_for(line.file.lower()) is None
        ],
    )


def raise_unmatched(sidecar: str, lines: Sequence[SidecarLine]) -> None:
    """Raises a BadInput that names `lines` of the sidecar. Does nothing if `lines` is empty."""
    if not lines:
        return
    named = ", ".join(f"line {line.line} ({make_printable(line.file)})" for line in lines[:_EXAMPLES])
    more = f" and {len(lines) - _EXAMPLES} more" if len(lines) > _EXAMPLES else ""
    refusals = format_count(len(lines), "line that refuses consent", "lines that refuse consent")
    raise BadInput(
        f"{sidecar}: no photo matches {refusals}: {named}{more}. Write the path "
        "below the folder of photos. If the table also covers other photos, give --allow-unmatched."
    )


def read_names_batch(archives: Sequence[Path | FailedUnit]) -> list[set[str]]:
    """Returns the normalised paths of each archive's members. A worker process runs this function."""
    names = []
    for archive in guard_units(archives):
        members: set[str] = set()
        if not isinstance(archive, FailedUnit):
            members = {normalise_path(archive / os.fsdecode(name.lstrip(b"/"))) for name in read_names(archive)}
        names.append(members)
    return names
