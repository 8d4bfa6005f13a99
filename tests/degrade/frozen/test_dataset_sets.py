import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import degrade.frozen.dataset_sets
from degrade.cli import describe_poor_targets
from degrade.frozen.dataset_sets import count_images, format_set_name, list_sets, lq_path, make_set, plan_set
from degrade.frozen.verify import verify_set
from degrade.operations.apply import apply
from degrade.operations.pixels import shrink, to_float, to_uint8
from degrade.presets import PRESETS
from degrade.sampling import sample_theta
from manifests.errors import BadInput, LedgerBroken, LedgerMissing
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.records import Degradation, Face, Split
from manifests.pictures.images import decode
from manifests.pictures.png_files import encode_png
from manifests.runtime.files import sha256_bytes, sha256_file
from tests.doubles.frozen.lq_sets import OPTIONS, SET, contents, toy_dataset, toy_face, toy_picture
from tests.places import REPOSITORY


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(degrade.frozen.dataset_sets, "BATCH", 3)


def test_a_set_holds_every_face_of_its_split_that_is_ok_and_no_duplicate(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    seen: list[int] = []
    report = make_set(dataset, **OPTIONS, progress=seen.append)
    assert (report.lq_set, report.images, report.images_written, report.later_faces) == (SET, 8, 8, 0)
    assert format_set_name("codeformer", "test", 32, 0) == SET and sum(seen) == 8
    with Ledger.open(dataset) as ledger:
        rows = list(ledger.read_table("degradations").iter_rows(named=True))
    assert [row["face_id"] for row in rows] == [toy_face(n).face_id for n in range(10) if n % 4 != 3]
    for row in rows:
        assert (row["lq_set"], row["preset"], row["seed"], row["size"]) == (SET, "codeformer", 0, 32)
        theta = json.loads(row["theta"])
        assert theta == sample_theta(PRESETS["codeformer"], 0, row["face_id"])
        path = lq_path(dataset, SET, row["face_id"])
        assert sha256_file(path) == row["sha256"]
        crop = decode(crop_path(dataset, row["face_id"]).read_bytes())
        again = to_uint8(apply(to_float(shrink(crop, 32)), theta))
        assert np.array_equal(again, decode(path.read_bytes())) and again.shape == (32, 32, 3)


def test_a_face_that_is_only_a_reference_gets_no_image(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    with Ledger.open(dataset, write=True) as ledger:
        tests = [row for row in ledger.read_rows(Split) if row.split == "test" and row.status == "ok"]
        marked = [dataclasses.replace(row, no_target="outside_photo") for row in tests]
        ledger.record("double", "some", {}, marked[:2])
    only = {row.face_id for row in marked[:2]}
    plan = plan_set(dataset, **OPTIONS)
    made = make_set(dataset, **OPTIONS)
    with Ledger.open(dataset, write=True) as ledger:
        frozen = {row.face_id for row in ledger.read_rows(Degradation)}
        ledger.record("double", "all", {}, marked)
    assert plan.images == made.images == len(frozen) and only and not only & frozen
    assert make_set(dataset, **OPTIONS).images == made.images  # the frozen set keeps its images
    with pytest.raises(BadInput, match=r"has no target, .* for the reason outside_photo\): .* --filters keep-outside"):
        make_set(dataset, **{**OPTIONS, "seed": 1})


def test_the_summary_and_the_card_count_targets_that_are_enlarged_or_partly_outside_their_photo(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    with Ledger.open(dataset, write=True) as ledger:
        faces = [row for row in ledger.read_rows(Face) if row.status == "ok" and row.duplicate_of is None]
        poor = {0: {"upsample": 16.1}, 1: {"upsample": 16.0}, 2: {"outside": 0.021}, 3: {"outside": 0.02}}
        usual = [dataclasses.replace(face, upsample=1.0, outside=0.0) for face in faces]
        ledger.record("double", "poor", {}, [dataclasses.replace(f, **poor.get(n, {})) for n, f in enumerate(usual)])
    # In a set of 32 px, a target counts as enlarged if its `upsample` is above 512 / 32 = 16.
    made = make_set(dataset, **{**OPTIONS, "split": "test"})
    assert (made.enlarged, made.padded) == (1, 1)
    assert describe_poor_targets(made) == (
        f" 1 of {made.images} targets are enlarged to 32 px, because they are smaller than 32 px in their photo. 1 of "
        f"{made.images} targets have more than 2% of their crop outside the photo."
    )
    assert f"| codeformer | 32 | {made.images} | 1 | 1 |" in (dataset / "card.md").read_text()


def test_one_and_four_workers_write_the_same_bytes_and_rows(tmp_path):
    one, four = toy_dataset(tmp_path / "one"), toy_dataset(tmp_path / "four")
    make_set(one, **OPTIONS, workers=1)
    make_set(four, **OPTIONS, workers=4)
    assert contents(one) == contents(four)
    assert verify_set(four, SET, workers=2).ok


def test_killed_and_repeated_is_the_same_as_never_killed(tmp_path):
    killed, whole = toy_dataset(tmp_path / "killed"), toy_dataset(tmp_path / "whole")
    code = (
        "import os, signal, sys, degrade.frozen.dataset_sets as sets\n"
        "from pathlib import Path\n"
        "sets.BATCH, seen = 3, []\n"
        "def progress(n):\n"
        "    seen.extend([0] * n)\n"
        "    if len(seen) == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"sets.make_set(Path(sys.argv[1]), progress=progress, **{OPTIONS!r})\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(killed)], cwd=REPOSITORY)
    assert run.returncode == -signal.SIGKILL
    folder = killed / "lq" / SET
    (folder / ".left.png.1.tmp").write_bytes(b"half")
    half = verify_set(killed, SET)
    assert not half.ok and half.images_not_made == 5 and half.images == 3
    assert make_set(killed, **OPTIONS).images_written == 5
    make_set(whole, **OPTIONS)
    assert contents(killed) == contents(whole)
    assert verify_set(killed, SET).ok


def test_a_finished_set_is_left_alone_and_a_deleted_file_is_made_again(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    make_set(dataset, **OPTIONS)
    before = contents(dataset)
    path = lq_path(dataset, SET, toy_face(0).face_id)
    stamp = path.stat().st_mtime_ns
    assert make_set(dataset, **OPTIONS).images_written == 0 and path.stat().st_mtime_ns == stamp
    path.unlink()
    assert verify_set(dataset, SET).missing_files == (toy_face(0).face_id,)
    assert make_set(dataset, **OPTIONS).images_written == 1 and contents(dataset) == before


def test_a_file_that_is_not_what_was_frozen_is_made_again_and_that_is_said(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    make_set(dataset, **OPTIONS)
    before = contents(dataset)
    edited, deleted = (lq_path(dataset, SET, toy_face(number).face_id) for number in (0, 9))
    edited.write_bytes(encode_png(toy_picture(9, 32)))
    deleted.unlink()
    report = make_set(dataset, **OPTIONS)
    assert (report.images, report.images_written, report.images_repaired) == (8, 2, 1)
    assert contents(dataset) == before and verify_set(dataset, SET).ok


def test_a_frozen_test_set_locks_its_split_and_a_train_set_locks_nothing(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    make_set(dataset, preset="bicubic-x8", split="train", size=32)
    with Ledger.open(dataset) as ledger:
        assert not any(ledger.read_table("splits")["locked"])
    make_set(dataset, **OPTIONS)
    with Ledger.open(dataset) as ledger:
        for row in ledger.read_table("splits").iter_rows(named=True):
            assert row["locked"] == (row["split"] == "test")
    assert list_sets(dataset) == ["bicubic-x8-train-32-s0", SET]


def test_faces_that_join_later_do_not_change_a_frozen_set(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    make_set(dataset, **OPTIONS)
    before = contents(dataset)[:2]
    newcomer = toy_face(77)
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("curate", "more", {}, [newcomer, Split(newcomer.face_id, "id9", "test", "identity")])
    report = make_set(dataset, **OPTIONS)
    assert (report.images, report.images_written, report.later_faces) == (8, 0, 1)
    assert contents(dataset)[:2] == before


def test_verify_names_what_was_tampered_with_and_how_far_off_it_is(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    make_set(dataset, **OPTIONS)
    first, second, third = (toy_face(number).face_id for number in (0, 1, 2))
    pixels = decode(lq_path(dataset, SET, first).read_bytes()).copy()
    pixels[3, 4, 1] ^= 16
    lq_path(dataset, SET, first).write_bytes(encode_png(pixels))
    lq_path(dataset, SET, second).write_bytes(b"no picture at all")
    lq_path(dataset, SET, third).unlink()
    (dataset / "lq" / SET / "stranger.png").write_bytes(b"")
    found = verify_set(dataset, SET)
    assert (
        found.changed_files == (first, second)
        and found.missing_files == (third,)
        and found.unexpected_files == ("stranger",)
    )
    assert found.unreproduced_files == () and found.largest_difference == 255 and not found.ok
    lq_path(dataset, SET, second).unlink()
    assert verify_set(dataset, SET).largest_difference == 16


def test_verify_names_faces_whose_crop_changed_or_is_gone(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    make_set(dataset, **OPTIONS)
    first, second = (toy_face(number).face_id for number in (0, 1))
    crop_path(dataset, first).write_bytes(encode_png(toy_picture(99)))
    crop_path(dataset, second).unlink()
    found = verify_set(dataset, SET)
    assert (
        found.unreproduced_files == (first,) and found.files_without_source == (second,) and found.changed_files == ()
    )
    assert found.largest_difference > 0
    lq_path(dataset, SET, first).unlink()
    crop_path(dataset, second).write_bytes(encode_png(toy_picture(1)))
    with pytest.raises(LedgerBroken, match=rf"{first}\.png in .* nothing was overwritten"):
        make_set(dataset, **OPTIONS)
    assert not lq_path(dataset, SET, first).exists()


def test_a_missing_crop_stops_before_anything_is_written(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    crop_path(dataset, toy_face(6).face_id).unlink()
    with pytest.raises(LedgerBroken, match="likeness curate"):
        make_set(dataset, **OPTIONS)
    assert not (dataset / "lq").exists() and list_sets(dataset) == []
    crop_path(dataset, toy_face(6).face_id).write_bytes(b"")
    with pytest.raises(LedgerBroken, match="is empty"):
        make_set(dataset, **OPTIONS)


def test_a_set_of_other_numbers_under_the_same_name_is_not_touched(tmp_path, monkeypatch):
    dataset = toy_dataset(tmp_path / "d")
    make_set(dataset, **OPTIONS)
    before = contents(dataset)
    monkeypatch.setitem(PRESETS, "codeformer", dataclasses.replace(PRESETS["codeformer"], down=(2, 3)))
    with pytest.raises(BadInput, match="choose another --seed"):
        make_set(dataset, **OPTIONS)
    assert contents(dataset) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preset": "gfpgam"}, "the presets are"),
        ({"split": "holdout"}, "the splits are"),
        ({"split": "val"}, "has no face"),
        ({"size": 0}, "--size"),
        ({"size": 1024}, "--size"),
        ({"workers": 0}, "worker"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**63}, "--seed"),
    ],
)
def test_options_without_sense_are_refused_and_nothing_is_written(tmp_path, options, says):
    dataset = toy_dataset(tmp_path / "d")
    with pytest.raises(BadInput, match=says):
        make_set(dataset, **{**OPTIONS, **options})
    assert not (dataset / "lq").exists()


def test_a_plan_writes_nothing_and_a_missing_dataset_is_not_made(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    assert plan_set(dataset, **OPTIONS).images == 8
    assert not (dataset / "lq").exists() and list_sets(dataset) == []
    with pytest.raises(LedgerMissing):
        make_set(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(BadInput, match="no set exists yet"):
        verify_set(dataset, SET)
    assert count_images(dataset, SET) == 0


def test_png_bytes_are_a_function_of_the_pixels_and_carry_nothing_else():
    pixels = toy_picture(1)
    data = encode_png(pixels)
    assert data == encode_png(pixels.copy()) and np.array_equal(decode(data), pixels)
    assert sha256_bytes(data) == sha256_bytes(encode_png(np.asfortranarray(pixels)))
    chunks, at = [], 8
    while at < len(data):
        chunks.append(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}


def test_environment_is_left_as_it_was(tmp_path):
    before = dict(os.environ)
    make_set(toy_dataset(tmp_path / "d"), **OPTIONS)
    assert dict(os.environ) == before
