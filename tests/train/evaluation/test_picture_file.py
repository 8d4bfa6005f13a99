"""Tests the file in which an evaluation keeps pictures, and that more pictures do not need more memory."""

from __future__ import annotations

import errno
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest

import train.evaluation.sets.picture_file
from manifests.errors import BadInput
from train.evaluation.sets.picture_file import PictureFile


def read_memory() -> int:
    """Returns the number of bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_arrays_come_back_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.evaluation.sets.picture_file, "BLOCK", 4096)  # some arrays are larger than a block
    rng, pictures = np.random.default_rng(0), PictureFile()
    arrays = [rng.integers(0, 256, (side, side, 3), np.uint8)[:, ::-1] for side in (7, 64, 1, 31, 32)]
    arrays.append(rng.random((9, 9)) > 0.5)
    kept = [pictures.keep(array) for array in arrays]
    pictures.release()
    for array, again in zip(arrays, kept, strict=True):
        assert again.dtype == array.dtype and np.array_equal(again, array) and not again.flags.writeable
    del pictures  # the arrays can be read after the object is gone
    assert all(np.array_equal(again, array) for array, again in zip(arrays, kept, strict=True))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_number_of_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.evaluation.sets.picture_file, "BLOCK", 2**22)
    pictures, picture = PictureFile(), np.full((256, 256, 3), 7, np.uint8)
    before = read_memory()
    kept = [pictures.keep(picture) for _ in range(400)]  # 79 MB
    assert sum(int(one[0, 0, 0]) for one in kept) == 7 * 400
    assert sum(int(one.sum()) for one in kept[:100]) == 100 * int(picture.sum())
    pictures.release()
    assert read_memory() - before < 20e6


def test_an_array_that_the_disk_takes_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.FileIO):
        def write(self, data: memoryview) -> int:
            return super().write(data[:100])

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda buffering: Slow(tmp_path / "file", "w+"))
    array = np.arange(1000)
    assert np.array_equal(PictureFile().keep(array), array)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda buffering: Full(tmp_path / "file", "w+"))
    with pytest.raises(BadInput, match=r"cannot keep the pictures of the set \(No space left on device\)\. Set the"):
        PictureFile().keep(np.zeros(9))
