"""Tests that curation reads photos from object stores and web servers as it reads local photos."""

import io
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import boto3
import pytest

from curate.config import CurateConfig
from curate.photos.walk import walk_files
from manifests.errors import BadInput, StoreFailed
from manifests.ledger.records import Face, File, Photo
from manifests.runtime.cluster.cluster_pool import list_first_files
from manifests.runtime.cluster.node_work import _check_stores, _Unseen
from manifests.runtime.uris import path_of, uri_of
from manifests.stores import requests
from manifests.stores.store_path import parse_path
from tests.doubles.commands.command_tables import call_curate
from tests.doubles.curation import album, contents, curated, curated_album, files, install, photo, rows, run, save
from tests.doubles.stores import CUT, DENY, ERROR, GONE, KEY, KEY_ID, find_secret, hurry, serve_folder, serve_s3
from tests.places import REPOSITORY

SECRET = "token-that-nobody-may-see"


@pytest.fixture(scope="module")
def s3():
    with serve_s3() as server:
        client = boto3.client("s3")
        client.create_bucket(Bucket="photos")
        server.put = lambda key, data: client.put_object(Bucket="photos", Key=key, Body=data)
        yield server


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    install(monkeypatch)
    hurry(monkeypatch)


def upload(s3, folder: Path, prefix: str) -> None:
    for path in filter(Path.is_file, folder.rglob("*")):
        s3.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


def compare(local: Path, stored: Path, old: str, new: str) -> None:
    """Asserts that two datasets have the same files, and the same rows except for the uris and times of files."""
    assert files(local) == files(stored)
    of_local, of_stored = contents(local), contents(stored)
    for name in of_local.keys() - {"files", "stages"}:
        assert of_local[name] == of_stored[name], name
    columns = ("photo_id", "bytes", "status", "reason", "sha256", "samples")
    of_file = {file.uri.removeprefix(old): [getattr(file, name) for name in columns] for file in rows(local, File)}
    assert of_file == {file.uri.removeprefix(new): [getattr(file, n) for n in columns] for file in rows(stored, File)}


def fail_times(fault: str, times: int, key: str, method: str = "GET"):
    """Returns a function that disturbs the first `times` requests for `key`."""
    left = [times]

    def disturb(asked: str, path: str) -> str | None:
        if asked == method and path.endswith(key) and left[0]:
            left[0] -= 1
            return fault
        return None

    return disturb


