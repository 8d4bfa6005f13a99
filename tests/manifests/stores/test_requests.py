"""Tests that files of a hub are read, and what the errors of gcsfs mean. No request leaves the machine."""

import pytest

from curate.photos.walk import walk_files
from manifests.runtime.uris import uri_of
from manifests.stores import failures, requests
from manifests.stores.failures import StoreError
from manifests.stores.store_path import parse_path
from tests.doubles.hub import DATASET, serve_hub
from tests.doubles.stores import hurry, serve_folder

TOKEN = "hf_token-that-nobody-may-see"
ROOT = f"hf://datasets/{DATASET}"


@pytest.fixture
def files():
    files = {"photos/1.jpg": b"first", "photos/sub/2.jpg": b"second", "card.md": b"text"}
    with serve_hub(files, TOKEN):
        yield files


def test_the_files_of_a_hub_are_listed_and_read_and_a_change_is_seen(files):
    folder = parse_path(f"{ROOT}/photos")
    assert folder.is_dir() and not (folder / "none.jpg").exists()
    first, second = walk_files([folder])
    assert [uri_of(path) for path in (first, second)] == [f"{ROOT}/photos/1.jpg", f"{ROOT}/photos/sub/2.jpg"]
    assert (first.read_bytes(), second.read_bytes(), first.read_head(2)) == (b"first", b"second", b"fi")
    first.check_unchanged()
    files["photos/1.jpg"] = b"other"  # the size stays
    with pytest.raises(StoreError, match="changed while it was read"):
        first.check_unchanged()


def test_a_hub_that_refuses_the_token_is_one_sentence_without_the_token(files, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}-wrong")
    requests._make_store.cache_clear()
    with pytest.raises(StoreError) as refused:
        parse_path(f"{ROOT}/photos").stat()
    assert "token" not in str(refused.value) and "hf_" not in str(refused.value)


class HttpError(Exception):
    """Has the attributes of gcsfs.retry.HttpError."""

    def __init__(self, code: int) -> None:
        self.code = code


@pytest.mark.parametrize(
    ("error", "reason", "is_final"),
    [
        (OSError("Forbidden: https://host/b/bucket"), "access_denied", True),
        (HttpError(401), "access_denied", True),
        (HttpError(400), "unreadable_file", True),
        (HttpError(503), "unreadable_file", False),
        (FileNotFoundError("bucket/a"), "file_vanished", True),
    ],
)
def test_the_errors_of_gcsfs_have_a_reason(error, reason, is_final):
    assert failures.explain_error(error) == (reason, is_final)


def test_a_server_that_cannot_be_reached_is_called_by_its_name(monkeypatch, tmp_path):
    hurry(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing answers at the port 9
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    requests._make_store.cache_clear()
    with pytest.raises(StoreError, match="the store cannot be reached; check the address and AWS_ENDPOINT_URL"):
        parse_path("s3://bucket/a.jpg").stat()
    requests._make_store.cache_clear()
    with pytest.raises(StoreError, match="the web server cannot be reached"):
        parse_path("http://127.0.0.1:9/a.jpg").stat()
    with serve_folder(tmp_path) as server, pytest.raises(StoreError, match="no such file or folder at this address"):
        parse_path(f"{server.address}/a.jpg").stat()


class ClientError(PermissionError):
    """Has the attributes of botocore.exceptions.ClientError."""

    operation_name = "DeleteObject"

    def __init__(self, code: str) -> None:
        self.response = {"Error": {"Code": code}}


@pytest.mark.parametrize(
    ("code", "sentence"),
    [("SignatureDoesNotMatch", "wrong or missing"), ("AccessDenied", "whether they allow the request DeleteObject")],
)
def test_wrong_credentials_and_a_missing_permission_have_different_sentences(code, sentence):
    error = PermissionError("secret")
    error.__cause__ = ClientError(code)
    text = failures.describe_error("s3://bucket/a.jpg", failures.DENIED, error)
    assert text.startswith("the store denies the access") and sentence in text and "secret" not in text
