"""Tests photos that are removed, replaced or truncated while a command runs.

Such a photo must get a row with a reason, the command must not crash, and a later run must give the right results.
"""

import os

import pytest

from manifests.check import check_ledger
from manifests.ledger.records import File, Photo
from manifests.runtime.files import sha256_file
from manifests.runtime.uris import uri_of
from tests.doubles.curation import photo, rows, save
from tests.doubles.faults import faults as doubles
from tests.doubles.faults.faults import Point, World, differences, finish, paused, remains, tried

pytestmark = pytest.mark.slow


def test_photos_that_are_removed_replaced_or_cut_between_scan_and_detection(tmp_path):
    world = World(tmp_path)
    album, dataset = world.photos, world.here / "ds"
    removed, replaced, cut = (album / f"person{n}" / "2.png" for n in range(3))
    ids = {path: sha256_file(path) for path in (removed, replaced, cut)}
    command = [str(word) for word in doubles.curate(world)]
    must = (
        "Each such photo gets the reason `file_vanished_or_changed`, and the exit code is 0. A later run has as "
        "many people and pairs as a new dataset, and has all crops of the new dataset."
    )
    with tried("photos are removed, replaced or truncated", "curate", "between scan and detect", must):
        with paused(world.bench, command, Point("record filters")) as process:
            removed.unlink()
            os.utime(save(replaced, photo([3], 77)), (0, 0))
            whole = cut.read_bytes()
            cut.write_bytes(whole[: len(whole) // 2])
            os.utime(cut, (0, 0))
        ended = finish(process)
        assert ended.code == 0, ended.err
        of_photo = {row.photo_id: row for row in rows(dataset, Photo)}
        for path in (removed, replaced, cut):
            row = of_photo[ids[path]]
            assert (row.status, row.reason) == ("failed", "file_vanished_or_changed")
        assert check_ledger(dataset) == []

        ended = world.bench.run(command)
        assert ended.code == 0 and "no longer there" in ended.out, ended
        of_file = {row.uri: row for row in rows(dataset, File)}
        assert of_file[uri_of(replaced)].status == "ok" and of_file[uri_of(cut)].reason == "truncated"
        of_photo = {row.photo_id: row for row in rows(dataset, Photo)}
        assert of_photo[sha256_file(replaced)].status == "ok"
        assert of_photo[ids[replaced]].reason == of_photo[ids[cut]].reason == "file_replaced"
        assert check_ledger(dataset) == []

        # The dataset must equal a fresh dataset of the same photos, except for the rows of photos that do not exist any
        # more.
        fresh = tmp_path / "fresh"
        assert world.bench.run(["curate", str(album), "--out", str(fresh), "--workers", "1"]).code == 0
        now, new = remains(dataset), remains(fresh)
        tables = ("identities", "memberships", "pairs", "splits")
        for table in tables:
            assert len(now[f"manifest.duckdb:{table}"]) == len(new[f"manifest.duckdb:{table}"]), table
        assert {n for n in now if n.startswith("faces/")} >= {n for n in new if n.startswith("faces/")}


def test_a_picture_that_goes_while_a_folder_is_degraded(tmp_path):
    world = World(tmp_path)
    removed = world.photos / "person2" / "2.png"
    command = world.begin(doubles.degrade_folder)
    with tried(
        "a photo is removed",
        "degrade_folder",
        "while others are degraded",
        "The command skips the photo with a reason, and the exit code is 0.",
    ):
        with paused(world.bench, command, Point("replace 1.png", "after")) as process:
            removed.unlink()
        ended = finish(process)
        assert ended.code == 0 and "skipped person2/2.png: cannot be read (No such file or directory)" in ended.out, (
            ended
        )
    # If the photo comes back, the frozen set still does not change.
    whole = remains(world.here)
    os.utime(save(removed, photo([2], 2)), (0, 0))
    assert world.bench.run(command).code == 0 and differences(remains(world.here), whole) == []


def test_a_crop_that_goes_before_a_set_is_made_or_a_snapshot_taken(world):
    command = world.begin(doubles.degrade)
    gone = sorted((world.here / "ds" / "faces").glob("*/*.png"))
    with tried(
        "crops are removed",
        "degrade",
        "before it begins",
        "`degrade` ends with one sentence and exit code 1. `curate` makes the crops again.",
    ):
        for crop in gone:
            crop.unlink()
        ended = world.bench.run(command)
        assert ended.code == 1 and "run `likeness curate` again" in ended.sentence, ended
        ended = world.bench.run(["train", str(world.here / "ds"), "--out", str(world.here / "run"), "--images", "8"])
        assert ended.code == 1 and "run `likeness curate` again" in ended.sentence, ended
        assert not (world.here / "run").exists()
        assert (
            world.bench.run(["curate", str(world.photos), "--out", str(world.here / "ds"), "--workers", "1"]).code == 0
        )
        assert world.bench.run(command).code == 0 and check_ledger(world.here / "ds") == []