def write_shards(folder: Path) -> None:
    """Writes a shard with the photos of two people, and the beginning of this shard as a second shard."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as shard:
        for person in (5, 6):
            for number in range(3):
                path = save(folder / f"{person}-{number}.png", photo([person], number))
                shard.add(path, path.name)
                path.unlink()
    (folder / "00000.tar").write_bytes(whole.getvalue())
    (folder / "00001.tar").write_bytes(whole.getvalue()[:30_000])


def test_a_disturbed_store_gives_the_same_dataset_as_a_local_folder(s3, tmp_path):
    photos, local = album(tmp_path / "photos", people=3), tmp_path / "local"
    (photos / "broken.jpg").write_bytes(b"\xff\xd8no picture")
    write_shards(photos / "shards")
    curated(photos, local)
    upload(s3, photos, "album")
    store, dataset = parse_path("s3://photos/album"), tmp_path / "stored"
    busy, cut = fail_times(ERROR, 4, "person1/1.png"), fail_times(CUT, 2, "person2/0.png")
    s3.disturb = lambda *request: busy(*request) or cut(*request)
    s3.requests.clear()
    curated(store, dataset)
    compare(local, dataset, uri_of(photos), uri_of(store))
    assert not find_secret(dataset, KEY) and not find_secret(dataset, KEY_ID)
    assert KEY not in str(contents(dataset)) and KEY_ID not in str(contents(dataset))
    # shards are read in sequence, and a shard that is cut short has a reason
    assert sum(path.endswith("00000.tar") for method, path in s3.requests if method == "GET") <= 3
    reasons = {file.uri: file.reason for file in rows(dataset, File)}
    assert reasons["s3://photos/album/shards/00001.tar"] == "truncated"

    # a second run finds what was added and deleted, and reads no other photo
    boto3.client("s3").delete_object(Bucket="photos", Key="album/person0/0.png")
    (photos / "person0" / "0.png").unlink()
    s3.put("album/person9/0.png", (photos / "person1" / "0.png").read_bytes())
    s3.requests.clear()
    summary = curated(store, dataset)
    assert {path for method, path in s3.requests if method == "GET" and path.endswith((".png", ".tar"))} == {
        "/photos/album/person9/0.png"
    }
    reasons = {file.uri: file.reason for file in rows(dataset, File)}
    assert reasons["s3://photos/album/person0/0.png"] == "file_gone" and "no longer there" in summary.notices[0]
    assert reasons["s3://photos/album/person9/0.png"] == "same_file"


def test_a_photo_that_cannot_be_read_gets_a_row_with_the_reason(s3, tmp_path):
    photos = album(tmp_path / "photos", people=2)
    upload(s3, photos, "bad")
    changed = (photos / "person1" / "2.png").read_bytes()
    faults = {"person0/0.png": CUT, "person0/1.png": ERROR, "person0/2.png": DENY}

    def disturb(method: str, path: str) -> str | None:
        if method == "GET" and path.endswith("person1/1.png"):
            s3.disturb = lambda method, path: faults.get(path[-len("person0/0.png") :]) if method == "GET" else None
            s3.put("bad/person1/1.png", changed)  # the photo changes after it was listed, while it is read
        return faults.get(path[-len("person0/0.png") :]) if method == "GET" else None

    s3.disturb = disturb
    notice = curated(parse_path("s3://photos/bad"), tmp_path / "dataset").notices[0]
    s3.disturb = lambda method, path: None
    assert notice.startswith(
        "The store failed, so 3 of 6 files could not be read: 1 transfer_truncated (the store sent"
    )
    found = {file.uri[-len("person0/0.png") :]: (file.status, file.reason) for file in rows(tmp_path / "dataset", File)}
    assert found == {
        "person0/0.png": ("failed", "transfer_truncated"),
        "person0/1.png": ("failed", "unreadable_file"),
        "person0/2.png": ("failed", "access_denied"),
        "person1/0.png": ("ok", None),
        "person1/1.png": ("failed", "file_changed"),
        "person1/2.png": ("ok", None),
    }
    # five requests for a photo that stays unreadable, one if the access is denied
    counts = [sum(asked.endswith(name) for method, asked in s3.requests if method == "GET") for name in faults]
    assert counts == [requests.ATTEMPTS, requests.ATTEMPTS, 1]
    # the next run reads these photos
    curated(parse_path("s3://photos/bad"), tmp_path / "dataset")
    assert {file.reason for file in rows(tmp_path / "dataset", File)} == {None, "same_file"}


def test_a_list_of_web_addresses_is_read_and_no_secret_is_kept(tmp_path, capfd):
    photos, local = curated_album(tmp_path)
    dataset = tmp_path / "stored"
    with serve_folder(photos, SECRET) as server:
        names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
        signed = [f"{server.address}/{name}?X-Amz-Signature={SECRET}" for name in names[:-2]]
        with_password = [server.address.replace("://", f"://user:{SECRET}@") + f"/{name}" for name in names[-2:]]
        missing = f"{server.address}/no.png"
        # one list is on the web server, and one is a local file
        (photos / "list.txt").write_text("\n".join(["# my photos", "", *signed[:5], *with_password]))
        (tmp_path / "list.txt").write_text("\n".join([*signed[5:], f"{missing}?t={SECRET}", ""]))
        lists = [tmp_path / "list.txt", parse_path(f"{server.address}/list.txt?token={SECRET}")]
        run(lists, dataset, CurateConfig())
        failed = call_curate(f"{server.address}/list.txt?token=wrong-{SECRET[:3]}", "--out", tmp_path / "fourth")
    assert [file.reason for file in rows(dataset, File) if file.uri == missing] == ["file_vanished"]
    assert rows(dataset, Photo) == rows(local, Photo)
    assert files(dataset) == files(local)
    assert failed.exit_code != 0 and "the web server denies the access" in str(failed.exception)
    assert not find_secret(dataset, SECRET) and SECRET not in str(contents(dataset))
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("https://h/a.jpg\nb.jpg\n", "line 2 is not an address"),
        ("https://h/a.jpg?x=1\nhttps://h/a.jpg?x=2\n", "the lines 1 and 2 differ only"),
        ("https://h/a.jpg\ns3://k:s@b/a.jpg\n", "line 2: .* must not contain a key"),
    ],
)
def test_a_list_with_a_wrong_line_is_refused(tmp_path, lines, sentence):
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(BadInput, match=sentence):
        list(walk_files([tmp_path / "list.txt"]))
    (tmp_path / "notes.txt").write_text("no address\n")
    assert list(walk_files([tmp_path / "notes.txt"])) == [tmp_path / "notes.txt"]


def test_an_address_where_nothing_is_and_a_bucket_without_permission_are_one_sentence(s3, tmp_path):
    with pytest.raises(BadInput, match="s3://photos/none cannot be read: there is no such file or folder"):
        curated(parse_path("s3://photos/none"), tmp_path / "dataset")
    with pytest.raises(BadInput, match="s3://no-such-bucket/a cannot be read: there is no such bucket"):
        curated(parse_path("s3://no-such-bucket/a"), tmp_path / "dataset")
    s3.disturb = lambda method, path: DENY
    with pytest.raises(BadInput, match="s3://photos/album cannot be read: the store denies the access"):
        curated(parse_path("s3://photos/album"), tmp_path / "dataset")
    s3.disturb = lambda method, path: None
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("fault", [GONE, DENY])
def test_a_store_that_fails_after_the_listing_is_named_and_the_run_fails(s3, tmp_path, fault):
    upload(s3, album(tmp_path / "photos", people=2), "gone")
    s3.disturb = lambda method, path: fault if path.endswith(".png") else None
    reason = {GONE: r"6 file_vanished \(there is no such file", DENY: r"6 access_denied \(the store denies"}[fault]
    with pytest.raises(StoreFailed, match=f"The store failed, so no file of s3://photos/gone could be read: {reason}"):
        curated(parse_path("s3://photos/gone"), tmp_path / "dataset")
    s3.disturb = lambda method, path: None


def test_a_store_that_fails_after_the_scan_is_named_and_the_run_fails(s3, tmp_path):
    upload(s3, album(tmp_path / "photos", people=2), "lost")
    seen: set[str] = set()

    def disturb(method: str, path: str) -> str | None:
        is_second = method == "GET" and path in seen
        seen.add(path if method == "GET" else "")
        return GONE if is_second and path.endswith(".png") else None

    s3.disturb = disturb
    with pytest.raises(StoreFailed, match="so 6 of 6 photos could not be read again after the scan"):
        curated(parse_path("s3://photos/lost"), tmp_path / "dataset")
    s3.disturb = lambda method, path: None
    assert len(rows(tmp_path / "dataset", Face)) == 0 and not curated(
        parse_path("s3://photos/lost"), tmp_path / "dataset"
    ).photos.get("file_vanished_or_changed")


def test_a_node_that_cannot_read_a_store_is_noticed(s3):
    s3.put("node/a.jpg", b"bytes")
    folder, file, missing = (parse_path(f"s3://photos/{name}") for name in ("node", "node/a.jpg", "node/b.jpg"))
    assert list_first_files([folder, file]) == [[folder], [file]]
    _check_stores([[folder], [file], [missing, file]])
    with pytest.raises(_Unseen, match=r"b\.jpg cannot be read: there is no such file"):
        _check_stores([[file], [missing]])
    s3.disturb = lambda method, path: DENY if method == "GET" and path.endswith("a.jpg") else None
    with pytest.raises(_Unseen, match=r"a\.jpg cannot be read: the store denies the access"):
        _check_stores([[file]])
    s3.disturb = lambda *_: None


def test_names_are_left_out_in_a_store_as_in_a_folder(s3, tmp_path):
    for name in ("a.png", ".trash/b.png", "x/@eaDir/c.png", "x/d.png", "old/manifest.duckdb", "old/faces/e.png"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    upload(s3, tmp_path / "tree", "tree")
    s3.put("tree/odd//f.png", b"x")
    s3.put("tree/x/", b"")

    def walk(root: Path) -> set[tuple[str, str | None]]:
        items = [
            (item.uri, item.reason) if isinstance(item, File) else (uri_of(item), None) for item in walk_files([root])
        ]
        return {(uri.removeprefix(uri_of(root)), reason) for uri, reason in items}

    assert walk(parse_path("s3://photos/tree")) == walk(tmp_path / "tree") | {("/odd//f.png", "unsafe_name")}


def test_names_that_end_in_white_space_are_read(s3, tmp_path):
    names = [" begin", "100%25?#.jpg", "line\u2028separator", "no-break\u00a0", "tab\t", "trail "]
    for name in names:
        s3.put(f"white/{name}", name.encode())
    for path, name in zip(walk_files([parse_path("s3://photos/white")]), names, strict=True):
        # a worker process reads the path that it gets, and later stages read the uri in the ledger
        for again in (pickle.loads(pickle.dumps(path)), path_of(uri_of(path))):
            assert again.name == name and again.read_bytes() == name.encode()
    (tmp_path / "list.txt").write_text(" s3://photos/white/no-break\u00a0\r\ns3://photos/white/line\u2028separator\n")
    assert [path.name for path in walk_files([tmp_path / "list.txt"])] == ["no-break\u00a0", "line\u2028separator"]


def test_a_local_curation_imports_no_library_for_stores():
    script = (
        "import sys, curate.run.pipeline, degrade.frozen.folders, likeness\n"
        "print(sorted({'fsspec', 's3fs', 'gcsfs', 'aiohttp', 'botocore'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
