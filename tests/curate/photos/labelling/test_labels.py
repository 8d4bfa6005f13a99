"""Tests labels from folders or a CSV file: labels as truth determine the groups, and hints are only compared."""

import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from curate.decisions.decide import decide
from curate.photos.labelling.labels import read_labels
from manifests.check import check_ledger
from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, File, Identity, Label, Membership
from manifests.runtime.uris import path_of
from tests.doubles.curation import album, curated, find_problems, install, photo, rows, save


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    install(monkeypatch)


def named(dataset: Path) -> dict[str, set[str]]:
    """Returns a dict that maps the name (or id) of each identity to its photos, as folder/file."""
    file = {row.photo_id: "/".join(path_of(row.uri).parts[-2:]) for row in rows(dataset, File)}
    photo_of = {row.face_id: row.photo_id for row in rows(dataset, Face)}
    name = {row.identity_id: row.name or row.identity_id for row in rows(dataset, Identity)}
    found = defaultdict(set)
    for row in rows(dataset, Membership):
        found[name[row.identity_id]].add(file[photo_of[row.face_id]])
    return dict(found)


def test_folders_as_truth_join_what_looks_different_and_part_what_looks_alike(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    save(photos / "ann" / "0.png", photo([0], 0))
    save(photos / "ann" / "1.png", photo([1], 1))
    save(photos / "bob" / "0.png", photo([0], 2))
    save(photos / "bob" / "1.png", photo([0], 3))
    summary = curated(photos, dataset, labels="folder")
    assert named(dataset) == {"ann": {"ann/0.png", "ann/1.png"}, "bob": {"bob/0.png", "bob/1.png"}}
    assert summary.notices[:-1] == () and {row.source for row in rows(dataset, Membership)} == {"label"}
    assert all(row.truth for row in rows(dataset, Label)) and find_problems(dataset) == []
    curated(photos, dataset)  # without the option, the labels of the previous curation are removed
    assert rows(dataset, Label) == [] and len(named(dataset)) == 2 and "ann" not in named(dataset)


def test_bystanders_join_one_label_at_most_and_a_decision_goes_before_a_label(tmp_path):
    photos, dataset = tmp_path / "photos", tmp_path / "dataset"
    for number in range(3):
        save(photos / "ann" / f"{number}.png", photo([0], number))
        save(photos / "bob" / f"{number}.png", photo([1], number))
    picture = photo([2, 0], 9)
    picture[120:] = 0  # cuts off the lower part of both faces; the next line makes the left face whole again
    picture[:, :160] = photo([2], 9)[:, :160]
    save(photos / "cat" / "0.png", picture)
    curated(photos, dataset, labels="folder")
    found = named(dataset)
    assert found["ann"] == {"ann/0.png", "ann/1.png", "ann/2.png", "cat/0.png"} and found["cat"] == {"cat/0.png"}
    wrong = next(
        row.face_id for row in rows(dataset, Face) if path_of(rows_file(dataset, row)).parts[-2:] == ("ann", "2.png")
    )
    decide(dataset, [{"kind": "move", "faces": [wrong], "to": next(iter(ids(dataset, "bob")))}])
    for _ in range(2):
        assert (
            named(dataset)["bob"] == {"bob/0.png", "bob/1.png", "bob/2.png", "ann/2.png"}
            and find_problems(dataset) == []
        )
        curated(photos, dataset, labels="folder")


def rows_file(dataset: Path, face: Face) -> str:
    return next(row.uri for row in rows(dataset, File) if row.photo_id == face.photo_id)


def ids(dataset: Path, name: str) -> set[str]:
    return {row.identity_id for row in rows(dataset, Identity) if row.name == name}


def test_hints_force_nothing_and_errors_are_told(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=3, each=4), tmp_path / "dataset"
    (photos / "person0" / "0.png").rename(photos / "person1" / "wrong.png")
    plain = curated(photos, tmp_path / "plain")
    summary = curated(photos, dataset, labels="hint")
    assert (summary.identities, summary.alone) == (plain.identities, plain.alone) == (3, 0)
    said, parted = summary.notices
    assert parted.startswith("1 label is spread over several people: person1 in p-") and "(4), p-" in parted
    assert "1 of 12 labels disagree" in said and "labelled person1" in said and "(person0)" in said
    with Ledger.open(dataset) as ledger:
        found = ledger.query("SELECT detail->'label_doubts' AS d FROM stages WHERE stage = 'group'")
    (doubt,) = json.loads(found["d"][0])
    assert (doubt["label"], doubt["identity_label"]) == ("person1", "person0")
    assert {row.name for row in rows(dataset, Identity)} == {None}
    assert {row.source for row in rows(dataset, Membership)} == {"cluster"}


def test_hints_that_agree_say_so_and_a_person_in_two_identities_is_told(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=3, each=3), tmp_path / "dataset"
    assert curated(photos, dataset, labels="hint").notices == (
        "The labels of all 9 labelled faces agree with the grouping.",
    )
    (photos / "person1").rename(photos / "more")
    for path in (photos / "more").iterdir():
        path.rename(photos / "person0" / f"more{path.name}")
    (said,) = [one for one in curated(photos, tmp_path / "other", labels="hint").notices if "spread" in one]
    assert said.startswith("1 label is spread over several people: person0 in p-") and said.count("(3)") == 2


def test_a_folder_of_any_name_is_a_label_on_one_line(tmp_path):
    import os

    photos, dataset = album(tmp_path / "photos", people=2, each=2), tmp_path / "dataset"
    (photos / "person0").rename(os.fsdecode(os.fsencode(photos) + b"/caf\xe9\nx"))
    curated(photos, dataset, labels="folder")
    assert set(named(dataset)) == {"caf\\xe9\\nx", "person1"}


def test_a_table_names_photos_by_path_end_or_name(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=2, each=2), tmp_path / "dataset"
    save(photos / "alone.png", photo([5], 0))
    table = tmp_path / "who.csv"
    table.write_text(
        "label,photo\nA,person0/0.png\nA,person1/1.png\n"
        f'B,"{photos / "alone.png"}"\nB,person0/1.png\nC,nowhere.png\nC,0.png\n',
        encoding="utf-8-sig",
    )
    summary = curated(photos, dataset, labels=str(table))
    found = named(dataset)
    assert found["A"] >= {"person0/0.png", "person1/1.png"} and found["B"] >= {"photos/alone.png", "person0/1.png"}
    assert any("no photo matches 1 file name: nowhere.png" in said for said in summary.notices)
    assert any("several photos match 1 file name: 0.png" in said for said in summary.notices)


def test_a_photo_in_two_folders_and_copies_under_two_labels_are_told(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=2, each=3), tmp_path / "dataset"
    shutil.copy(photos / "person0" / "0.png", photos / "person1" / "same.png")
    save(photos / "person1" / "copy.jpg", photo([0], 1))
    summary = curated(photos, dataset, labels="folder")
    assert any("1 photo has several labels" in said and "person0 and person1" in said for said in summary.notices)
    assert any("1 face has copies with different labels" in said for said in summary.notices)
    assert len(rows(dataset, Label)) == 6 and check_ledger(dataset) == []


@pytest.mark.parametrize(
    ("spec", "text", "said"),
    [
        ("folders", None, "Give folder, FILE.csv"),
        ("hint:x", None, "Give folder, FILE.csv"),
        ("none.csv", None, "cannot be read"),
        ("t.csv", b"name,who\na,b\n", "must name the columns photo and label"),
        ("t.csv", b"", "must name the columns"),
        ("t.csv", b"photo,label\na.png,\n", "line 2: the cell of the photo or of the label is empty"),
        ("hint:t.csv", b"photo,label\na.png\n", "line 2: the cell of the photo or of the label is empty"),
        ("t.csv", b'photo,label\na.png,A\nb.png,"B\nc.png,C\n', "line 3: the line is not CSV .*quote"),
        (
            "t.csv",
            b'photo,label\na.png,A\nb.png,"B\nc.png,C"\n',
            "line 3: the label is longer than .* is not printable, such as the end of a line",
        ),
        ("t.csv", b"photo,label\na.png,Doe, John\n", "line 2: the line has 3 columns, but the first line names 2"),
        (
            "t.csv",
            b"photo,label\na.png," + b"x" * 256 + b"\n",
            "line 2: the label is longer than 255 characters",
        ),
        ("t.csv", b"photo,label,label\na.png,A,B\n", "each once"),
        ("t.csv", b"photo,label\n", "names no photo"),
        ("t.csv", b"photo,label\n\xff\xfe,x\n", "not UTF-8"),
    ],
)
def test_what_is_no_label_is_refused(tmp_path, monkeypatch, spec, text, said):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("t.csv").write_bytes(text)
    with pytest.raises(BadInput, match=said):
        read_labels(spec, [], {}, map)
