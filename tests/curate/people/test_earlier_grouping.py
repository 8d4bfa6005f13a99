"""Tests when `likeness curate` adds new faces to the people of the last grouping."""

import shutil
from dataclasses import replace

import pytest

import curate.people.earlier_grouping
import curate.people.group
from curate.config import GroupRules
from curate.decisions.decide import decide
from curate.decisions.record import make_rows
from curate.people.clustering.group_embeddings import Grouping, group_embeddings
from curate.people.clustering.threshold import Evidence
from curate.run.summary import Summary
from manifests.ledger.decisions.decision_log import read_decisions
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Identity, Membership
from tests.doubles.curation import album, curated, curated_album, install, photo, rows, save


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Returns a list. Each full grouping appends the number of its faces.

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
    assert "4 new faces joined 4 people of the last grouping. `likeness curate --regroup`" in read_notices(
        curated(photos, dataset)
    )
    assert calls == []
    extended = read_people(dataset)
    assert before.items() < extended.items() and set(extended.values()) == set(before.values()) and len(extended) == 16
    assert [row.name for row in rows(dataset, Identity) if row.identity_id == person] == ["Ann"]
    assert "the last grouping" not in read_notices(curated(photos, dataset))  # no face is new
    assert "All " not in read_notices(curated(photos, dataset, regroup=True))  # the user knows why
    assert calls == [16] and read_people(dataset) == extended
    calls.clear()
    album(photos, people=5, each=1)
    assert "1 new face is 1 new person. `likeness" in read_notices(curated(photos, dataset))
    save(photos / "first.png", photo([1], 9))
    save(photos / "stranger.png", photo([5], 9))
    assert "1 new face joined 1 person of the last grouping, and 1 new face is 1 new person. " in read_notices(
        curated(photos, dataset)
    )
    assert calls == []


def read_notices(summary: Summary) -> str:
    return "\n".join(summary.notices)


def test_other_rules_many_new_faces_and_another_version_group_all_faces_again(tmp_path, calls, monkeypatch):
    photos, dataset = curated_album(tmp_path, people=2, each=3)
    calls.clear()
    rules = GroupRules(neighbours=16)
    assert "All 6 faces were grouped again, because an option of the grouping changed." in read_notices(
        curated(photos, dataset, group=rules)
    )
    album(photos, people=2, each=7)
    assert "All 14 faces were grouped again, because more than 50% of the faces are new or gone" in read_notices(
        curated(photos, dataset, group=rules)
    )
    monkeypatch.setattr(curate.people.earlier_grouping, "code_version", lambda: "another version")
    assert "because another version of Likeness made the last grouping." in read_notices(
        curated(photos, dataset, group=rules)
    )
    assert calls == [6, 14, 14]


def test_a_decision_groups_all_faces_again_and_only_curate_says_so(tmp_path, calls):
    photos, dataset = curated_album(tmp_path, people=2, each=3)
    calls.clear()
    decision = [{"kind": "split", "faces": [rows(dataset, Membership)[0].face_id]}]
    assert "grouped again" not in "\n".join(decide(dataset, decision).notices)
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("decide", "all", {}, make_rows([replace(read_decisions(ledger)[0], number=2)]))
    assert "because a decision was recorded after the last grouping." in read_notices(curated(photos, dataset))
    assert calls == [6, 6]


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
    assert "because the label of an earlier face changed." in read_notices(curated(photos, dataset, labels=str(table)))
    assert calls == [8]
