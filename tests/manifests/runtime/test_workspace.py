"""Tests that the arrays of a workspace keep their values, and that the memory of the process stays below the limit."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from manifests.errors import BadInput
from manifests.runtime.text import parse_size
from manifests.runtime.workspace import Workspace, measure_process

MIB = 2**20


def test_a_file_larger_than_the_limit_allows_is_written_and_read_within_the_limit(tmp_path):
    limit = measure_process() + 60 * MIB
    workspace = Workspace(limit, tmp_path)
    array = workspace.make_array((150 * 1024, 256), np.float32)  # 150 MiB
    for begin in range(0, len(array), 1024):
        array[begin : begin + 1024] = np.arange(begin, begin + 1024)[:, None]
        workspace.trim()
        assert measure_process() < limit
    assert list(tmp_path.iterdir()) == []  # the file has no name, so nothing is left if the process is killed
    rows = np.random.default_rng(0).integers(0, len(array), 5000)
    assert np.array_equal(workspace.read_rows(array, rows)[:, 7], rows)
    assert measure_process() < limit


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets the peak memory of a process")
def test_a_few_rows_from_everywhere_in_a_file_are_read_within_the_limit(tmp_path):
    limit = measure_process() * 3 // 2 + 60 * MIB  # `trim` then acts before the process reaches two thirds of it
    workspace = Workspace(limit, tmp_path)
    array = workspace.make_array((400 * 1024, 256), np.float32)  # 400 MiB
    for begin in range(0, len(array), 1024):
        array[begin : begin + 1024] = np.arange(begin, begin + 1024)[:, None]
        workspace.trim()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak memory
    for count in (300, 600, 3000):
        rows = np.random.default_rng(count).integers(0, len(array), count)
        assert np.array_equal(workspace.read_rows(array, rows)[:, 7], rows)
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    assert int(status["VmHWM"].split()[0]) * 1024 < limit


@pytest.mark.parametrize("memory", [None, 1])
def test_reads_are_divided_into_parts_that_have_every_index_one_time(memory):
    rng = np.random.default_rng(0)
    rows, others = rng.integers(0, 10_000, 3000), rng.integers(0, 10_000, 3000)
    parts = list(Workspace(memory).divide_reads(rows, 2048, others))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(3000))
    if memory is None:
        assert len(parts) == 1
    else:
        assert len(parts) > 20 and all(np.ptp(rows[part]) < 1024 and np.ptp(others[part]) < 1024 for part in parts)


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path, monkeypatch):
    def fail(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError) as error:
        Workspace(1, tmp_path).make_array((20 * MIB,), np.uint8)
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path)


def test_a_size_has_a_number_and_a_unit():
    assert parse_size("--memory", "8G") == 8 * 2**30 and parse_size("--memory", "1.5m") == 1.5 * MIB
    for text in ("8", "G", "-1G", "0G", "8 GB of memory", "1e3G"):
        with pytest.raises(BadInput, match="--memory"):
            parse_size("--memory", text)
