"""Tests what curation remembers about each file: its time, and whether it changed, moved, is missing or is left out."""

import os
import zipfile
from collections import Counter
from pathlib import Path

import cv2

from curate.photos.history.file_history import mark_replaced
from curate.photos.history.file_stamps import is_unchanged
from curate.photos.name_rules import NO_RULES, NameRules
from curate.photos.scan import scan
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Photo
from tests.doubles.curation import photo, save


def scanned(dataset: Path, folder: Path, rules: NameRules = NO_RULES, reread: bool = False):
    """Scans a folder.

    Returns four values: a dict that maps each file name to its reason, the number of photos for each reason, the
    notices, and the names of the files that were read.
    """
    read = []

    def watch(work, batches):
        for batch in batches:
            read.extend(item.name for item in batch if isinstance(item, Path))
            yield work(batch)

    with Ledger.open(dataset, write=True) as ledger:
        notices = scan(ledger, [folder], watch, lambda *_: None, rules, reread)
        reasons = {row.uri.rsplit("/", 1)[1]: row.reason or row.status for row in ledger.read_rows(File)}
        photos = Counter(row.reason or row.status for row in ledger.read_rows(Photo))
    return reasons, dict(photos), notices, read


def test_any_file_time_is_accepted(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    for number, year in enumerate((1960, 2300, 2500, 0)):
        path = save(photos / f"{year}.png", photo([number], 0))
        seconds = (year - 1970) * 31_556_952
        os.utime(path, ns=(0, seconds * 10**9))
    assert scanned(dataset, photos)[1] == {"ok": 4}
    assert scanned(dataset, photos)[1::2] == ({"ok": 4}, [])  # the second scan reads no file again


def test_a_time_that_the_ledger_cannot_store_is_the_nearest_one_it_can(tmp_path):
    row = File("file:///a", "p", 10, 2**63 - 1, "ok", None, 1 - 2**63)
    status = os.stat_result((0o100644, 0, 0, 1, 0, 0, 10, 0, 0, 0), {"st_mtime_ns": 10**19, "st_ctime_ns": -(10**19)})
    assert is_unchanged(row, status)


def test_a_file_that_was_changed_with_its_size_and_time_kept_is_read_again(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    path = save(photos / "a.bmp", photo([0], 0))
    save(photos / "b.bmp", photo([1], 0))
    scanned(dataset, photos)
    before = path.stat()
    path.write_bytes(cv2.imencode(".bmp", photo([2], 0))[1].tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    _, found, _, read = scanned(dataset, photos)
    assert read == ["a.bmp"] and found == {"file_replaced": 1, "ok": 2}
    assert scanned(dataset, photos)[3] == []
    assert scanned(dataset, photos, reread=True)[3] == ["a.bmp", "b.bmp"]


def test_moved_and_missing_files_are_no_copies(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    for number, name in enumerate(("a", "b", "c")):
        save(photos / f"{name}.png", photo([number], 0))
    (photos / "c copy.png").write_bytes((photos / "c.png").read_bytes())
    scanned(dataset, photos)
    (photos / "a.png").rename(photos / "z.png")
    (photos / "b.png").rename(tmp_path / "b.png")
    reasons, found, notices, _ = scanned(dataset, photos)
    kept = {"c%20copy.png": "ok", "c.png": "same_file"}
    assert reasons == {"a.png": "file_moved", "b.png": "file_gone", "z.png": "ok", **kept} and found == {"ok": 3}
    moved = f"1 file is no longer there: {photos / 'a.png'}. Other files contain its photo, and the dataset uses the"
    assert notices[0].startswith(moved) and notices[1].startswith("1 file that contained a photo is no longer there: ")
    # The notice about the moved file is printed only one time.
    assert scanned(dataset, photos)[2] == notices[1:]
    (tmp_path / "b.png").rename(photos / "b.png")
    reasons, found, notices, _ = scanned(dataset, photos)
    assert reasons["b.png"] == "ok" and found == {"ok": 3} and notices == []


def test_what_is_excluded_later_leaves_the_dataset_and_comes_back(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    save(photos / "a" / "1.png", photo([0], 0))
    save(photos / "b" / "2.png", photo([1], 0))
    inside = save(tmp_path / "inside.png", photo([2], 7))
    with zipfile.ZipFile(photos / "c.zip", "w") as archive:
        for name in ("d/3.png", "__MACOSX/d/4.png"):
            archive.write(inside, name)
    first = scanned(dataset, photos)
    assert first[0] == {"1.png": "ok", "2.png": "ok", "3.png": "ok", "4.png": "system_folder", "c.zip": "archive"}
    reasons, found, notices, _ = scanned(dataset, photos, NameRules(("a", "3.png", "nothing*")))
    assert {name for name, reason in reasons.items() if reason == "excluded"} == {"a", "1.png", "3.png"}
    assert found == {"excluded": 2, "ok": 1} and notices == ["--exclude nothing* matches no file and no folder."]
    assert scanned(dataset, photos)[:3] == first[:3]


def test_a_face_that_opted_out_keeps_its_reason_while_its_photo_is_away():
    photos = [Photo("p", 9, 9, "0")]
    faces = [
        Face(name, "p", (0.0,) * 4, (0.0,) * 10, None, 1, 1, 0, 0, 0, 0, 0, 0, 0, "", None, "dropped", reason)
        for name, reason in (("f", "opted_out"), ("g", "too_small"))
    ]
    for files, reason in (([], "file_replaced"), ([File("file:///p", "p", None, None, "dropped", "trash")], "trash")):
        changed, _ = mark_replaced(files, photos, faces)
        assert [(type(row), row.reason) for row in changed] == [(Photo, reason), (Face, reason)]
        assert changed[1].face_id == "g"
