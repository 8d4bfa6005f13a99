"""Tests that frozen sets of folders in an object store have the bytes of local sets, and are written there."""

import boto3
import cv2
import numpy as np
import pytest

from degrade.frozen.folders import degrade_folder
from degrade.frozen.replay import replay
from degrade.frozen.set_files import CARD, THETAS, read_card
from degrade.frozen.verify import verify_folder
from manifests.errors import BadInput, StoreFailed
from manifests.stores.store_path import parse_path
from tests.doubles.stores import CUT, DENY, ERROR, GONE, KEY, hurry, serve_s3


@pytest.fixture(scope="module")
def s3():
    with serve_s3() as server:
        server.client = boto3.client("s3")
        server.client.create_bucket(Bucket="faces")
        yield server


def test_a_set_from_and_to_a_disturbed_store_has_the_bytes_of_a_local_set(s3, tmp_path, monkeypatch):
    hurry(monkeypatch)
    for name in ("a.png", "sub/b.png", "sub/c.bin"):
        path = tmp_path / "clean" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = cv2.imencode(".png", np.uint8(np.random.default_rng(0).integers(0, 255, (64, 64, 3))))[1].tobytes()
        path.write_bytes(data)
        s3.client.put_object(Bucket="faces", Key=f"clean/{name}", Body=data)
    local = degrade_folder(tmp_path / "clean", tmp_path / "lq", "gfpgan", seed=3)
    count = 0

    def disturb(method: str, path: str) -> str | None:
        nonlocal count
        count += 1
        return {0: ERROR, 3: CUT}.get(count % 7) if method in ("GET", "PUT") and "list-type" not in path else None

    s3.disturb = disturb
    stored = degrade_folder(parse_path("s3://faces/clean"), parse_path("s3://faces/lq"), "gfpgan", seed=3)
    assert (stored.images, stored.skipped) == (local.images, ()) == (3, ())
    s3.disturb = lambda method, path: None
    names = {f"{path.relative_to(tmp_path)}" for path in (tmp_path / "lq").rglob("*") if path.is_file()}
    in_store = {item["Key"]: item for item in s3.client.list_objects_v2(Bucket="faces", Prefix="lq/")["Contents"]}
    assert in_store.keys() == names
    for name in names - {f"lq/{CARD}"}:
        assert s3.client.get_object(Bucket="faces", Key=name)["Body"].read() == (tmp_path / name).read_bytes(), name
    card = read_card(parse_path("s3://faces/lq"))
    assert card == {**read_card(tmp_path / "lq"), "source": "s3://faces/clean", "source_encoded": "s3%3A//faces/clean"}
    assert KEY not in str(card)

    # the set in the store is verified, repaired and replayed
    s3.disturb = disturb
    assert verify_folder(parse_path("s3://faces/lq")).ok
    s3.disturb = lambda method, path: None
    s3.client.delete_object(Bucket="faces", Key="lq/a.png")
    assert verify_folder(parse_path("s3://faces/lq")).missing_files == ("a.png",)
    again = degrade_folder(parse_path("s3://faces/clean"), parse_path("s3://faces/lq"), "gfpgan", seed=3)
    assert (again.images_written, verify_folder(parse_path("s3://faces/lq")).ok) == (1, True)
    replay(parse_path("s3://faces/clean"), parse_path(f"s3://faces/lq/{THETAS}"), tmp_path / "replayed")
    assert (tmp_path / "replayed" / "sub" / "b.png").read_bytes() == (tmp_path / "lq" / "sub" / "b.png").read_bytes()


