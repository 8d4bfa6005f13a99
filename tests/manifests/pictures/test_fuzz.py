"""Tests with random bytes that `decode` returns a picture or a reason. `make fuzz` tests more bytes than CI."""

import os
from pathlib import Path

import numpy as np

from manifests.pictures.images import MEANINGS, UndecodableImage, decode
from manifests.runtime.archives import ArchiveError, Member, close_archive, count_members, read_entry, read_member
from manifests.runtime.workers import FailedUnit, guard_units, open_pool
from tests.doubles.pictures.hostile_archives import archives
from tests.doubles.pictures.hostile_corpus import mutated, picture, saved, seeds

FILES = int(os.environ.get("FUZZ_FILES", "1500"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
A_BATCH = 250
PIXELS = 2**22  # the limit of pixels: large enough to reach all code, and small enough to be fast


def wrong(numbers: list[int]) -> list[str]:
    """Returns the wrong results of `decode` for mutated photos. Runs in a worker process."""
    good, found = list(seeds(np.random.default_rng(0)).items()), []
    for number in guard_units(numbers):
        if isinstance(number, FailedUnit):
            found.append(f"{number.unit}: {number.reason}")
            continue
        rng = np.random.default_rng([SEED, number])
        kind, data = good[number % len(good)]
        try:
            image = decode(mutated(data, rng), PIXELS)
        except UndecodableImage as error:
            if error.reason not in MEANINGS:
                found.append(f"{number}, {kind}: {error}")
        except Exception as error:
            found.append(f"{number}, {kind}: {type(error).__name__}: {error}")
        else:
            whole = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.flags.c_contiguous
            if not whole or not 0 < image.shape[0] * image.shape[1] <= PIXELS:
                found.append(f"{number}, {kind}: {image.dtype} {image.shape}")
    return found


def test_decode_answers_a_picture_or_a_reason_whatever_the_bytes():
    batches = [list(range(start, min(start + A_BATCH, FILES))) for start in range(0, FILES, A_BATCH)]
    with open_pool(1 if FILES <= 5000 else 2) as run:
        assert [said for found in run(wrong, batches) for said in found] == []


def small_archives() -> list[bytes]:
    """Returns the small archives of the corpus, which are fast to read."""
    found: list[bytes] = []
    rng = np.random.default_rng(0)
    archives(lambda name, data, right: found.append(data), rng, lambda: saved(picture(rng, 20, 20), "PNG"))
    return sorted((data for data in found if len(data) < 20_000), key=len)


def wrong_archives(folders: list[tuple[Path, int]]) -> list[str]:
    """Returns the wrong results of reading mutated archives. Runs in a worker process."""
    found, good = [], small_archives()
    for unit in guard_units(folders):
        if isinstance(unit, FailedUnit):
            found.append(f"{unit.unit}: {unit.reason}")
            continue
        folder, number = unit
        rng = np.random.default_rng([SEED, 1, number])
        path = folder / f"{number}"
        path.write_bytes(mutated(good[number % len(good)], rng))
        try:
            for index in range(min(count_members(path)[0], 20)):
                try:
                    if not read_entry(Member(path, index)).folder:
                        read_member(Member(path, index))
                except ArchiveError as error:
                    assert error.reason.isidentifier()
        # a MemoryError is right if a tar file claims to have a name longer than the memory
        except (ArchiveError, MemoryError):
            pass
        except Exception as error:
            found.append(f"{number}: {type(error).__name__}: {error}")
        close_archive()
        path.unlink()
    return found


def test_an_archive_answers_members_or_a_reason_whatever_the_bytes(tmp_path):
    numbers = range(FILES // 3)
    batches = [[(tmp_path, n) for n in numbers[start : start + A_BATCH]] for start in range(0, len(numbers), A_BATCH)]
    with open_pool(1) as run:
        said = [said for found in run(wrong_archives, batches) for said in found]
    # A failed archive may also have the reason `timed_out`. In some archives, tarfile would walk backwards for ever,
    # and the time limit ends the reading.
    assert [one for one in said if not one.endswith("timed_out")] == []
