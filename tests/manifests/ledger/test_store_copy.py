"""Tests the copy of a dataset in an object store: which files are copied and deleted, and which folders are refused."""

import time
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

import likeness
from curate.config import CurateConfig
from curate.photos.walk import walk_files
from degrade.frozen.dataset_sets import make_set
from manifests.check import check_ledger
from manifests.errors import BadInput
from manifests.ledger.paths import PENDING_NAME, crop_path
from manifests.ledger.records import Face, File, Membership, Purge
from manifests.ledger.store_copy import SUMS
from manifests.privacy.purge import purge
from manifests.privacy.purge_plan import plan_purge
from manifests.runtime.files import sha256_bytes
from manifests.stores.failures import StoreError
from manifests.stores.store_path import STORE_MARKER, parse_path
from tests.doubles.curation import curated, curated_album, install, rows, run
from tests.doubles.stores import DENY, ERROR, KEY, find_secret, hurry, serve_s3

STORE = parse_path("s3://copies/dataset")


@pytest.fixture(scope="module")
def s3():
    with serve_s3() as server:
        server.client = boto3.client("s3")
        server.client.create_bucket(Bucket="copies")
        yield server


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    install(monkeypatch)
    hurry(monkeypatch)


def download(s3, prefix: str = "dataset/") -> dict[str, bytes]:
    listed = s3.client.list_objects_v2(Bucket="copies", Prefix=prefix).get("Contents", [])
    names = [item["Key"] for item in listed]
    return {name.removeprefix(prefix): s3.client.get_object(Bucket="copies", Key=name)["Body"].read() for name in names}


def local_files(dataset) -> dict[str, bytes]:
    paths = [path for part in ("faces", "lq") for path in (dataset / part).rglob("*") if path.is_file()]
    return {path.relative_to(dataset).as_posix(): path.read_bytes() for path in [*paths, dataset / "manifest.duckdb"]}


def check_copy(s3, dataset) -> dict[str, bytes]:
    """Asserts that the store has the files of the dataset. Returns the files in the store."""
    copied = download(s3)
    others = {name: copied.pop(name) for name in (SUMS, STORE_MARKER)}
    assert copied == local_files(dataset)
    sums = [f"{sha256_bytes(data)}  {name}\n" for name, data in sorted(copied.items()) if name != "manifest.duckdb"]
    assert others[SUMS].decode() == "".join(sums)
    return copied


def test_crops_sets_and_the_ledger_are_copied_and_erased_faces_are_deleted(s3, tmp_path):
    photos, dataset = curated_album(tmp_path)
    count = 0

    def disturb(method: str, path: str) -> str | None:
        nonlocal count
        count += method == "PUT"
        return ERROR if method == "PUT" and count % 3 == 0 else None

    s3.disturb = disturb
    run([photos], dataset, CurateConfig(), store=STORE)
    s3.disturb = lambda method, path: None
    assert len(check_copy(s3, dataset)) == 13

    # the next call finishes a copy that ended early, and copies no file twice
    s3.disturb = lambda method, path: DENY if method == "PUT" and path.endswith("card.json") else None
    with pytest.raises(StoreError):
        make_set(dataset, "gfpgan", "test", size=64)
    assert not any(name.endswith("card.json") for name in download(s3))
    s3.disturb = lambda method, path: None
    s3.requests.clear()
    make_set(dataset, "gfpgan", "test", size=64)
    put = sorted(path.rpartition("/")[2] for method, path in s3.requests if method == "PUT" and "/faces/" in path)
    assert put == []
    with_set = check_copy(s3, dataset)

    # a purge deletes the files of the faces, and removes the face ids from all other files
    face = next(one for one in rows(dataset, Face) if f"lq/gfpgan-test-64-s0/{one.face_id}.png" in with_set)
    plan = plan_purge(dataset, [], [face.photo_id])
    s3.disturb = lambda method, path: DENY if method == "DELETE" else None
    with pytest.raises(StoreError):
        purge(dataset, plan)
    s3.disturb = lambda method, path: None
    purge(dataset, plan)  # the same command again
    left = check_copy(s3, dataset)
    assert len(left) == len(with_set) - 2 and check_ledger(dataset) == []
    assert not [name for name, data in download(s3).items() if face.face_id.encode() in name.encode() + data]
    assert not find_secret(dataset, KEY)

    # a crop that somebody changed is not copied, and a scan does not read the files of the copy as photos
    crop = next((dataset / "faces").rglob("*.png"))
    s3.client.delete_object(Bucket="copies", Key=f"dataset/{crop.relative_to(dataset)}")
    crop.write_bytes(b"changed")
    copied, notice = make_set(dataset, "gfpgan", "test", size=64).notices
    assert copied == "The dataset is copied into s3://copies/dataset: 0 new or changed files, and the ledger."
    assert notice.startswith(f"1 file of {dataset} is missing or changed, and not copied into s3://copies/dataset.")
    assert [item.reason for item in walk_files([parse_path("s3://copies")])] == ["dataset_folder"]