def test_a_file_whose_name_cannot_be_used_is_skipped_with_its_reason(s3, tmp_path):
    s3.disturb = lambda method, path: None
    image = cv2.imencode(".png", np.full((64, 64, 3), 90, np.uint8))[1].tobytes()
    long = "n" * 300
    unsafe = ("a//double.png", "a/../up.png", "./here")
    readable = ("a.png", "a.png/inside.png", "blank ", "b" * 251 + ".png")
    for name in (*unsafe, *readable, f"{long}.png", "a//.hidden.png", "old//d.png"):
        s3.client.put_object(Bucket="faces", Key=f"names/{name}", Body=image)
    for name in (CARD, THETAS):
        s3.client.put_object(Bucket="faces", Key=f"names/old/{name}", Body=b"")
    clean = parse_path("s3://faces/names")
    local = degrade_folder(clean, tmp_path / "lq", "gfpgan")
    skipped = dict(local.skipped)
    assert skipped.pop("old") == "is a frozen set (frozen_set)"  # only a line of the output names it
    assert skipped.keys() == {*unsafe, f"{long}.png"} and local.images == len(readable)
    assert skipped["a//double.png"].startswith("has a name with //")
    assert skipped[f"{long}.png"] == "has a name that the disk of the set cannot hold (File name too long)"
    assert dict(read_card(tmp_path / "lq")["skipped"]) == skipped and verify_folder(tmp_path / "lq").ok
    assert degrade_folder(clean, tmp_path / "lq", "gfpgan").images_written == 0  # the set is complete
    # a store can hold the long names
    s3.client.put_object(Bucket="faces", Key="names/lq//c.png", Body=image)
    stored = degrade_folder(clean, parse_path("s3://faces/names/lq"), "gfpgan")
    assert {name for name, _ in stored.skipped} == {*unsafe, "old"}
    s3.client.put_object(Bucket="faces", Key="unsafe//x.png", Body=image)
    with pytest.raises(BadInput, match=r"contains no image .*, and 1 file with // or .. in the name"):
        degrade_folder(parse_path("s3://faces/unsafe"), tmp_path / "none", "gfpgan")


def test_datasets_and_sets_inside_the_folder_are_left_out_in_a_store_as_on_a_disk(s3, tmp_path):
    s3.disturb = lambda method, path: None
    data = cv2.imencode(".png", np.full((32, 32, 3), 90, np.uint8))[1].tobytes()
    names = ["a.png", "ds/manifest.duckdb", "ds/faces/b.png", "x/copy/likeness.json", "x/copy/faces/c.png"]
    names += ["x/set/card.json", "x/set/theta.jsonl", "x/set/d.png", "x/set/old/likeness.json"]
    for name in names:
        path = tmp_path / "mixed" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        s3.client.put_object(Bucket="faces", Key=f"mixed/{name}", Body=data)
    dataset, frozen = "is a dataset or a copy of a dataset (dataset_folder)", "is a frozen set (frozen_set)"
    skipped = (("ds", dataset), ("x/copy", dataset), ("x/set", frozen))
    for number, folder in enumerate((tmp_path / "mixed", parse_path("s3://faces/mixed"))):
        made = degrade_folder(folder, tmp_path / f"lq{number}")
        assert (made.images, made.skipped) == (1, skipped) and read_card(tmp_path / f"lq{number}")["skipped"] == []
        # a new dataset inside the folder does not change the set
        assert degrade_folder(folder, tmp_path / f"lq{number}").images_written == 0
    (tmp_path / "mixed" / "a.png").unlink()
    with pytest.raises(BadInput, match=r"contains no image .*, and 3 datasets or frozen sets: name another"):
        degrade_folder(tmp_path / "mixed", tmp_path / "none")


@pytest.mark.parametrize(("fault", "error"), [(GONE, StoreFailed), (DENY, BadInput)])
def test_a_store_that_fails_is_named_and_leaves_no_finished_set(s3, tmp_path, fault, error):
    data = cv2.imencode(".png", np.full((32, 32, 3), 90, np.uint8))[1].tobytes()
    for name in ("a.png", "b.png"):
        s3.client.put_object(Bucket="faces", Key=f"gone/{name}", Body=data)
    s3.disturb = lambda method, path: fault if path.endswith(".png") else None
    with pytest.raises(error, match=r"a\.png cannot be read \((there is no such file|the store denies)"):
        degrade_folder(parse_path("s3://faces/gone"), tmp_path / "lq")
    s3.disturb = lambda method, path: fault if path.endswith("b.png") else None
    if fault == GONE:
        with pytest.raises(StoreFailed, match="so 1 of 2 images of s3://faces/gone could not be read"):
            degrade_folder(parse_path("s3://faces/gone"), tmp_path / "lq")
    s3.disturb = lambda method, path: None
    assert degrade_folder(parse_path("s3://faces/gone"), tmp_path / "lq").images == 2


@pytest.mark.parametrize(
    ("source", "out", "sentence"),
    [
        ("s3://faces/none", "s3://faces/lq2", "s3://faces/none is not a folder"),
        (
            "s3://faces/clean",
            "https://host/lq",
            "https://host/lq cannot be written. Name an address that begins with s3://",
        ),
    ],
)
def test_an_address_that_cannot_be_used_is_one_sentence(s3, source, out, sentence):
    s3.disturb = lambda method, path: None
    s3.client.put_object(Bucket="faces", Key="clean/a.png", Body=b"x")
    with pytest.raises(BadInput, match=sentence):
        degrade_folder(parse_path(source), parse_path(out), "gfpgan")
