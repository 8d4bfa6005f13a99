"""Tests that every offered file gets one row, whatever its name is, and that no folder is read twice."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from curate.photos import read_files
from curate.photos.history.file_history import mark_same_files
from curate.photos.read_files import scan_batch
from curate.photos.walk import walk_files
from manifests.errors import BadInput
from manifests.ledger.records import File, Photo
from manifests.runtime.files import sha256_file
from manifests.runtime.uris import path_of, uri_of
from tests.doubles.curation import photo, save
from tests.places import REPOSITORY


def names(folder: Path, *paths: Path) -> dict[str, str]:
    """Returns a dict that maps the name of each file to `scan`, or to the reason why the file is not read."""
    found = {}
    for item in walk_files(paths or [folder]):
        path = path_of(item.uri) if isinstance(item, File) else item
        key = str(path.relative_to(folder))
        assert key not in found
        found[key] = (item.reason or "") if isinstance(item, File) else "scan"
    return found


def test_files_are_found_at_any_depth_in_order(tmp_path):
    for name in ("b/2.jpg", "b/10.jpg", "a.jpg", "c/d/e/f.jpg", ".hidden/x.jpg"):
        save(tmp_path / name, photo([], 0))
    assert list(names(tmp_path)) == [".hidden/x.jpg", "a.jpg", "b/10.jpg", "b/2.jpg", "c/d/e/f.jpg"]
    assert list(names(tmp_path, tmp_path / "c", tmp_path / "a.jpg")) == ["c/d/e/f.jpg", "a.jpg"]


def test_an_empty_folder_offers_nothing_and_a_missing_one_is_refused_before_any_other(tmp_path):
    assert names(tmp_path) == {}
    with pytest.raises(BadInput, match="does not exist"):
        next(walk_files([tmp_path, tmp_path / "missing"]))


def test_symlinks_are_followed_once_and_loops_end(tmp_path):
    save(tmp_path / "real" / "a.png", photo([], 0))
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "twice").symlink_to(tmp_path / "real")
    (tmp_path / "file").symlink_to(tmp_path / "real" / "a.png")
    assert names(tmp_path) == {
        "broken": "broken_symlink",
        "file": "scan",
        "real/a.png": "scan",
        "real/up": "folder_already_walked",
        "self": "symlink_loop",
        "twice": "folder_already_walked",
    }


def test_special_files_are_named_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert names(tmp_path) == {"pipe": "special_file"}


def test_a_dataset_is_not_walked_into(tmp_path):
    save(tmp_path / "dataset" / "faces" / "aa" / "x.png", photo([], 0))
    (tmp_path / "dataset" / "manifest.duckdb").touch()
    save(tmp_path / "a.png", photo([], 0))
    assert names(tmp_path) == {"a.png": "scan", "dataset": "dataset_folder"}


def test_folders_deeper_than_python_calls(tmp_path):
    deep = tmp_path
    made = []
    for _ in range(1200):
        deep = deep / "d"
        if len(str(deep)) > 3900:
            break
        made.append(deep)
    for folder in made:
        folder.mkdir()
    (made[-1] / "x").write_bytes(b"")
    assert len(list(walk_files([tmp_path]))) == 1 and len(made) > 1000
    for folder in reversed(made):  # pytest removes trees by recursion, and therefore cannot remove so deep a tree
        for inside in folder.glob("x"):
            inside.unlink()
        folder.rmdir()


AS_NOBODY = """
import os, sys
from pathlib import Path
from curate.photos.read_files import scan_batch
from curate.photos.walk import walk_files
scan_batch([Path(sys.argv[2])])  # now Pillow has imported all that it needs
os.setgid(65534); os.setuid(65534)
for item in walk_files([Path(sys.argv[1])]):
    for row in [item] if not isinstance(item, Path) else scan_batch([item]):
        if hasattr(row, "uri"): print(row.uri.rsplit("/", 1)[1], row.status, row.reason)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="dropping privileges needs root")
