"""Finds the photos that stores did not send, and describes them to the user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from manifests.errors import StoreFailed
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import File
from manifests.runtime.text import format_count, make_printable
from manifests.stores.addresses import starts_like_address
from manifests.stores.failures import DENIED, MEANINGS, MISSING, TRUNCATED, UNREADABLE

_REASONS = (MISSING, DENIED, TRUNCATED, UNREADABLE)
# Selects the uris of the photos that could not be read again after the scan.
_LOST_PHOTOS = (
    "SELECT min(uri) AS uri FROM photos JOIN files USING (photo_id) "
    "WHERE photos.reason = 'file_vanished_or_changed' GROUP BY photo_id"
)


def describe_unread_files(files: Sequence[File], uris: Collection[str], paths: Sequence[Path]) -> list[str]:
    """Returns a notice about the files that a scan could not read from stores, or [].

    `files` are all rows of the ledger, `uris` the uris of the scan, and `paths` the paths that the user named. Raises
    StoreFailed if the scan could read no file at all, because the stores failed.
    """
    scanned = [file for file in files if file.uri in uris]
    in_stores = [file for file in scanned if starts_like_address(file.uri)]
    failures = Counter(file.reason for file in in_stores if file.bytes is None and file.reason in _REASONS)
    if not failures:
        return []
    counts = ", ".join(f"{count} {reason} ({MEANINGS[reason or '']})" for reason, count in failures.most_common())
    if all(file.bytes is None for file in scanned):
        where = make_printable(paths[0]) if len(paths) == 1 else "the named addresses"
        raise StoreFailed(
            f"The store failed, so no file of {where} could be read: {counts}. Check the store, then run the same "
            "command again."
        )
    unread = f"{failures.total()} of {format_count(len(in_stores), 'file')}"
    return [f"The store failed, so {unread} could not be read: {counts}. The next run reads them again."]


def describe_lost_photos(ledger: Ledger) -> list[str]:
    """Returns a notice about the photos in stores that could not be read again after the scan, or [].

    Raises StoreFailed if these are all photos of the dataset.
    """
    lost = sum(map(starts_like_address, ledger.query(_LOST_PHOTOS)["uri"]))
    if not lost:
        return []
    photos = ledger.query("SELECT count(*) AS photos FROM photos")["photos"][0]
    unread = f"{lost} of {format_count(photos, 'photo')} could not be read again after the scan"
    if lost == photos:
        raise StoreFailed(f"The store failed, so {unread}. Check the store, then run the same command again.")
    return [f"The store failed or the photos changed, so {unread}. The next run reads them again."]
