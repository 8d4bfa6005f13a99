"""Tests that impossible dates are recorded as doubtful, and that each pair records the time between its two photos."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

import manifests.ledger.ledger
from curate.config import PairRules, SplitRules
from curate.photos.dates.date_photos import choose_dates, find_doubts
from manifests.ledger.records import Face, File, Pair, Photo
from manifests.report.build_report import build_report
from manifests.why.explain_photo import explain_photo
from tests.doubles.curation import curated, find_problems, install, photo, rows

PRESENT = datetime(2026, 11, 29, 12)
JUNE = datetime(2015, 6, 1, 10)


def file(name: str, taken: datetime | None, photo_id: str = "", camera: str | None = "Canon", **changes) -> File:
    fields = {"taken_from": "exif_original", "camera_model": camera, **changes}
    return File(f"file:///a/{name}", photo_id or name, 1, 1, "ok", taken=taken, **fields)


def doubts(*files: File) -> dict[str, str]:
    return {uri.rpartition("/")[2]: doubt for uri, doubt in find_doubts(files, PRESENT).items()}


@pytest.mark.parametrize(
    ("taken", "doubt"),
    [
        (JUNE, None),
        (datetime(1826, 1, 2), None),
        (datetime(1825, 12, 31), "before_photography"),
        (datetime(1, 1, 1), "before_photography"),
        (PRESENT + timedelta(hours=20), None),  # not doubtful, because it may already be this time in another time zone
        (PRESENT + timedelta(hours=25), "in_future"),
        (datetime(2099, 5, 5), "in_future"),
        (datetime(1970, 1, 1, 0, 0, 1), "epoch"),
        (datetime(1969, 12, 31, 17), "epoch"),
        (datetime(1980, 1, 1, 23), "epoch"),
        (datetime(1904, 1, 1), "epoch"),
        (datetime(2003, 1, 1, 0, 0, 0), "clock_reset"),
        # not doubtful, because people take photos at New Year; only 0:00:00 is doubtful
        (datetime(2003, 1, 1, 0, 0, 1), None),
    ],
)
def test_a_date_that_no_right_clock_gives_is_doubted(taken, doubt):
    assert doubts(file("a.jpg", taken)).get("a.jpg") == doubt


def test_a_clock_that_stands_still_is_doubted_and_a_burst_is_not():
    burst = [file(f"{number}.jpg", JUNE) for number in range(30)]
    assert doubts(*burst) == {}
    assert set(doubts(*burst, file("30.jpg", JUNE)).values()) == {"same_second"}
    assert doubts(*burst, file("30.jpg", JUNE, camera="Nikon")) == {}
    # the copy does not count, because it is a file of the same photo
    assert doubts(*burst, file("copy.jpg", JUNE, photo_id="0.jpg")) == {}
    scans = [file(f"scan{number}.jpg", JUNE.replace(hour=12, minute=0, second=0)) for number in range(31)]
    assert doubts(*scans) == {}  # not doubtful, because a date without a time is stored as noon


def test_a_clock_that_ran_backwards_is_found_by_the_numbers_of_the_files():
    def series(days: list[int], first: int = 1, **changes) -> list[File]:
        return [
            file(f"IMG_{first + number:04d}.JPG", JUNE + timedelta(days=day), **changes)
            for number, day in enumerate(days)
        ]

    assert doubts(*series([0, 1, 1, 2, 9])) == {}
    assert doubts(*series([0, 1, -4000, -3999, 2, 3])) == dict.fromkeys(
        ("IMG_0003.JPG", "IMG_0004.JPG"), "out_of_order"
    )
    assert doubts(*series([0, 1, 900, 2, 3])) == {"IMG_0003.JPG": "out_of_order"}
    # not doubtful, because no date is more than a day earlier than the date of the previous file
    assert doubts(*series([1, 0, 2, 1])) == {}
    # not doubtful, because the camera began its numbers again
    assert doubts(*series([900, 901]), *series([0, 1], first=500)) == {}
    assert doubts(*series([900, 0, 1], camera=None)) == {}  # not doubtful, because no camera named these files
    assert doubts(*(file(f"ann_{n}.jpg", JUNE + timedelta(days=-n * 9)) for n in range(4))) == {}


def test_the_earliest_date_without_a_doubt_counts():
    photos = [Photo(name, 1, 1, "") for name in ("p", "q", "r")]
    files = [
        file("0.jpg", datetime(1970, 1, 1), "p"),
        file("1.jpg", JUNE + timedelta(days=1), "p"),
        file("2.jpg", JUNE, "p", taken_offset=60),
        file("3.jpg", None, "q", taken_doubt="unset"),
        file("4.jpg", datetime(2099, 1, 2), "q"),
        File("file:///a/5.jpg", "r", 1, 1, "ok"),
    ]
    changed = {row.photo_id: row for row in choose_dates(files, photos, PRESENT)}
    assert set(changed) == {"p", "q"}
    assert (changed["p"].taken, changed["p"].taken_offset, changed["p"].taken_doubt) == (JUNE, 60, None)
    assert (changed["q"].taken, changed["q"].taken_doubt) == (datetime(2099, 1, 2), "in_future")
    assert choose_dates(files, [changed["p"], changed["q"]], PRESENT) == []
    gone = choose_dates([], [changed["p"]], PRESENT)
    assert (gone[0].taken, gone[0].taken_from) == (None, None)


# --- the whole curation ---

IN_TRAIN = SplitRules(policy="photos", val=0, test=0)


@pytest.fixture
def doubles(monkeypatch):
    install(monkeypatch)


def dated(path: Path, person: int, seed: int, taken: str) -> Path:
    exif = Image.Exif()
    exif[0x8769] = {36867: taken} if taken else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo([person], seed)).save(path, exif=exif)
    return path


def test_pairs_know_the_time_between_photos_and_policies_use_it(tmp_path, doubles, monkeypatch):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    dates = ["2010:06:01 10:00:00", "2011:06:01 10:00:00", "2019:06:01 10:00:00", "2099:01:05 00:00:00", ""]
    for number, taken in enumerate(dates):
        dated(photos / f"{number}.png", 0, number, taken)
    summary = curated(photos, dataset, split=IN_TRAIN)
    name = {row.photo_id: Path(row.uri).stem for row in rows(dataset, File)}
    number = {row.face_id: name[row.photo_id] for row in rows(dataset, Face)}

    def gaps() -> dict[tuple[str, str], int | None]:
        return {
            (number[row.target], number[ref]): gap
            for row in rows(dataset, Pair)
            for ref, gap in zip(row.refs, row.gap_days or (), strict=True)
        }

    found = gaps()
    assert found["0", "1"] == found["1", "0"] == 365 and found["0", "2"] == 3287
    assert {gap for (a, b), gap in found.items() if {a, b} & {"3", "4"}} == {None}
    doubt = {name[row.photo_id]: row.taken_doubt for row in rows(dataset, Photo)}
    assert doubt == {"0": None, "1": None, "2": None, "3": "in_future", "4": None}
    assert "taken 2010-06-01 10:00:00 (exif_original)" in explain_photo(dataset, "0.png")[0][1]
    line = explain_photo(dataset, "3.png")[0][1]
    assert "taken 2099-01-05 00:00:00 (exif_original, not trusted: in_future)" in line
    page = build_report(dataset).read_text()
    assert "years between target and reference" in page and "3 photos of 5 photos have" in page
    assert "from 2010-06-01 to 2019-06-01" in page and "1 (in the future)" in page
    assert not any("cannot use" in notice for notice in summary.notices)

    summary = curated(photos, dataset, split=IN_TRAIN, pairs=PairRules("same-age"))
    assert set(gaps()) == {("0", "1"), ("1", "0")} and find_problems(dataset) == []
    told = "--pairs same-age cannot use 2 of 5 faces, because their photos have no date that can be trusted: "
    assert told + "1 in_future, 1 no date." in summary.notices
    # The clock of this machine is set back to 1999. The ledger remembers that 2010 was not in the future.
    monkeypatch.setattr(manifests.ledger.ledger, "utc_now", lambda: datetime(1999, 1, 1))
    curated(photos, dataset, split=IN_TRAIN)
    assert gaps() == found


def test_a_date_follows_its_file(tmp_path, doubles):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    path = dated(photos / "a.png", 0, 1, "2010:06:01 10:00:00")
    dated(photos / "b.png", 0, 2, "2010:06:01 10:00:00")
    curated(photos, dataset)
    ids = {row.photo_id for row in rows(dataset, Photo)}
    dated(path, 0, 1, "2012:02:03 04:05:06")  # like a program that corrects the date and changes no pixel
    curated(photos, dataset)
    assert {row.photo_id for row in rows(dataset, Photo)} == ids
    assert {row.taken for row in rows(dataset, Photo)} == {datetime(2010, 6, 1, 10), datetime(2012, 2, 3, 4, 5, 6)}
