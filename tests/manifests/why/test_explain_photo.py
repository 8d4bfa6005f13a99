"""Tests that `why` finds a photo by its path, its name or the beginning of an id, or says what is missing."""

import os
from pathlib import Path

import pytest

from curate.decisions.decide import decide
from manifests.errors import BadInput
from manifests.ledger.records import Face
from manifests.runtime.files import sha256_file
from manifests.runtime.uris import path_of
from manifests.why.explain_photo import explain_photo
from tests.doubles.curation import album, curated, install, photo, rows, save


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("why")
    photos = album(folder / "photos", people=3, each=3)
    (photos / "again.png").write_bytes((photos / "person0" / "0.png").read_bytes())
    (photos / "letter.jpg").write_text("Dear photograph")
    Path(os.fsdecode(bytes(photos) + b"/caf\xe9\nx.jpg")).write_bytes(b"")
    save(photos / "empty.png", photo([], 0))
    save(photos / "alone.png", photo([5], 0))
    save(photos / "tiny.png", photo([6], 0, side=40))
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        curated(photos, folder / "dataset")
    return photos, folder / "dataset"


def test_by_path_by_name_and_by_the_end_of_a_path(made):
    photos, dataset = made
    by_path, found = explain_photo(dataset, str(photos / "person1" / "2.png"))
    assert len(found) == 1 and path_of(found[0]["uri"]) == photos / "person1" / "2.png"
    assert explain_photo(dataset, "person1/2.png")[0] == by_path
    assert "ok, identity p-" in by_path[2] and by_path[2].endswith((", train", ", val", ", test"))
    assert len(explain_photo(dataset, "2.png")[1]) == 3


def test_by_the_beginning_of_a_photo_id_and_of_a_face_id(made):
    photos, dataset = made
    photo_id = sha256_file(photos / "person0" / "0.png")
    lines, found = explain_photo(dataset, photo_id[:8])
    assert [path_of(row["uri"]).name for row in found] == ["again.png", "0.png"]
    assert "same_file" in "\n".join(lines)
    (face,) = [face for face in rows(dataset, Face) if face.photo_id == photo_id]
    assert explain_photo(dataset, face.face_id[:6])[1] == found


def test_by_the_beginning_of_the_id_of_a_person(made):
    dataset = made[1]
    person = explain_photo(dataset, "person1/2.png")[1][0]["faces"][0]["identity_id"]
    found = explain_photo(dataset, person[:8])[1]
    assert {path_of(row["uri"]).parent.name for row in found} == {"person1"} and len(found) == 3
    with pytest.raises(BadInput, match=r"Give at least 6 characters of an id\."):
        explain_photo(dataset, person[:3])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("letter.jpg", "failed, not_an_image"),
        ("empty.png", "dropped, no_face"),
        ("tiny.png", "dropped, too_small by inter_ocular_px < 16, filters default, version 2 (inter_ocular_px 9."),
        ("alone.png", "not a target: the person has no other usable photo"),
    ],
)
def test_the_reason_is_said(made, name, said):
    assert said in "\n".join(explain_photo(made[1], name)[0])


def test_names_labels_and_decisions_are_told(tmp_path, monkeypatch):
    install(monkeypatch)
    photos, dataset = album(tmp_path / "photos", people=2, each=3), tmp_path / "dataset"
    curated(photos, dataset, labels="folder")
    face = {
        name: explain_photo(dataset, name)[1][0]["faces"][0]["face_id"] for name in ("person0/0.png", "person1/0.png")
    }
    decide(dataset, [{"kind": "rename", "faces": [face["person0/0.png"]], "name": "Ann"}])
    decide(dataset, [{"kind": "drop", "faces": [face["person1/0.png"]]}])
    decide(dataset, [{"kind": "lock", "faces": [face["person0/0.png"]]}])
    lines, found = explain_photo(dataset, "person0/0.png")
    assert lines[1].endswith(": ok, labelled person0") and ", Ann (confidence 1.00, by review)" in lines[2]
    assert lines[2].endswith("; decisions 1 (rename), 3 (lock)")
    assert found[0]["labels"][0]["label"] == "person0" and found[0]["faces"][0]["decisions"] == [
        (1, "rename"),
        (3, "lock"),
    ]
    assert explain_photo(dataset, "person1/0.png")[0][2].endswith(": dropped, decided; decision 2 (drop)")
    with pytest.raises(BadInput, match="no identity p-000000 now: the id never existed, or it ended"):
        explain_photo(dataset, "p-000000")


def test_a_name_of_any_bytes_is_answered_on_one_line(made):
    lines, found = explain_photo(made[1], os.fsdecode(b"caf\xe9\nx.jpg"))
    assert len(found) == 1 and "empty_file" in lines[0]
    assert lines[0].isprintable() and "\\n" in lines[0] and "\\xe9" in lines[0]


@pytest.mark.parametrize("name", ["nothing.jpg", "", "a", "0", "/", ".", "*", os.fsdecode(b"\xff")])
def test_what_was_never_offered_is_one_sentence(made, name):
    with pytest.raises(BadInput, match="never read the file") as refused:
        explain_photo(made[1], name)
    assert str(refused.value).isprintable()
