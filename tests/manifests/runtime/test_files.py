"""Tests that files appear only when they are complete, and that every name has one spelling."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import FolderBusy
from manifests.ledger.paths import crop_path
from manifests.runtime.files import (
    hash_config,
    lock_folder,
    remove_temporary_files,
    sha256_bytes,
    sha256_file,
    write_atomically,
)
from manifests.runtime.uris import path_of, uri_of

NAME = st.binary(min_size=1, max_size=20).filter(lambda b: b not in (b".", b"..") and not set(b) & {0, ord("/")})


@given(st.lists(NAME, min_size=1, max_size=3))
def test_any_bytes_make_a_uri_and_come_back(names):
    path = Path(os.fsdecode(b"/" + b"/".join(names)))
    uri = uri_of(path)
    assert uri.isascii() and uri.isprintable() and path_of(uri) == path


def test_a_uri_is_the_absolute_name_that_was_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert uri_of("link") == uri_of(tmp_path / "x" / ".." / "link") == f"file://{tmp_path}/link"


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "er" / "file"
    write_atomically(path, b"one")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one" and [p.name for p in path.parent.iterdir()] == ["file"]


def test_sweep_removes_what_was_left_half_written(tmp_path):
    write_atomically(tmp_path / "ab" / "x.png", b"x")
    (tmp_path / "ab" / ".y.png.123.tmp").write_bytes(b"")
    (tmp_path / ".z.1.tmp").write_bytes(b"")
    remove_temporary_files(tmp_path)
    remove_temporary_files(tmp_path / "nowhere")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["x.png"]


def test_sweep_leaves_what_is_not_ours_and_what_another_process_is_writing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        names = {f".mine.{os.getpid()}.tmp", f".theirs.{other.pid}.tmp", ".editor.tmp"}
        for name in names:
            (tmp_path / name).write_bytes(b"")
        remove_temporary_files(tmp_path, shared=True)
        assert {path.name for path in tmp_path.iterdir()} == {f".theirs.{other.pid}.tmp", ".editor.tmp"}
        other.communicate(b"\n")
    remove_temporary_files(tmp_path, shared=True)
    assert [path.name for path in tmp_path.iterdir()] == [".editor.tmp"]


def test_one_process_at_a_time_writes_into_a_folder(tmp_path):
    folder = tmp_path / "new" / "run"
    with lock_folder(folder):
        with pytest.raises(FolderBusy, match=r"Another process is writing into .*run: wait"), lock_folder(folder):
            pass
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert not folder.parent.exists()  # the folder was removed, because nothing was written into it
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / ".lock").write_bytes(b"")  # as if a killed process had left its lock file
    with lock_folder(tmp_path / "kept"):
        pass
    assert list((tmp_path / "kept").iterdir()) == []


def test_hashes_are_of_content_alone(tmp_path):
    @dataclass(frozen=True)
    class Told:
        b: int = 1
        a: tuple[int, ...] = (1, 2)

    assert hash_config(Told()) == hash_config({"a": [1, 2], "b": 1}) != hash_config(Told(b=2))
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == sha256_bytes(b"abc")
    assert crop_path(tmp_path, "abcd") == tmp_path / "faces" / "ab" / "abcd.png"
