"""Tests decisions: they name faces, hold in every later curation, and are refused if they contradict each other."""

import json
import re
import tracemalloc
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import curate.people.group
from curate.config import CurateConfig, GroupRules, PairRules, SplitRules, read_config
from curate.decisions import cli
from curate.decisions.decide import decide
from curate.decisions.log_entries import format_entry, read_decision_file, read_log_entries
from curate.detection.filter_files import set_min_inter_ocular
from curate.face_filters import DEFAULT, STRICT
from curate.people.clustering.group_embeddings import Grouping
from curate.people.constraints.apply_decisions import apply_decisions
from curate.people.constraints.links import Links, resolve_links
from manifests.check import check_ledger
from manifests.errors import BadInput
from manifests.ledger.decisions.decision_log import Decision, FaceLocation
from manifests.ledger.decisions.face_finder import measure_overlap
from manifests.ledger.decisions.in_force import select_active
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import DecisionRow, Degradation, Face, Identity, Membership, Pair, Split
from tests.doubles.curation import (
    album,
    contents,
    curated,
    curated_album,
    find_problems,
    install,
    name_faces,
    photo,
    rows,
    save,
)


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    install(monkeypatch)


def who(dataset: Path) -> dict[str, str]:
    return {row.face_id: row.identity_id for row in rows(dataset, Membership)}


def people(dataset: Path) -> set[frozenset[str]]:
    groups = defaultdict(set)
    for face, identity in who(dataset).items():
        groups[identity].add(face)
    return {frozenset(group) for group in groups.values()}


def say(dataset: Path, kind: str, *faces: str, **more):
    told = {"sides": list(faces)} if kind == "merge" else {} if kind == "undo" else {"faces": list(faces)}
    return decide(dataset, [{"kind": kind, **told, **more}])


@pytest.fixture
def made(tmp_path) -> tuple[Path, Path]:
    return curated_album(tmp_path, people=5, each=4)


@pytest.mark.exhaustive
def test_ten_merges_ten_splits_and_five_locks_are_reproduced_while_photos_come_and_rules_change(tmp_path):
    photos, dataset = curated_album(tmp_path, people=14, each=4)
    face = name_faces(dataset)
    apart, together = [], []
    for group in (range(4), range(4, 8), range(8, 10)):
        # One command takes a face out of each person of the group: the face in the person's first photo.
        decide(dataset, [{"kind": "split", "faces": [face[f"{i}/0"]]} for i in group])
        apart += [(face[f"{i}/0"], [face[f"{i}/{n}"] for n in (1, 2, 3)]) for i in group]
        if (i := group[-1]) % 4 == 3:
            save(photos / f"person{i}" / f"new{i}.png", photo([i], 40 + i))
            curated(photos, dataset)
    for i in range(10):  # the first photo of person i is merged with person i + 1
        before = who(dataset)
        other = face[f"{(i + 1) % 10}/1"]
        sides = [[f for f, p in before.items() if p == before[one]] for one in (face[f"{i}/0"], other)]
        say(dataset, "merge", before[face[f"{i}/0"]], before[other])
        together.append([*sides[0], *sides[1]])
        if i % 4 == 3:
            save(photos / f"person{i}" / f"later{i}.png", photo([i], 60 + i))
            curated(photos, dataset)
    locks, before, locked = [], who(dataset), (0, 10, 11, 12, 13)
    for i in locked:
        members = {f for f, p in before.items() if p == before[face[f"{i}/1"]]}
        locks.append((members, set(before) - members))
    decide(dataset, [{"kind": "lock", "faces": [face[f"{i}/1"]]} for i in locked])
    assert [row.kind for row in rows(dataset, DecisionRow)] == ["split"] * 10 + ["merge"] * 10 + ["lock"] * 5
    settled, ids = people(dataset), who(dataset)

    def all_hold() -> None:
        now, row_of = who(dataset), {row.identity_id: row for row in rows(dataset, Identity)}
        for out, rest in apart:
            assert now[out] not in {now[one] for one in rest}
        for members in together:
            assert len({now[one] for one in members}) == 1
        for members, strangers in locks:
            (person,) = {now[one] for one in members}
            assert person not in {now[one] for one in strangers}
            assert row_of[person].locked
        assert find_problems(dataset) == []

    all_hold()
    curated(photos, dataset)
    assert people(dataset) == settled and who(dataset) == ids
    for i in range(14):
        for n in range(3):
            save(photos / f"person{i}" / f"last{n}.png", photo([i], 80 + n))
    curated(photos, dataset)
    all_hold()
    now = who(dataset)
    assert {f: now[f] for f in ids} == ids and now[name_faces(dataset)["12/last0"]] == ids[face["12/1"]]
    for rules in (GroupRules(same_person=-1), GroupRules(same_person=0.999), GroupRules(neighbours=1), GroupRules()):
        curated(photos, dataset, group=rules)
        all_hold()


def test_a_merge_and_a_split_survive_and_say_where_they_come_from(made):
    photos, dataset = made
    face, before = name_faces(dataset), who(dataset)
    done = say(dataset, "merge", before[face["0/0"]], face["1/0"])
    assert len(done.moves) == 4 and done.people == 4 and check_ledger(dataset) == []
    say(dataset, "split", face["2/0"])
    after = who(dataset)
    assert after[face["0/0"]] == after[face["1/3"]] in (before[face["0/0"]], before[face["1/0"]])
    assert after[face["2/0"]] != after[face["2/1"]] == before[face["2/1"]]
    source = {row.face_id: row.source for row in rows(dataset, Membership)}
    assert {source[face[f"{p}/0"]] for p in (0, 1, 2)} == {"review"} and source[face["2/1"]] == "cluster"
    state = contents(dataset)
    curated(photos, dataset)
    assert contents(dataset)["memberships"] == state["memberships"] and contents(dataset)["pairs"] == state["pairs"]
    # one wrong face of a merged person can be split off later
    say(dataset, "split", face["1/2"])
    assert who(dataset)[face["1/2"]] != who(dataset)[face["1/1"]] == who(dataset)[face["0/1"]]


