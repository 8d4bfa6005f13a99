"""The last part of the stage `scan`: chooses the date of each photo, and finds out whether the date can be trusted.

Some doubts about the date of a file follow from the dates of other files. For example, the dates of a series of photos
show that a clock was reset. Every run therefore looks for doubts again, as soon as all files are known.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, time, timedelta

from manifests.ledger.ledger import Ledger
from manifests.ledger.records import File, Photo
from manifests.runtime.uris import display_path

BEFORE_PHOTOGRAPHY, IN_FUTURE, EPOCH = "before_photography", "in_future", "epoch"
CLOCK_RESET, SAME_SECOND, OUT_OF_ORDER = "clock_reset", "same_second", "out_of_order"

_FIRST_PHOTO = datetime(1826, 1, 1)  # Niépce's oldest photo that still exists is from 1826 or 1827.
# The first days of the clocks of old Macs (1904), Unix (1970) and DOS (1980). In some time zones, such a clock starts
# on the day before.
_EPOCHS = (datetime(1904, 1, 1), datetime(1970, 1, 1), datetime(1980, 1, 1))
_NOON = time(12)
_DAY = timedelta(days=1)
# If more than _MAX_PHOTOS_A_SECOND photos (ours) of one camera have the same second, the clock of the camera probably
# stood still. No usual camera takes more than 30 photos a second. Photos without a camera model count as photos of one
# camera, because one program, such as a scanner's, may have written their dates.
_MAX_PHOTOS_A_SECOND = 30
# Users delete photos, so the numbers in a series have gaps. The numbers of two neighbouring files of a series differ by
# at most _MAX_GAP (ours).
_MAX_GAP = 10
# Design rule for Camera File system (CIPA DC-009): four characters and four digits
_CAMERA_NAME = re.compile(r"([A-Z0-9_]{4})(\d{4})", re.IGNORECASE)


def date_photos(ledger: Ledger, files: Sequence[File]) -> None:
    """Records the date of every photo. If a date cannot be trusted, the reason is also recorded.

    `files` are all files of the ledger.
    """
    changed = choose_dates(files, ledger.read_rows(Photo), ledger.read_clock())
    if changed:
        ledger.record("scan", "dates", {}, changed)


def choose_dates(files: Iterable[File], photos: Iterable[Photo], present: datetime) -> list[Photo]:
    """Returns the rows of the photos whose date changes. `present` is the current time in UTC.

    If several files contain a photo, the earliest date that can be trusted is used.
    """
    dated = [file for file in files if file.photo_id is not None and file.taken_from is not None]
    doubts = find_doubts(dated, present)
    files_of: dict[str, list[File]] = defaultdict(list)
    for file in dated:
        files_of[str(file.photo_id)].append(replace(file, taken_doubt=doubts.get(file.uri)))
    changed = []
    for photo in photos:
        best = min(files_of[photo.photo_id], key=_rank, default=File("", None, None, None, "ok"))
        row = replace(
            photo,
            taken=best.taken,
            taken_offset=best.taken_offset,
            taken_from=best.taken_from,
            taken_doubt=best.taken_doubt,
        )
        if row != photo:
            changed.append(row)
    return changed


def _rank(file: File) -> tuple[bool, bool, datetime, str]:
    return file.taken_doubt is not None, file.taken is None, file.taken or datetime.max, file.uri


def find_doubts(files: Sequence[File], present: datetime) -> dict[str, str]:
    """Returns uri -> why the date of a file cannot be trusted. Files whose date can be trusted are left out."""
    doubts = {file.uri: file.taken_doubt for file in files if file.taken_doubt is not None}
    for file in files:
        if file.taken is not None and (doubt := _find_impossible(file.taken, present)) is not None:
            doubts.setdefault(file.uri, doubt)
    clear = [file for file in files if file.uri not in doubts]
    seconds = Counter((file.camera_model, file.taken) for file in {file.photo_id: file for file in clear}.values())
    for file in clear:
        # a date without a time is stored as noon, which says nothing about the clock of the camera
        has_time = file.taken is not None and file.taken.time() != _NOON
        if has_time and seconds[file.camera_model, file.taken] > _MAX_PHOTOS_A_SECOND:
            doubts[file.uri] = SAME_SECOND
    for series in _find_series([file for file in clear if file.uri not in doubts]):
        doubts.update((file.uri, OUT_OF_ORDER) for file in _find_out_of_order(series))
    return doubts


def _find_impossible(taken: datetime, present: datetime) -> str | None:
    """Returns why a camera with a correct clock cannot write the date `taken`, or None if the date is possible."""
    if taken < _FIRST_PHOTO:
        return BEFORE_PHOTOGRAPHY
    if taken > present + _DAY:  # one day of tolerance, because `taken` is in the time zone of the camera
        return IN_FUTURE
    if any(epoch - _DAY <= taken < epoch + _DAY for epoch in _EPOCHS):
        return EPOCH
    # After a camera was without a battery, its clock starts at the first second of a year.
    return CLOCK_RESET if (taken.month, taken.day, taken.hour, taken.minute, taken.second) == (1, 1, 0, 0, 0) else None


def _find_series(files: Iterable[File]) -> list[list[File]]:
    """Returns the series of files that one camera numbered without a large gap, sorted by number."""
    numbered: dict[tuple[str, str, str], list[tuple[int, str, File]]] = defaultdict(list)
    for file in files:
        path = display_path(file.uri)
        match = _CAMERA_NAME.fullmatch(path.stem)
        if match is not None and file.camera_model is not None and file.taken is not None:
            numbered[str(path.parent), match[1].upper(), file.camera_model].append((int(match[2]), file.uri, file))
    series: list[list[File]] = []
    for group in numbered.values():
        last = -_MAX_GAP - 1
        for number, _, file in sorted(group, key=lambda one: one[:2]):
            if number - last > _MAX_GAP:
                series.append([])
            series[-1].append(file)
            last = number
    return series


def _find_out_of_order(series: Sequence[File]) -> list[File]:
    """Returns the files whose date is more than a day before the date of the previous neighbour, or more than a day
    after the date of the next neighbour.

    The function finds the longest subsequence of the series whose dates never fall (patience sorting, Fredman 1975).
    The neighbours of a file are the nearest files of the longest subsequence. If several subsequences have the greatest
    length, the one with the later dates is used, because a clock that loses its battery goes back to an early date.
    """
    times = [file.taken or datetime.min for file in series]
    # The search goes from the last file to the first file. For each n, the search keeps one subsequence of n + 1 files:
    # the one whose first date is the latest. ends[n] has this date, and end_at[n] is the index of the file with this
    # date.
    ends: list[timedelta] = []  # `datetime.max` minus the time, because `bisect_right` needs values that rise.
    end_at: list[int] = []
    after = [-1] * len(times)  # index of the next file of the same subsequence, or -1
    for index in range(len(times) - 1, -1, -1):
        place = bisect_right(ends, datetime.max - times[index])
        after[index] = end_at[place - 1] if place else -1
        ends[place : place + 1] = [datetime.max - times[index]]
        end_at[place : place + 1] = [index]
    kept: list[int] = []
    index = end_at[-1] if end_at else -1
    while index >= 0:
        kept.append(index)
        index = after[index]
    found = []
    for index, file in enumerate(series):
        place = bisect_right(kept, index)
        earlier = times[kept[place - 1]] if place else datetime.min + _DAY
        later = times[kept[place]] if place < len(kept) else datetime.max - _DAY
        # one day of tolerance, because users copy the files of a day in any order
        if not earlier - _DAY <= times[index] <= later + _DAY:
            found.append(file)
    return found