def test_a_folder_with_other_files_and_a_second_folder_are_refused(s3, tmp_path):
    s3.disturb = lambda method, path: None
    photos, dataset = curated_album(tmp_path)
    s3.client.put_object(Bucket="copies", Key="mine/a.txt", Body=b"x")
    run([photos], dataset, CurateConfig(), store=parse_path("s3://copies/first"))
    for store, sentence in (
        ("s3://copies/mine", "contains other files"),
        ("s3://copies/second", "is copied into s3://copies/first"),
        ("hf://datasets/a/b", "cannot be written"),
        (str(tmp_path / "folder"), "is not an address"),
    ):
        other = tmp_path / "other" if "mine" in store else dataset
        with pytest.raises(BadInput, match=sentence):
            run([photos], other, CurateConfig(), store=parse_path(store))
    assert not (tmp_path / "other").exists()
    # without the file STORE_MARKER, the folder may belong to another dataset
    s3.client.delete_object(Bucket="copies", Key=f"first/{STORE_MARKER}")
    with pytest.raises(BadInput, match="missing or belongs to another dataset, so nothing was copied or deleted"):
        curated(photos, dataset)
    assert list(download(s3, "mine/")) == ["a.txt"]


@pytest.mark.parametrize(
    ("method", "sentence"),
    [("PUT", "the store denies the access"), ("DELETE", "allowed to list, read, write and delete"), ("", "not exist")],
)
def test_a_store_without_the_permissions_is_refused_before_anything_is_written(s3, tmp_path, method, sentence):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"x")
    s3.disturb = lambda sent, path: DENY if sent == method else None
    store = parse_path(f"s3://copies/refused{method}" if method else "s3://no-such-bucket/a")
    with pytest.raises(BadInput, match=sentence):
        run([photos], tmp_path / "dataset", CurateConfig(), store=store)
    assert not (tmp_path / "dataset").exists()
    s3.disturb = lambda sent, path: None
    if method:  # what the refused call could not delete does not stop the next call
        run([photos], tmp_path / "dataset", CurateConfig(), store=store)
        assert "manifest.duckdb" in download(s3, f"refused{method}/")


def call(*words: object) -> tuple[int, str]:
    """Returns the exit code and the output of a command, with the sentence of an error."""
    result = CliRunner().invoke(likeness.app, [str(word) for word in words])
    code = getattr(result.exception, "exit_code", result.exit_code)
    return code, result.output + str(result.exception or "")


