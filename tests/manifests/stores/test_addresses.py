"""Tests that addresses keep their meaning as paths and uris, and that no secret of an address is shown."""

import pickle
import sys
from pathlib import Path

import pytest

from manifests.errors import BadInput
from manifests.runtime.json_log import log
from manifests.runtime.uris import display_path, member_uri, parse_member_uri, path_of, uri_of
from manifests.stores.addresses import add_secrets, find_address, hide_in_word, hide_secrets
from manifests.stores.failures import StoreError
from manifests.stores.requests import _make_store
from manifests.stores.store_path import StorePath, parse_path
from tests.doubles.json_log import json_log

SECRET = "s3cr3t-value"


def test_an_address_is_a_path_with_one_uri():
    path = parse_path("s3://bucket/my photos/ä#1.jpg")
    assert isinstance(path, StorePath) and (path.name, path.suffix) == ("ä#1.jpg", ".jpg")
    assert str(path) == "s3://bucket/my photos/ä#1.jpg" and str(path.parent) == "s3://bucket/my photos"
    assert uri_of(path) == uri_of(str(path)) == "s3://bucket/my%20photos/%C3%A4%231.jpg"
    assert path_of(uri_of(path)) == path and str(path_of(uri_of(path))) == str(path)
    member = member_uri(parse_path("s3://bucket/a.tar"), 3, b"x/y.jpg")
    assert member == "s3://bucket/a.tar#3/x/y.jpg"
    assert parse_member_uri(member) == (StorePath("s3://bucket/a.tar"), 3, b"x/y.jpg")
    assert str(display_path(member)) == "s3://bucket/a.tar/x/y.jpg"
    assert type(parse_path("photos")) is type(Path()) and parse_path(path) is path


@pytest.mark.parametrize(
    "address",
    [
        f"https://host/a%20b.jpg?X-Amz-Credential=AKIA&X-Amz-Signature={SECRET}",
        f"https://user:{SECRET}@host:8080/a%20b.jpg",
        f"http://{SECRET}@host/a%20b.jpg#part",
        f"HTTPS://host/a%20b.jpg?token={SECRET}",
    ],
)
def test_the_secrets_of_a_web_address_stay_in_memory(address):
    path = parse_path(address)
    assert SECRET not in f"{path!r} {path} {uri_of(path)} {uri_of(address)}" and path.name == "a%20b.jpg"
    assert SECRET in add_secrets(uri_of(path))
    assert path_of(uri_of(path)) == path_of(add_secrets(uri_of(path))) == path
    # a worker process gets the secrets with the path
    assert SECRET in pickle.dumps(path).decode("latin-1") and pickle.loads(pickle.dumps(path)) == path
    assert SECRET not in str(StoreError(str(path), "unreadable_file"))


@pytest.mark.parametrize("address", ["s3://", "s3://b//a.jpg", "s3://b/../a.jpg", "https:///a.jpg", "gs://b/./a"])
def test_an_address_that_no_path_can_stand_for_is_refused(address):
    with pytest.raises(BadInput, match=r"cannot be used|no valid host|no bucket"):
        parse_path(address)


@pytest.mark.parametrize(
    "address", [f"s3://AKIA:{SECRET}@bucket/a", f"s3://AKIA:a/{SECRET}@bucket/a", f"https://user:{SECRET}/x@host/a.jpg"]
)
def test_a_key_in_a_wrong_place_is_refused_and_not_shown(address):
    with pytest.raises(BadInput) as refused:
        parse_path(address)
    assert SECRET not in str(refused.value)


def test_no_secret_is_in_the_log():
    with json_log() as lines:
        log(
            "started",
            command=["curate", f"https://h/list.txt?sig={SECRET}", 'a"b'],
            more={"at": f"https://u:{SECRET}@h/a"},
        )
        (line,) = lines()
    assert line["command"] == ["curate", "https://h/list.txt", 'a"b'] and line["more"] == {"at": "https://h/a"}
    assert hide_secrets("a@b.c asks? s3://bucket/who?.jpg") == "a@b.c asks? s3://bucket/who?.jpg"


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        (f"ftp://u:{SECRET}@h:21/x", "ftp://h:21/x"),
        (f"http:/u:a {SECRET}@h/x", "http:/h/x"),
        (f"--out=http://u:{SECRET}/a@h/x?sig={SECRET}", "--out=http://h/x"),
        (f"http://u:{SECRET}?a@h/x", "http://..."),
        (f"s3:/KEY:a/{SECRET}@b/x", "s3:/b/x"),
        (f"az://c/x?sig={SECRET}", "az://c/x"),
        ("s3://b/a@b?.jpg", "s3://b/a@b?.jpg"),
        ("http://h:8080/a@b.jpg", "http://h:8080/a@b.jpg"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
    ],
)
def test_one_word_is_shown_without_its_secrets(word, shown):
    assert hide_in_word(word) == shown and word.endswith(find_address(word)[0])


@pytest.mark.parametrize("word", ["osdface:/models/me@home", "hint:/a@b.csv", "/data/x:/a@b", "C:/a@b/c", "loss=2", ""])
def test_a_path_after_a_name_is_no_address(word):
    assert find_address(word) is None and hide_in_word(word) == word


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    _make_store.cache_clear()
    with pytest.raises(BadInput, match=r"pip install 'likeness\[stores\]'"):
        parse_path("s3://bucket/a").exists()