def test_a_move_takes_faces_from_one_person_to_another(made):
    photos, dataset = made
    face = name_faces(dataset)
    say(dataset, "move", face["0/0"], face["0/1"], to=who(dataset)[face["1/0"]])
    for _ in range(2):
        now = who(dataset)
        assert now[face["0/0"]] == now[face["0/1"]] == now[face["1/3"]] != now[face["0/2"]] == now[face["0/3"]]
        curated(photos, dataset)
    before = people(dataset)
    done = say(dataset, "move", face["0/0"], to=face["2/0"])
    assert done.notices == ("Decision 1 (move) is taken back in part.",)
    now = who(dataset)
    assert now[face["0/0"]] == now[face["2/0"]] != now[face["0/1"]] == now[face["1/0"]] and find_problems(dataset) == []
    say(dataset, "move", face["0/0"], face["0/1"], to=face["0/2"])  # both faces go back to their first person
    assert [one.taken_back_by for one in read_log_entries(dataset)] == [(2, 3), (3,), ()]
    for line, state in zip(
        call(dataset, "list").stdout.splitlines(), ("by decision 2, 3", "in part by", ""), strict=True
    ):
        assert state in line
    takers = "decision 2 (move) and decision 3 (move)"
    sentence = f"decision 1 (move) is already taken back by {takers}. To restore decision 1 (move), undo {takers}."
    with pytest.raises(BadInput, match=re.escape(f"Nothing is recorded: {sentence}")):
        say(dataset, "undo", undoes=1)
    curated(photos, dataset)
    now = who(dataset)
    assert len({now[face[f"0/{n}"]] for n in range(4)}) == 1 and now[face["0/0"]] != now[face["1/0"]]
    assert say(dataset, "undo", undoes=3).notices[:2] == (
        "Decision 1 (move) counts again in part.", "Decision 2 (move) counts again.",
    )  # fmt: skip
    assert say(dataset, "undo", undoes=2).notices[:1] == ("Decision 1 (move) counts again.",)
    assert people(dataset) == before


@pytest.mark.parametrize("form", ["identity", "face", "list"])
def test_a_move_says_whom_its_faces_are_taken_from(made, form):
    _, dataset = made
    face, person = name_faces(dataset), who(dataset)
    rest = {"identity": person[face["2/0"]], "face": face["2/1"], "list": [face["2/0"], person[face["2/0"]]]}[form]
    say(dataset, "move", face["0/0"], to=person[face["1/0"]], rest=rest)
    assert who(dataset)[face["0/0"]] == who(dataset)[face["1/0"]]
    line = format_entry(read_log_entries(dataset)[0])
    assert {one["photo"] for one in line["rest"]} == {
        row.photo_id for row in rows(dataset, Face) if person[row.face_id] == person[face["2/0"]]
    }
    # this decision contradicts the move, and the newest decision counts
    say(dataset, "merge", face["0/0"], face["2/2"])
    assert who(dataset)[face["0/0"]] == who(dataset)[face["2/0"]] == who(dataset)[face["1/0"]]


def test_what_is_so_already_is_refused_and_not_recorded(made):
    _, dataset = made
    face, person = name_faces(dataset), who(dataset)
    one = person[face["0/0"]]
    for sides in (
        [face["0/0"], face["0/1"]],
        [one, face["0/1"]],
        [[face["0/0"]], [face["0/2"]], face["1/0"]],
        [one] * 2,
    ):
        with pytest.raises(BadInput, match="belong to one person already"):
            say(dataset, "merge", *sides)
    for faces, to in (([one], one), ([face["0/0"]], one), ([face["0/0"], face["0/1"]], face["0/2"])):
        with pytest.raises(BadInput, match="already belong to the target person"):
            say(dataset, "move", *faces, to=to)
    assert rows(dataset, DecisionRow) == []
    # the move is allowed, because one of the two faces belonged to another person
    say(dataset, "move", face["0/0"], face["1/0"], to=one)
    assert who(dataset)[face["1/0"]] == one


