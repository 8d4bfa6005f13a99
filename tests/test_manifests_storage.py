"""Files appear whole, and every name has one spelling."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.storage import (
    config_hash,
    crop_path,
    path_of,
    sha256_bytes,
    sha256_file,
    sweep,
    uri_of,
    write_atomically,
)

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
    (tmp_path / ".z.tmp").write_bytes(b"")
    sweep(tmp_path)
    sweep(tmp_path / "nowhere")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["x.png"]


def test_hashes_are_of_content_alone(tmp_path):
    @dataclass(frozen=True)
    class Told:
        b: int = 1
        a: tuple[int, ...] = (1, 2)

    assert config_hash(Told()) == config_hash({"a": [1, 2], "b": 1}) != config_hash(Told(b=2))
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_file(tmp_path / "f") == sha256_bytes(b"abc")
    assert crop_path(tmp_path, "abcd") == tmp_path / "faces" / "ab" / "abcd.png"
