"""Tests when `likeness curate` adds new faces to the people of the last grouping."""

import shutil
from dataclasses import replace

import pytest

import curate.people.earlier_grouping
import curate.people.group
from curate.config import GroupRules
from curate.decisions.decide import decide
from curate.people.clustering.group_embeddings import Grouping, group_embeddings
from curate.people.clustering.threshold import Evidence
from manifests.ledger.records import Identity, Membership
from tests.doubles.curation import album, curated, curated_album, install, rows


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Returns a list that grows by the number of faces of each full grouping.

    The embeddings of the doubles have three dimensions, so their threshold cannot be calibrated. The fixture therefore
    gives evidence to each full grouping. No two people of the doubles have a cosine above .58.
    """
    counts = list[int]()

    def group(vectors, *arguments, **rules) -> Grouping:
        counts.append(len(vectors))
        return replace(group_embeddings(vectors, *arguments, **rules), evidence=Evidence(0.5, 0.95), alpha=3.0)

    install(monkeypatch)
    monkeypatch.setattr(curate.people.group, "group_embeddings", group)
    monkeypatch.setattr(curate.people.earlier_grouping, "LEAST_FACES", 1)
    monkeypatch.setattr(curate.people.earlier_grouping, "MOST_CHANGED", 0.5)
    return counts


def read_people(dataset) -> dict[str, str]:
    return {row.face_id: row.identity_id for row in rows(dataset, Membership)}


def test_a_few_new_faces_join_people_and_regroup_gives_the_same_people(tmp_path, calls):
    photos, dataset = curated_album(tmp_path, people=4, each=3)
    person = rows(dataset, Identity)[0].identity_id
    decide(dataset, [{"kind": "rename", "faces": [person], "name": "Ann"}])
    before = read_people(dataset)
    curated(photos, dataset, regroup=True)
    calls.clear()
    album(photos, people=4, each=4)
    notices = curated(photos, dataset).notices
    assert calls == [] and any(notice.startswith("4 new faces joined the people") for notice in notices)
    extended = read_people(dataset)
    assert before.items() < extended.items() and set(extended.values()) == set(before.values()) and len(extended) == 16
    assert [row.name for row in rows(dataset, Identity) if row.identity_id == person] == ["Ann"]
    curated(photos, dataset, regroup=True)
    assert calls == [16] and read_people(dataset) == extended


def test_other_rules_and_many_new_faces_group_all_faces_again(tmp_path, calls):
    photos, dataset = curated_album(tmp_path, people=2, each=3)
    calls.clear()
    curated(photos, dataset, group=GroupRules(neighbours=16))
    album(photos, people=2, each=7)
    curated(photos, dataset, group=GroupRules(neighbours=16))
    assert calls == [6, 14]


def test_many_small_changes_together_group_all_faces_again(tmp_path, calls):
    photos, dataset = curated_album(tmp_path, people=2, each=3)
    calls.clear()
    more = album(tmp_path / "more", people=2, each=4)
    for number in range(2):  # each time, another photo takes the place of a photo: one face is gone and one is new
        shutil.copy(more / f"person{number}" / "3.png", photos / f"person{number}" / "0.png")
        curated(photos, dataset)
        assert calls == ([] if number == 0 else [6])


def test_a_changed_label_groups_all_faces_again_and_a_new_label_does_not(tmp_path, calls):
    photos, dataset = album(tmp_path / "photos", people=2, each=3), tmp_path / "dataset"
    table = tmp_path / "labels.csv"

    def label(**changes: str) -> None:
        names = {
            path: changes.get(f"{path.parent.name}_{path.stem}", path.parent.name) for path in photos.rglob("*.png")
        }
        table.write_text("photo,label\n" + "".join(f"{path},{name}\n" for path, name in sorted(names.items())))

    label()
    curated(photos, dataset, labels=str(table))
    calls.clear()
    album(photos, people=2, each=4)
    label()
    curated(photos, dataset, labels=str(table))
    assert calls == []
    label(person0_1="other")
    curated(photos, dataset, labels=str(table))
    assert calls == [8]