def test_renames_alone_group_nothing_and_end_where_a_grouping_would(made, monkeypatch):
    photos, dataset = made
    face, person = name_faces(dataset), who(dataset)
    say(dataset, "rename", face["0/0"], name="Ann")
    say(dataset, "merge", face["1/0"], face["2/0"])
    before = contents(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(curate.people.group, "group_embeddings", None)
        wanted = [
            {"kind": "rename", "faces": [face["1/0"]], "name": "Bob"},
            {"kind": "rename", "faces": [person[face["0/0"]]], "name": "Anna"},
            {"kind": "rename", "faces": [{"photo": "ab" * 32, "box": [0, 0, 1, 1]}], "name": "Nobody"},
        ]
        assert decide(dataset, wanted, dry_run=True).moves == () and contents(dataset) == before
        told = call(dataset, "rename", person[face["0/0"]], "--name", "Anna", "--dry-run").stdout
        assert told.endswith(f"{person[face['0/0']]} would be called Anna, and not Ann.\n") and "moves" not in told
        done = decide(dataset, wanted)
    assert [number for number, *_ in done.decisions] == [3, 4, 5] and (done.moves, done.people) == ((), 4)
    assert "1 face that is named in decision 5 is not in use now" in done.notices[0]
    after = contents(dataset)
    assert {row.name: row.identity_id for row in rows(dataset, Identity) if row.name} == {
        "Anna": person[face["0/0"]],
        "Bob": who(dataset)[face["2/0"]],
    }
    assert all(after[table] == before[table] for table in before if table not in ("identities", "decisions", "stages"))
    curated(photos, dataset)
    again = contents(dataset)
    assert all(again[table] == after[table] for table in after if table != "stages") and check_ledger(dataset) == []


def test_a_rename_keeps_the_names_that_labels_gave(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=3, each=2), tmp_path / "dataset"
    curated(photos, dataset, labels="folder")
    say(dataset, "rename", name_faces(dataset)["0/0"], name="Ann")
    assert {row.name for row in rows(dataset, Identity)} == {"Ann", "person1", "person2"}


def test_the_newest_decision_counts(made):
    photos, dataset = made
    face = name_faces(dataset)
    say(dataset, "split", face["0/0"])
    done = say(dataset, "merge", face["0/0"], face["0/1"])
    assert done.notices == ("Decision 1 (split) is taken back.",)
    say(dataset, "lock", face["0/0"])
    assert say(dataset, "split", face["0/1"]).notices == tuple(
        f"Decision {number} is taken back in part." for number in ("2 (merge)", "3 (lock)")
    )
    say(dataset, "merge", who(dataset)[face["2/0"]], who(dataset)[face["4/0"]])
    # before the merge, these four faces were one whole person
    say(dataset, "split", *(face[f"4/{n}"] for n in range(4)))
    state = people(dataset)
    assert {frozenset(face[f"{i}/{n}"] for n in range(4)) for i in (1, 2, 3, 4)} < state
    assert {frozenset([face["0/1"]]), frozenset(face[f"0/{n}"] for n in (0, 2, 3))} < state
    assert {row.identity_id for row in rows(dataset, Identity) if row.locked} == {who(dataset)[face["0/0"]]}
    curated(photos, dataset)
    assert people(dataset) == state and find_problems(dataset) == []


def test_an_undo_that_makes_decisions_contradict_each_other_is_refused_and_nothing_is_recorded(made):
    _, dataset = made
    face = name_faces(dataset)
    say(dataset, "split", face["0/0"])
    say(dataset, "undo", undoes=1)
    say(dataset, "lock", face["0/0"])
    before = contents(dataset)
    with pytest.raises(BadInput, match=r"decision 3 \(lock\) says.*decision 1 \(split\).*undo NUMBER"):
        say(dataset, "undo", undoes=2)
    assert contents(dataset) == before


def test_a_move_of_a_dropped_face_takes_the_drop_back(made):
    photos, dataset = made
    face, person = name_faces(dataset), who(dataset)
    say(dataset, "move", face["0/0"], to=face["1/0"])
    say(dataset, "drop", face["0/0"], face["0/1"])
    done = say(dataset, "move", face["0/0"], to=face["2/0"])
    assert done.notices[:2] == ("Decision 1 (move) is taken back in part.", "Decision 2 (drop) is taken back in part.")
    assert who(dataset)[face["0/0"]] == person[face["2/0"]] and face["0/1"] not in who(dataset)
    curated(photos, dataset)
    assert who(dataset)[face["0/0"]] == person[face["2/0"]] and find_problems(dataset) == []
    say(dataset, "undo", undoes=3)
    assert not {face["0/0"], face["0/1"]} & who(dataset).keys()


def test_a_dropped_face_that_is_moved_does_not_bring_its_old_person_along(made):
    _, dataset = made
    face, person = name_faces(dataset), who(dataset)
    say(dataset, "drop", face["0/0"], face["0/1"])
    say(dataset, "move", face["0/0"], to=face["1/0"])
    after = who(dataset)
    assert after[face["0/0"]] == after[face["1/0"]] == person[face["1/0"]]
    assert after[face["0/2"]] == person[face["0/2"]]
    assert find_problems(dataset) == []


def test_a_log_with_newer_decisions_can_be_applied_to_another_dataset_and_again(made, tmp_path):
    photos, dataset = made
    face = name_faces(dataset)
    say(dataset, "move", face["0/0"], face["0/1"], to=face["1/0"])
    say(dataset, "drop", face["0/1"])
    say(dataset, "move", face["0/0"], face["0/1"], to=face["2/0"])
    lines = [format_entry(one) for one in read_log_entries(dataset)]
    assert [line["state"] for line in lines] == ["taken back in part by 3", "taken back by 3", "in force"]
    other = tmp_path / "other"
    curated(photos, other)
    for _ in range(2):
        # the rename comes first, so the other decisions get other numbers than in `lines`
        decide(other, [{"kind": "rename", "faces": [face["3/0"]], "name": "Ann"}, *lines])
        assert people(other) == people(dataset) and len(rows(other, DecisionRow)) == 4
    with pytest.raises(BadInput, match="An item of takes_back needs the keys"):
        decide(other, [{**lines[2], "takes_back": [{"number": 1}]}])


def test_takes_back_in_a_file_means_lines_of_the_file_and_a_drop_of_the_log_is_taken_back_too(made, tmp_path):
    photos, dataset = made
    face = name_faces(dataset)
    say(dataset, "move", face["0/0"], to=face["1/0"])
    say(dataset, "move", face["0/0"], to=face["2/0"])
    line = format_entry(read_log_entries(dataset)[1])
    assert [one["number"] for one in line["takes_back"]] == [1]
    other = tmp_path / "other"
    curated(photos, other)
    say(other, "split", face["0/0"])  # decision 1 of this dataset is not decision 1 of the file
    say(other, "drop", face["0/0"], face["0/1"])
    say(other, "rename", face["3/0"], name="Ann")
    place = {"photo": line["faces"][0]["photo"], "box": line["faces"][0]["box"]}
    rename = {"kind": "rename", "number": 2, "faces": [face["3/1"]], "name": "Bob"}
    decide(other, [rename, {**line, "number": 3, "rest": []}])
    (taken,) = [json.loads(row.faces)["takes_back"] for row in rows(other, DecisionRow) if row.kind == "move"]
    assert taken == [{"number": 2, "faces": [place], "effect": "drop"}]
    assert who(other)[face["0/0"]] == who(other)[face["2/0"]] and face["0/1"] not in who(other)


def test_a_log_that_contradicts_itself_is_named_at_replay_too(made):
    photos, dataset = made
    face = name_faces(dataset)
    say(dataset, "split", face["0/0"])
    told = format_entry(read_log_entries(dataset)[0])
    forged = DecisionRow(
        2, "merge", json.dumps({"sides": [told["faces"], told["rest"]]}), read_log_entries(dataset)[0].time
    )
    with Ledger.open(dataset, write=True) as ledger:
        ledger.record("forged", "all", {}, [forged])
    with pytest.raises(BadInput, match=r"decision 2 \(merge\).*decision 1 \(split\).*undo NUMBER"):
        curated(photos, dataset)
    say(dataset, "undo", undoes=2)
    curated(photos, dataset)
    assert who(dataset)[face["0/0"]] != who(dataset)[face["0/1"]]


def test_undo_and_undo_of_the_undo(made):
    photos, dataset = made
    face, before = name_faces(dataset), people(dataset)
    say(dataset, "merge", face["0/0"], face["1/0"])
    merged = people(dataset)
    say(dataset, "undo", undoes=1)
    assert people(dataset) == before and {row.source for row in rows(dataset, Membership)} == {"cluster"}
    with pytest.raises(BadInput, match=r"already taken back by decision 2 \(undo\)"):
        say(dataset, "undo", undoes=1)
    say(dataset, "undo", undoes=2)
    assert people(dataset) == merged and [one.undone_by for one in read_log_entries(dataset)] == [None, 3, None]
    curated(photos, dataset)
    assert people(dataset) == merged
    with pytest.raises(BadInput, match="no decision 9"):
        say(dataset, "undo", undoes=9)


def test_undoing_a_merge_undoes_it_also_where_later_decisions_saw_its_result(made):
    photos, dataset = made
    face, before = name_faces(dataset), people(dataset)
    say(dataset, "merge", face["0/0"], face["1/0"])
    say(dataset, "merge", who(dataset)[face["1/0"]], who(dataset)[face["2/0"]])
    assert len(people(dataset)) == 3
    say(dataset, "undo", undoes=1)
    now = who(dataset)
    assert len(people(dataset)) == 4 and now[face["0/0"]] != now[face["1/0"]]
    assert now[face["2/0"]] in (now[face["0/0"]], now[face["1/0"]])
    say(dataset, "undo", undoes=2)
    assert people(dataset) == before
    curated(photos, dataset)
    assert people(dataset) == before


def test_a_dropped_face_leaves_with_its_copies_and_comes_back(made):
    photos, dataset = made
    save(photos / "copy.jpg", photo([0], 1))
    curated(photos, dataset)
    state = {face.face_id: face for face in rows(dataset, Face)}
    (copy,) = [face for face in state.values() if face.duplicate_of]
    say(dataset, "drop", copy.face_id)
    gone = {face.face_id for face in rows(dataset, Face) if face.reason == "decided"}
    assert gone == {copy.face_id, copy.duplicate_of} and not gone & set(who(dataset)) and check_ledger(dataset) == []
    save(photos / "copy2.webp", photo([0], 1), cv2.IMWRITE_WEBP_QUALITY, 90)
    curated(photos, dataset)
    again = {face.face_id for face in rows(dataset, Face) if face.reason == "decided"}
    assert gone < again and len(again) == 3 and check_ledger(dataset) == []
    with pytest.raises(BadInput, match="not in use"):
        say(dataset, "drop", copy.face_id)
    say(dataset, "undo", undoes=1)
    now = {face.face_id: face for face in rows(dataset, Face)}
    assert [now[one].status for one in sorted(again)].count("ok") == 1 and check_ledger(dataset) == []
    assert all(now[one] == state[one] for one in set(state) - again)
    assert not any(one.missing for one in read_log_entries(dataset))


def test_a_copy_that_is_named_acts_through_the_face_that_stands_for_it(made):
    photos, dataset = made
    save(photos / "copy.jpg", photo([0], 1))
    curated(photos, dataset)
    (copy,) = [face for face in rows(dataset, Face) if face.duplicate_of]
    face = name_faces(dataset)
    say(dataset, "split", copy.face_id)
    assert who(dataset)[copy.duplicate_of] != who(dataset)[face["0/2"]]
    say(dataset, "merge", copy.face_id, face["1/0"])
    assert who(dataset)[copy.duplicate_of] == who(dataset)[face["1/1"]]


def test_a_face_that_is_gone_is_kept_told_and_harmless(made):
    photos, dataset = made
    face = name_faces(dataset)
    say(dataset, "split", face["0/0"])
    say(dataset, "merge", face["1/0"], face["2/0"])
    path = photos / "person0" / "0.png"
    data = path.read_bytes()
    path.write_bytes(b"Dear photograph")
    summary = curated(photos, dataset)
    assert any("1 face that is named in decision 1 is not in use now" in said for said in summary.notices)
    (split, merge) = read_log_entries(dataset)
    assert len(split.missing) == 1 and "file_replaced" in split.missing[0] and merge.missing == ()
    assert who(dataset)[face["1/0"]] == who(dataset)[face["2/0"]] and check_ledger(dataset) == []
    path.write_bytes(data)
    assert curated(photos, dataset).notices == ()
    assert who(dataset)[face["0/0"]] != who(dataset)[face["0/1"]]
    # A decision may name a photo that was never in the dataset. It then changes nothing.
    nowhere = {"photo": "ab" * 32, "box": [0, 0, 10, 10]}
    say(dataset, "lock", nowhere)
    before = people(dataset)
    curated(photos, dataset)
    assert people(dataset) == before and "the photo is not in the dataset" in read_log_entries(dataset)[2].missing[0]


def test_names_follow_the_faces_and_ids_the_larger_part(made):
    photos, dataset = made
    face, before = name_faces(dataset), who(dataset)
    say(dataset, "rename", before[face["0/0"]], name="Ann")
    say(dataset, "split", face["0/0"])
    say(dataset, "move", face["1/0"], to=face["0/1"])
    curated(photos, dataset)
    named = {row.name: row.identity_id for row in rows(dataset, Identity) if row.name}
    assert named == {"Ann": before[face["0/1"]]} and who(dataset)[face["1/0"]] == named["Ann"]
    say(dataset, "rename", face["0/1"], name="Anna")
    assert {row.name for row in rows(dataset, Identity)} == {None, "Anna"}
    say(dataset, "undo", undoes=4)
    say(dataset, "undo", undoes=1)
    assert {row.name for row in rows(dataset, Identity)} == {None}


def test_people_of_two_frozen_splits_are_not_made_one(made):
    _, dataset = made
    with Ledger.open(dataset, write=True) as ledger:
        frozen = [row for row in ledger.read_rows(Split) if row.split in ("val", "test")]
        ledger.record("lock", "all", {}, [Split(**{**vars(row), "locked": True}) for row in frozen])
    of = {row.split: row.face_id for row in frozen}
    before = contents(dataset)
    for kind, faces, more in (("merge", [of["val"], of["test"]], {}), ("move", [of["val"]], {"to": of["test"]})):
        with pytest.raises(BadInput, match=r"frozen test split.*frozen val split"):
            say(dataset, kind, *faces, **more)
    assert contents(dataset) == before
    (train,) = [row.face_id for row in rows(dataset, Split) if row.split == "train"][:1]
    say(dataset, "merge", train, of["test"])
    assert check_ledger(dataset) == [] and {row.split for row in rows(dataset, Split) if row.face_id == train} == {
        "test"
    }
    with pytest.raises(BadInput, match="frozen"):
        say(dataset, "merge", train, of["val"])


def test_a_decision_after_a_freeze_says_whose_split_changes_and_moves_nobody_else(made):
    _, dataset = made
    with Ledger.open(dataset, write=True) as ledger:
        frozen = [row for row in ledger.read_rows(Split) if row.split == "test"]
        images = [Degradation("x-test", row.face_id, "x", 0, 128, "{}", "0") for row in frozen]
        ledger.record("lock", "all", {}, [*(replace(row, locked=True) for row in frozen), *images])
    before = {row.face_id: row for row in rows(dataset, Split)}
    train = next(row for row in before.values() if row.split == "train")
    wanted = {"kind": "move", "faces": [frozen[0].face_id], "to": train.identity_id}
    tried = decide(dataset, [wanted], dry_run=True)
    assert {row.face_id: row for row in rows(dataset, Split)} == before
    done = decide(dataset, [wanted])
    assert done.split_changes == tried.split_changes and done.notices == tried.notices
    own = {row.face_id for row in before.values() if row.identity_id == train.identity_id}
    assert {face: (old, new) for face, old, new in done.split_changes} == dict.fromkeys(own, ("train", "test"))
    assert any("4 faces of 1 person change their split although a frozen set exists" in said for said in done.notices)
    after = {row.face_id: row.split for row in rows(dataset, Split)}
    assert {face for face in after if after[face] != before[face].split} == own
    # If a face is dropped, the frozen set keeps its images.
    gone = say(dataset, "drop", frozen[1].face_id)
    assert "1 face leaves the dataset, but these frozen sets keep its images: lq/x-test." in gone.notices


def test_what_is_in_the_log_already_is_not_recorded_again(made, tmp_path):
    _, dataset = made
    face, person = name_faces(dataset), who(dataset)
    say(dataset, "merge", face["0/0"], face["1/0"])
    say(dataset, "lock", face["2/0"])
    say(dataset, "drop", face["3/0"])
    say(dataset, "rename", face["2/0"], name="Ann")
    again = say(dataset, "lock", face["2/1"])  # This decision names all faces of the person, like the first lock.
    # The decision is still recorded as new, because the rename of the same faces came after the first lock.
    assert again.decisions == ((5, "lock", again.decisions[0][2]),)
    state = contents(dataset)
    file = tmp_path / "decisions.jsonl"
    file.write_text("\n".join(json.dumps(format_entry(entry)) for entry in read_log_entries(dataset)))
    done = decide(dataset, read_decision_file(file))
    assert done.decisions == () and contents(dataset) == state
    assert len(done.notices) == 5 and done.notices[0].startswith(
        "The log already contains this decision as decision 1 ("
    )
    # Only the new lines of a longer file are recorded. After the undo of a drop, the same drop can be recorded again.
    file.write_text(file.read_text() + "\n" + json.dumps({"kind": "undo", "undoes": 3, "number": 6}))
    assert [kind for _, kind, _ in decide(dataset, read_decision_file(file)).decisions] == ["undo"]
    x0 = next(row for row in rows(dataset, Face) if row.face_id == face["3/0"])
    named = {"photo": x0.photo_id, "box": [round(float(side), 2) for side in x0.box]}
    assert [n for n, *_ in decide(dataset, [{"kind": "drop", "faces": [named]}]).decisions] == [7]
    assert decide(dataset, [{"kind": "drop", "faces": [named]}]).decisions == ()
    with pytest.raises(BadInput, match="Two lines have the number 1"):
        decide(dataset, [{"kind": "lock", "faces": [person[face["4/0"]]], "number": 1}] * 2)
    with pytest.raises(BadInput, match="There is no person with the id p-000000"):
        say(dataset, "lock", "p-000000")


def test_the_list_says_of_every_decision_how_many_faces_are_not_in_use(made):
    photos, dataset = made
    face = name_faces(dataset)
    say(dataset, "drop", face["0/0"])
    say(dataset, "lock", face["1/0"])
    for name in ("person0/0", *(f"person1/{n}" for n in range(4))):
        (photos / f"{name}.png").write_bytes(b"Dear photograph")
    summary = curated(photos, dataset)
    assert any("5 faces that are named in decisions 1, 2 are not in use now" in said for said in summary.notices)
    told = [cli._describe_entry(entry) for entry in read_log_entries(dataset)]
    assert "1 face, 1 face not in use (" in told[0] and "file_replaced" in told[0]
    assert "4 faces not in use" in told[1] and told[1].endswith("; and 1 more)")


def test_the_log_is_carried_to_a_rebuilt_dataset(made, tmp_path):
    photos, dataset = made
    face = name_faces(dataset)
    say(dataset, "merge", face["0/0"], face["1/0"])
    say(dataset, "split", face["2/0"])
    say(dataset, "rename", face["2/1"], name="Zoë")
    say(dataset, "lock", face["3/0"])
    say(dataset, "split", face["4/0"])
    say(dataset, "undo", undoes=5)
    say(dataset, "drop", face["4/3"])
    lines = [json.dumps(format_entry(one)) for one in read_log_entries(dataset)]
    file, rebuilt = tmp_path / "decisions.jsonl", tmp_path / "rebuilt"
    file.write_text("\n".join(lines) + "\n\n")
    curated(photos, rebuilt)
    # Because of this decision, the numbers in the log differ from the numbers in the file.
    say(rebuilt, "rename", face["4/1"], name="First")
    decide(rebuilt, read_decision_file(file))
    assert people(rebuilt) == people(dataset) and find_problems(rebuilt) == []
    assert {row.name for row in rows(rebuilt, Identity)} == {None, "Zoë", "First"}
    again = [format_entry(one) for one in read_log_entries(rebuilt)][1:]
    assert again[5]["undoes"] == 6
    for one, line in zip(again, map(json.loads, lines), strict=True):
        for part in ("kind", "faces", "sides", "rest", "name"):
            assert one.get(part) == line.get(part)
    assert len({row.name for row in rows(rebuilt, Identity)}) == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: the line is not JSON"),
        ("[]", "line 2: the line is not a JSON object"),
        ('{"kind": "marry"}', "line 2: 'marry' is not a kind of decision"),
        ('{"kind": "merge"}', "line 2: The merge is incomplete. Name two people or more as the sides"),
        ('{"kind": "merge", "sides": ["p-000000"]}', "line 2: The action merge needs two"),
        ('{"kind": "lock", "faces": ["abc"]}', "line 2: 'abc' is not an id"),
        ('{"kind": "lock", "faces": ["abcdef123"]}', "line 2: There is no face with the id abcdef123"),
        ('{"kind": "lock", "faces": []}', "line 2: The decision names no face"),
        ('{"kind": "lock", "faces": [{"photo": "x", "box": [0, 0, 1, 1]}]}', "line 2: photo is 'x'. Give the sha256"),
        (
            '{"kind": "lock", "faces": [{"photo": "' + "a" * 64 + '", "box": [0, 0, 1]}]}',
            "line 2: The box of a face is wrong. Give four",
        ),
        ('{"kind": "drop", "faces": ["abcdef"], "name": "x"}', "line 2: A drop has no key 'name'"),
        ('{"kind": "rename", "faces": ["abcdef"]}', "line 2: The rename is incomplete. Give the name: --name"),
        ("{}", "line 2: The decision has no kind"),
        ('{"kind": "rename", "faces": ["FACE"], "name": "' + "x" * 256 + '"}', "line 2: The name is .* of at most 255"),
        (
            '{"kind": "move", "faces": ["FACE"]}',
            "line 2: The move is incomplete. Name the person that the faces move to: --to ID",
        ),
        ('{"kind": "undo", "undoes": "1"}', "line 2: undoes is '1'. Give the number"),
        (
            '{"kind": "lock", "faces": [{"photo": "' + "a" * 64 + '", "box": [0, 0, 1, 1' + "0" * 400 + "]}]}",
            "line 2: The box of a face is wrong. Give four",
        ),
        (
            '{"kind": "move", "faces": ["FACE"], "to": "OTHER", "rest": ["p-aaaaaa"]}',
            "line 2: There is no person with the id p-aaaaaa",
        ),
        (
            '{"kind": "move", "faces": ["FACE"], "to": "OTHER", "rest": "p-aaaaaa"}',
            "line 2: There is no person with the id p-aaaaaa",
        ),
        ('{"kind": "move", "faces": ["FACE"], "to": "OTHER", "rest": null}', "line 2: None is not an id"),
        (
            '{"kind": "move", "faces": ["FACE"], "to": "OTHER", "rest": "OTHER"}',
            "line 2: `rest` names only",
        ),
        ('{"kind": "move", "faces": ["FACE"], "to": []}', "line 2: The decision names no face"),
        (
            '{"kind": "move", "faces": ["FACE"], "to": "FACE"}',
            "line 2: The faces of the move already belong to the target person",
        ),
        ('{"kind": "split", "faces": ["FACE"], "rest": null}', "line 2: None is not an id"),
        ('{"kind": "merge", "sides": [[], "FACE"]}', "line 2: The decision names no face"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_nothing_is_recorded(made, tmp_path, line, said):
    _, dataset = made
    file = tmp_path / "decisions.jsonl"
    face = name_faces(dataset)
    good = json.dumps({"kind": "split", "faces": [face["0/0"]]})
    line = line.replace("FACE", face["1/0"]).replace("OTHER", who(dataset)[face["2/0"]])
    file.write_text(f"{good}\n{line}\n")
    with pytest.raises(BadInput, match=f"decisions.jsonl, {said}"):
        decide(dataset, read_decision_file(file))
    assert rows(dataset, DecisionRow) == []


def call(*arguments: object):
    app = typer.Typer()
    app.command()(cli.decide)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_line_decides_lists_and_tries(made):
    _, dataset = made
    face, before = name_faces(dataset), contents(dataset)
    told = call(dataset, "split", face["0/0"][:8], "--dry-run")
    assert told.exit_code == 0 and "The command would record decision 1 (split): 1 face" in told.stdout, told.output
    assert contents(dataset) == before
    told = json.loads(call(dataset, "merge", who(dataset)[face["0/0"]], face["1/0"], "--json").stdout)
    assert told["decisions"][0][:2] == [1, "merge"] and len(told["moves"]) == 4 and told["dry_run"] is False
    assert call(dataset, "split", face["2/0"], "--from", face["3/0"]).exit_code == 0
    assert call(dataset, "rename", face["2/0"], "--name", "Ann").exit_code == 0
    assert call(dataset, "undo", 2).exit_code == 0
    listed = call(dataset, "list").stdout.splitlines()
    assert (
        len(listed) == 4
        and "undone by decision 4" in listed[1]
        and "rename Ann" in listed[2]
        and "takes back decision 2" in listed[3]
    )
    lines = [json.loads(line) for line in call(dataset, "list", "--json").stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["merge", "split", "rename", "undo"] and lines[3]["undoes"] == 2
    for wrong in (
        (dataset,), (dataset, "list", "x"), (dataset, "undo", "x"), (dataset, "lock"), (dataset, "marry", face["0/0"]),
        (dataset, "lock", face["0/0"], "--to", face["1/0"]), (dataset, "merge", face["0/0"]), (dataset, "drop"),
        (dataset, "split", who(dataset)[face["3/0"]]), (dataset, "merge", face["0/0"], face["1/0"][:3]),
        (dataset, "lock", face["0/0"], "--file", "x.jsonl"), (dataset, "--file", "nothing.jsonl"),
    ):  # fmt: skip
        assert isinstance(call(*wrong).exception, BadInput), wrong


def test_a_dataset_that_was_not_curated_says_so(tmp_path):
    Ledger.open(tmp_path, write=True).__exit__(None, None, None)
    with pytest.raises(BadInput, match="likeness curate PHOTOS"):
        say(tmp_path, "lock", "p-000000")
    with pytest.raises(BadInput, match="likeness curate PHOTOS"):
        read_log_entries(tmp_path)


def test_the_configuration_comes_back_from_json():
    config = CurateConfig(
        labels="hint",
        screen=set_min_inter_ocular(STRICT, 20),
        group=GroupRules(same_person=0.2),
        split=SplitRules("photos", 0.0, 0.3),
        pairs=PairRules("window:0.1-0.4", 3, 2, 5),
    )
    assert read_config(json.loads(json.dumps(asdict(config)))) == config


def test_pairs_are_made_anew_as_the_curation_was_told(tmp_path):
    photos, dataset = album(tmp_path / "photos", people=5, each=3), tmp_path / "dataset"
    curated(photos, dataset, pairs=PairRules("hard-pose", max_references=3))
    face = name_faces(dataset)
    say(dataset, "merge", face["0/0"], face["1/0"])
    pairs = {row.target: row for row in rows(dataset, Pair)}
    assert {row.policy for row in pairs.values()} == {"hard-pose"} and len(pairs[face["0/1"]].refs) == 3
    before = contents(dataset)
    curated(photos, dataset, pairs=PairRules("hard-pose", max_references=3))
    assert contents(dataset) == before and check_ledger(dataset) == []


def test_a_dropped_face_stays_dropped_when_a_filter_that_took_it_is_loosened(made):
    photos, dataset = made
    face = name_faces(dataset)
    say(dataset, "drop", face["0/0"])

    def reasons() -> dict[str, str | None]:
        return {row.face_id: row.reason for row in rows(dataset, Face)}

    for filters, wanted in ((DEFAULT, (None, "decided")), (STRICT, ("enlarged",) * 2), (DEFAULT, (None, "decided"))):
        curated(photos, dataset, screen=filters)
        assert (reasons()[face["0/1"]], reasons()[face["0/0"]]) == wanted and check_ledger(dataset) == []
    tally = {"name": "default", "faces": 20, "kept": 20}
    with Ledger.open(dataset) as ledger:
        assert tally.items() <= ledger.read_detail("screen").items()


# The tests below need no ledger.


def face(n: int, **changes) -> Face:
    measures = dict.fromkeys(("det_score", "inter_ocular_px", "yaw", "pitch", "roll", "sharpness", "blockiness"), 0.0)
    plain = {"face_id": f"{n:04}", "photo_id": f"photo{n}", "box": (0.0, 0.0, 10.0, 10.0), "landmarks5": (0.0,) * 10}
    return Face(**{**plain, "landmarks68": None, **measures, "exposure": 0.5, "upsample": 1.0, "phash": "0", **changes})


def named(*numbers: int, witness: bool = False) -> tuple[FaceLocation, ...]:
    return tuple(FaceLocation(f"photo{n}", (0.0, 0.0, 10.0, 10.0), witness) for n in numbers)


def links(acts: list[Decision], n: int, labels=None) -> Links:
    faces = [face(i) for i in range(n)]
    return resolve_links(acts, faces, [one.face_id for one in faces], labels)


def test_a_merge_of_two_large_groups_is_a_star():
    one, other = named(*range(500), witness=True), named(*range(500, 1000), witness=True)
    found = links([Decision(1, "merge", (one, other))], 1001)
    assert len(found.must_links) == 999 and len(set(found.block[:1000])) == 1 and found.block[1000] != found.block[0]
    found = links([Decision(1, "split", (named(*range(500)), other))], 1000)
    assert len(found.cannot_links) == 500 * 32 and found.must_links == ()


def test_boxes_are_matched_by_half_their_union():
    assert (
        measure_overlap((0, 0, 10, 10), (0, 0, 10, 5)) == 0.5 and measure_overlap((0, 0, 10, 10), (20, 0, 30, 10)) == 0
    )
    assert measure_overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0
    moved = (FaceLocation("photo0", (0.0, 0.0, 10.0, 5.1)), FaceLocation("photo1", (0.0, 0.0, 10.0, 4.9)))
    found = links([Decision(1, "merge", (moved[:1], named(2), moved[1:]))], 3)
    assert found.must_links == ((0, 2),) and [one.face for one in found.missing] == [moved[1]]


def test_of_two_boxes_the_nearer_answers_and_one_in_use_goes_first():
    faces = [face(0), face(1, photo_id="photo0", box=(2.0, 0.0, 12.0, 10.0)), face(2)]
    act = Decision(1, "merge", ((FaceLocation("photo0", (1.5, 0.0, 11.5, 10.0)),), named(2)))
    assert resolve_links([act], faces, ["0000", "0001", "0002"]).must_links == ((1, 2),)
    faces[1] = face(1, photo_id="photo0", box=(2.0, 0.0, 12.0, 10.0), status="dropped", reason="too_small")
    assert resolve_links([act], faces, ["0000", "0002"]).must_links == ((0, 1),)


def test_nobody_and_nothing():
    assert links([], 0).must_links == () and links([Decision(1, "lock", (named(1),))], 0).locked == frozenset()


def test_a_contradiction_through_others_names_all_of_them():
    acts = [
        Decision(1, "split", (named(0), named(1))),
        Decision(2, "merge", (named(0), named(2))),
        Decision(3, "merge", (named(2), named(3))),
    ]
    assert links(acts, 4).cannot_links == ((0, 1),)
    with pytest.raises(BadInput, match=r"decision 2 \(merge\) and decision 3 \(merge\) and decision 4 \(lock\) say"):
        links([*acts, Decision(4, "lock", (named(1, 3),))], 4)


def test_labels_give_way_to_decisions_and_are_named_where_they_cannot():
    labels = {"0000": "A", "0001": "A", "0002": "B", "0003": "B"}
    found = links([Decision(1, "split", (named(0), named(1)))], 4, labels)
    assert found.block[0] != found.block[1] and 0 not in found.labels and found.labels[1] == "A"
    acts = [Decision(1, "split", (named(4), named(1))), Decision(2, "merge", (named(4), named(0)))]
    acts[1] = Decision(2, "merge", (named(5), named(0)))
    acts.append(Decision(3, "merge", (named(4), named(5))))
    with pytest.raises(BadInput, match=r"decision 2 \(merge\) and decision 3 \(merge\) and label A say"):
        links(acts, 6, labels)


def unit(*angles: float) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def one_group(n: int) -> Grouping:
    return Grouping(np.zeros(n, np.int64), np.ones(n, np.float32), np.ones(n, np.float32), 0.3, None)


def test_labels_and_locks_are_upheld_over_a_grouping_that_ignores_them():
    labels = {"0000": "A", "0002": "B"}
    found = apply_decisions(unit(0, 0.1, 1, 0.9), one_group(4), links([], 4, labels), [None] * 4)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.confidence[0] == pytest.approx(np.cos(0.1), abs=1e-6)
    between = (np.cos(1) + np.cos(0.9)) / 2
    assert found.margin[0] == pytest.approx(np.cos(0.1) - between, abs=1e-6)
    # Faces 0 and 1 are locked. Face 2 belonged to another person. Faces 3 and 4 are new, and each of them joins the
    # more similar group.
    locked = links([Decision(1, "lock", (named(0, 1),))], 5)
    found = apply_decisions(unit(0, 0.1, 1, 0.9, 0.2), one_group(5), locked, ["x", "x", "y", None, None])
    assert found.labels.tolist() == [0, 0, 1, 1, 0]
    assert len(set(apply_decisions(unit(0, 0.1), Grouping(np.arange(2), *np.ones((2, 2), "f4"), 0.3, None),
                          links([Decision(1, "merge", (named(0), named(1)))], 2), [None] * 2).labels)) == 1  # fmt: skip


def test_faces_split_off_together_stay_together_as_far_as_they_were():
    out, rest = named(0, 1, 2, 3), named(4, 5, 6)
    said = links([Decision(1, "split", (out, rest))], 7)
    grouping = Grouping(np.array([0, 0, 0, 1, 0, 0, 1]), *np.ones((2, 7), np.float32), 0.3, None)
    found = apply_decisions(unit(*np.linspace(0, 1, 7)), grouping, said, [None] * 7).labels.tolist()
    assert found[0] == found[1] == found[2] and found[4] == found[5]
    assert len({found[0], found[3], found[4], found[6]}) == 4


def test_what_did_not_change_is_not_summed_and_what_did_is_measured_right():
    rng = np.random.default_rng(0)
    n, groups = 20_000, 10_000
    vectors = rng.normal(size=(n, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.arange(n) % groups
    labels[:40] = 0
    block = np.arange(n)
    block[7] = 5
    said = Links((), (), block, ((tuple(range(6)), tuple(range(6, 40))[2:]),), frozenset(), frozenset(), frozenset(),
                 {}, ())  # fmt: skip
    tracemalloc.start()
    found = apply_decisions(vectors, Grouping(labels, *np.ones((2, n), np.float32), 0.3, None), said, [None] * n)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < groups * 128 * 8 / 2  # the sums of all groups would take 10 MB
    apart = [0, 1, 2, 3, 4, 5, 7]
    assert set(np.flatnonzero(found.labels == found.labels[0])) == set(apart)
    cosine = vectors[apart].astype(float) @ vectors[apart].T
    assert found.confidence[apart] == pytest.approx((cosine.sum(1) - 1) / 6, abs=1e-6)
    stayed = np.flatnonzero(labels == 0)[~np.isin(np.flatnonzero(labels == 0), apart)]
    to_others = vectors[apart].astype(float) @ vectors[stayed].T
    assert found.margin[apart] == pytest.approx(found.confidence[apart] - np.maximum(to_others.mean(1), 0), abs=1e-6)
    assert (found.confidence[labels != 0] == 1).all()


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["merge", "split", "move", "lock", "rename", "undo"]),
        st.permutations(range(8)).map(lambda order: order[:5]),
        st.integers(1, 6),
    ),
    max_size=6,
)


@settings(max_examples=200)
@given(ACTS, st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_whatever_is_not_refused_is_upheld(told, labels):
    acts: list[Decision] = []
    for number, (kind, order, target) in enumerate(told, 1):
        a, b, c = named(*order[:2]), named(*order[2:4], witness=True), named(order[4], witness=True)
        parts = {"merge": (a, b), "split": (a, b), "move": (a, c, b), "undo": ()}.get(kind, (a,))
        if kind == "undo" and target >= number:
            continue
        acts.append(Decision(number, kind, parts, name="x", undoes=target))
    try:
        said = links(acts, 8)
    except BadInput as error:
        assert "decision" in str(error)
        return
    assert all(act.kind != "undo" for act in select_active(acts))
    grouping = Grouping(np.array(labels), *np.ones((2, 8), np.float32), 0.3, None)
    found = apply_decisions(unit(*np.linspace(0, 2, 8)), grouping, said, [None] * 8).labels
    for a, b in said.must_links:
        assert found[a] == found[b]
    for out, rest in said.separations:
        assert not set(found[list(out)]) & set(found[list(rest)])