def test_a_purge_that_the_store_stopped_is_finished_by_the_same_command_and_by_another(s3, tmp_path):
    s3.disturb = lambda method, path: None
    photos, dataset = curated_album(tmp_path)
    run([photos], dataset, CurateConfig(), store=parse_path("s3://copies/purged"))
    face_of = {face.photo_id: face.face_id for face in rows(dataset, Face)}
    faces = {"/".join(row.uri.split("/")[-2:]): face_of[row.photo_id] for row in rows(dataset, File)}
    person = next(row.identity_id for row in rows(dataset, Membership) if row.face_id == faces["person3/0.png"])

    def left() -> set[str]:
        text = b"".join(name.encode() + data for name, data in download(s3, "purged/").items())
        return {name for name, face in faces.items() if face.encode() in text}

    # after the stopped purge, the dataset does not know the person, and the same command still finishes the purge
    by_person = ("manifest", "purge", dataset, "--person", person, "--yes", "--json")
    s3.disturb = lambda method, path: DENY if method == "DELETE" else None
    code, text = call(*by_person)
    assert code == 1 and "Run the same command again" in text and (dataset / PENDING_NAME).exists()
    s3.disturb = lambda method, path: None
    code, text = call(*by_person)
    assert code == 0 and '"store": "s3://copies/purged"' in text
    assert left() == {name for name in faces if "person3" not in name}

    # another purge finishes the stopped one and does its own work, or does nothing at all
    s3.disturb = lambda method, path: DENY if method == "PUT" and path.endswith("manifest.duckdb") else None
    assert call("manifest", "optout", dataset, "--photo", "person0/0.png", "--yes")[0] == 1  # failed at its last step
    s3.disturb = lambda method, path: None
    other = ("manifest", "purge", dataset, "--photo", "person0/1.png")
    code, text = call(*other)
    assert code == 2 and "Nothing was removed" in text and (dataset / PENDING_NAME).exists()
    code, text = call(*other, "--yes")
    assert code == 0 and text.count("Proof:") == 2 == text.count("Likeness also searched the store s3://copies/purged")
    assert not {"person0/0.png", "person0/1.png"} & left() and check_ledger(dataset) == []
    assert len(rows(dataset, Purge)) == 3


def test_a_refused_consent_that_the_store_stopped_is_finished_by_the_same_command(s3, tmp_path):
    s3.disturb = lambda method, path: None
    photos, dataset = curated_album(tmp_path)
    run([photos], dataset, CurateConfig(), store=parse_path("s3://copies/refused"))
    face = rows(dataset, Face)[0]
    key = f"refused/{crop_path(Path(), face.face_id)}"
    refuse = ("decide", dataset, "consent", face.photo_id, "--consent", "withdrawn")
    s3.disturb = lambda method, path: DENY if method == "DELETE" else None
    assert call(*refuse)[0] == 1 and download(s3, key)
    s3.disturb = lambda method, path: None
    assert call(*refuse)[0] == 0 and not download(s3, key) and check_ledger(dataset) == []
    # if somebody deletes the copy, it is written again
    for name in download(s3, "refused/"):
        s3.client.delete_object(Bucket="copies", Key=f"refused/{name}")
    curated(photos, dataset)
    assert download(s3, "refused/").keys() == {*local_files(dataset), SUMS, STORE_MARKER}


def test_a_crop_that_was_changed_in_the_store_is_copied_again(s3, tmp_path):
    s3.disturb = lambda method, path: None
    photos, dataset = curated_album(tmp_path)
    run([photos], dataset, CurateConfig(), store=parse_path("s3://copies/mended"))
    one, two, *_ = sorted((dataset / "faces").rglob("*.png"))
    keys = [f"mended/{path.relative_to(dataset)}" for path in (one, two)]
    s3.client.put_object(Bucket="copies", Key=keys[0], Body=b"other size")
    time.sleep(1.1 - time.time() % 1)  # the store has the times in whole seconds
    s3.client.put_object(Bucket="copies", Key=keys[1], Body=bytes(two.stat().st_size))
    s3.requests.clear()
    summary = curated(photos, dataset)
    assert "2 new or changed files" in summary.notices[-1]
    assert {method for method, path in s3.requests if path.endswith(".png")} == {"PUT"}  # the list is enough
    assert [download(s3, key)[""] for key in keys] == [one.read_bytes(), two.read_bytes()]
    assert "0 new or changed files" in curated(photos, dataset).notices[-1]
