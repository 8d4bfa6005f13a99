"""Tests that `likeness manifest check` finds a flipped bit in any file that a command wrote, and names the file."""

from pathlib import Path

import numpy as np
import pytest

from manifests.check import check_ledger
from manifests.ledger.paths import LEDGER_NAME
from tests.doubles.faults import faults as doubles
from tests.doubles.faults.faults import SEED, tried

pytestmark = pytest.mark.slow

MUST = "`manifest check` ends with exit code 1 and names the file."


def flipped(path: Path, rng: np.random.Generator) -> bytes:
    """Flips one bit of the file, and returns the bytes that the file had before."""
    before = path.read_bytes()
    data = bytearray(before)
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return before


def names(problem: str, path: Path, dataset: Path) -> bool:
    """Returns whether a problem names a file.

    A problem of a shard may name only the hash of the shard, which is the name of its file without the ending.
    """
    name = str(path.relative_to(dataset)).removeprefix("lq/")
    return name in problem or (path.suffix == ".npy" and path.stem in problem)


def test_a_flipped_bit_in_any_file_of_a_dataset_is_found(world):
    dataset = world.frozen()
    assert check_ledger(dataset) == []
    rng = np.random.default_rng([SEED, 300])
    files = [
        path for path in sorted(dataset.rglob("*")) if path.is_file() and path.name not in (LEDGER_NAME, "card.md")
    ]
    # card.md is left out, because every command writes this file again from the ledger.
    kinds = {path.suffix if path.suffix != ".png" else path.relative_to(dataset).parts[0] for path in files}
    assert kinds == {"faces", "lq", ".npy", ".json", ".jsonl", ".md", ".key"}
    pictures = [path for path in files if path.suffix == ".png"]
    for path in files if doubles.FULL else [path for path in files if path not in pictures[1:-1]]:
        with tried("one bit of a file is flipped", "check", str(path.relative_to(dataset)), MUST):
            before = flipped(path, rng)
            found = check_ledger(dataset)
            path.write_bytes(before)
            assert len(found) == 1 and names(found[0], path, dataset), (path, found)
    # Then one bit of every picture is flipped at the same time. `make test` checks most pictures only in this way.
    before = {path: flipped(path, rng) for path in pictures}
    found = check_ledger(dataset)
    for path, data in before.items():
        path.write_bytes(data)
        assert sum(names(problem, path, dataset) for problem in found) == 1, (path, found)
    assert len(found) == len(pictures)
    assert check_ledger(dataset) == []


def test_what_was_flipped_is_made_again_by_the_command_that_made_it(world):
    """Tests that commands repair a shard or a set that was changed. A changed crop must be removed before it is made
    again."""
    dataset = world.here / "ds"
    world.begin(doubles.purge)  # prepares a copy of the dataset with a frozen set
    again = [["curate", str(world.photos), "--out", str(dataset), "--workers", "1"]]
    again += [["degrade", str(dataset), "--split", "test", "--size", "32", "--workers", "1"]]
    before = doubles.remains(dataset)
    rng = np.random.default_rng([SEED, 301])
    crop = sorted((dataset / "faces").glob("*/*.png"))[3]
    flipped(crop, rng)
    for path in (
        *(dataset / "embeddings").iterdir(),
        *(dataset / "lq").glob("*/card.json"),
        *(dataset / "lq").glob("*/*.png"),
    ):
        flipped(path, rng)
    ended = world.bench.run(["manifest", "check", str(dataset)])
    assert ended.code == 1 and f"this crop has changed: faces/{crop.parent.name}/{crop.name}" in ended.out
    crop.unlink()
    for command in again:
        assert world.bench.run(command).code == 0
    assert check_ledger(dataset) == []
    assert {n: v for n, v in doubles.remains(dataset).items() if ":" not in n} == {
        n: v for n, v in before.items() if ":" not in n
    }