def test_what_may_not_be_read_is_a_row_and_the_rest_is_unharmed(public_folder):
    photos = public_folder / "p"
    save(photos / "ok.png", photo([], 0))
    for name in ("closed/x.png", "listed/x.png", "secret.png"):
        save(photos / name, photo([], 1))
    (photos / "closed").chmod(0o000)
    (photos / "listed").chmod(0o744)
    (photos / "secret.png").chmod(0o000)
    ran = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(photos), str(photos / "ok.png")],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        "closed failed unreadable_folder",
        "x.png failed unreadable_file",
        "ok.png ok None",
        "secret.png failed unreadable_file",
    ]


def test_names_of_any_bytes(tmp_path):
    data = save(tmp_path / "plain.png", photo([0], 0)).read_bytes()
    odd = [
        b"new\nline.png",
        b"caf\xe9.png",
        b"\xff\xfe.png",
        "日本.png".encode(),
        b"per%20cent.png",
        b" .png",
        b"-rf.png",
    ]
    for name in odd:
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(data)
    paths = [item for item in walk_files([tmp_path]) if isinstance(item, Path)]
    rows = [row for row in scan_batch(paths) if isinstance(row, File)]
    assert [row.status for row in rows] == ["ok"] * (len(odd) + 1)
    assert {os.fsencode(path_of(row.uri).name) for row in rows} == {*odd, b"plain.png"}
    assert all(row.uri.isascii() and row.uri.isprintable() for row in rows)


def test_a_row_for_every_file_and_a_photo_for_every_picture(tmp_path):
    good = save(tmp_path / "good.png", photo([0], 0))
    (tmp_path / "letter.jpg").write_text("Dear photograph")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:3000])
    missing = tmp_path / "missing.png"
    rows = scan_batch([*sorted(tmp_path.iterdir()), missing])
    files = {path_of(row.uri).name: row for row in rows if isinstance(row, File)}
    assert {name: row.reason for name, row in files.items()} == {
        "cut.png": "truncated",
        "empty.jpg": "empty_file",
        "good.png": None,
        "letter.jpg": "not_an_image",
        "missing.png": "file_vanished",
    }
    (picture,) = [row for row in rows if isinstance(row, Photo)]
    info = good.stat()
    assert picture.photo_id == sha256_file(good) == files["good.png"].photo_id
    assert (picture.width, picture.height, len(picture.phash)) == (200, 180, 16)
    assert (files["good.png"].bytes, files["good.png"].mtime_ns) == (info.st_size, info.st_mtime_ns)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(read_files, "MAX_BYTES", 100)
    (tmp_path / "film.mp4").write_bytes(bytes(101))
    (row,) = scan_batch([tmp_path / "film.mp4"])
    assert (row.status, row.reason, row.bytes) == ("failed", "file_too_large", 101)


def test_the_first_name_of_a_photo_is_kept():
    same = [File(f"file:///{name}", "p", 1, 1, "ok") for name in "cab"]
    other = File("file:///0", "q", 1, 1, "ok")
    broken = File("file:///1", None, 1, 1, "failed", "empty_file")
    changed = {row.uri[-1]: row for row in mark_same_files([*same, other, broken])}
    assert {name: row.reason for name, row in changed.items()} == {"b": "same_file", "c": "same_file"}
    again = [row for row in same if row.uri[-1] == "a"] + list(changed.values())
    assert mark_same_files(again) == []
    # If the first file becomes another photo, the next file with the old content takes its place.
    (promoted,) = mark_same_files([row for row in again if row.uri[-1] != "a"])
    assert promoted.uri[-1] == "b" and promoted.status == "ok" and promoted.reason is None


def test_a_uri_is_the_name_offered_not_what_it_leads_to(tmp_path):
    real = save(tmp_path / "real.png", photo([], 0))
    (tmp_path / "link.png").symlink_to(real)
    rows = [row for row in scan_batch([tmp_path / "link.png", real]) if isinstance(row, File)]
    assert [row.uri for row in rows] == [uri_of(tmp_path / "link.png"), uri_of(real)]
    assert stat.S_ISREG(real.stat().st_mode)
