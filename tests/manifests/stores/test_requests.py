"""Tests that files of a hub are read, and what the errors of gcsfs mean. No request leaves the machine."""

import pytest

from curate.photos.walk import walk_files
from manifests.runtime.uris import uri_of
from manifests.stores import requests
from manifests.stores.requests import StoreError
from manifests.stores.store_path import parse_path
from tests.doubles.hub import DATASET, serve_hub

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
    assert requests._explain(error) == (reason, is_final)
