"""Tests that the faces of a doubtful person are set aside, whatever the splits of the other people are."""

from dataclasses import replace

from curate.config import SplitRules
from curate.people.split.splits import check_splits, find_split_changes, make_splits
from manifests.ledger.records import DOUBTFUL_PERSON, Membership, Split
from tests.doubles.faces.face_rows import face


def test_the_faces_of_a_doubtful_person_are_set_aside_and_cost_nobody_a_face():
    # Six people have four photos each. One photo of each of the six people also shows the doubtful person.
    shown = [(f"{p}{i}", f"photo {p}{i}", f"person {p}") for p in range(6) for i in range(4)]
    shown += [(f"d{p}", f"photo {p}0", "doubtful") for p in range(6)]
    faces = [face(name, photo) for name, photo, _ in shown]
    members = [Membership(name, person, 1.0, 1.0) for name, _, person in shown]
    rows = make_splits(faces, members, (), SplitRules(), doubtful={"doubtful"})
    aside = {row.face_id: row for row in rows if row.status != "ok"}
    assert sorted(aside) == [f"d{p}" for p in range(6)]
    assert {(row.reason, row.identity_id) for row in aside.values()} == {(DOUBTFUL_PERSON, "doubtful")}
    check_splits(faces, rows)
    # A frozen set locks all rows of its split, but uses no face of a doubtful person. If the person is confirmed later,
    # no face of the person stays set aside.
    frozen = [replace(row, locked=row.split == "test" or row.reason == DOUBTFUL_PERSON) for row in rows]
    confirmed = make_splits(faces, members, frozen, SplitRules())
    assert all(row.reason != DOUBTFUL_PERSON for row in confirmed) and find_split_changes(frozen, confirmed) == []
    # A face that a frozen set uses stays in its split, even if its person has become doubtful.
    everybody = {row.identity_id for row in rows}
    later = {row.face_id: row for row in make_splits(faces, members, frozen, SplitRules(), doubtful=everybody)}
    for row in frozen:
        is_used = row.locked and row.status == "ok"
        assert later[row.face_id] == row if is_used else later[row.face_id].reason == DOUBTFUL_PERSON


def test_a_face_whose_file_was_overwritten_stays_in_its_frozen_set_and_a_doubtful_person_takes_no_frozen_split():
    names = ["new", "a", "b", *(f"{p}{i}" for p in range(6) for i in range(4))]
    faces = [face(name, f"photo {name}") for name in names]
    owner = {name: name[0] if name[0].isdigit() else "doubtful" for name in names}
    members = [Membership(name, owner[name], 1.0, 1.0) for name in names]
    row = Split("old", "doubtful", "test", "identity", True)
    rules, doubtful = SplitRules(), {"doubtful"}
    # The face `new` has taken the place of the frozen face `old`, and shows the same picture.
    splits = make_splits(faces, members, [row], rules, successors={"old": "new"}, doubtful=doubtful)
    row_of = {row.face_id: row for row in splits}
    assert (row_of["new"].split, row_of["new"].status) == ("test", "ok")
    assert row_of["a"].reason == row_of["b"].reason == DOUBTFUL_PERSON
    # If a doubtful person looks like a frozen person, the rows of the doubtful person do not change.
    alike = make_splits(faces, members, [row], rules, frozen=[("a", row)], doubtful=doubtful)
    assert alike == make_splits(faces, members, [row], rules, doubtful=doubtful)


def test_people_together_do_not_move_with_a_doubtful_person():
    names = ["x0", "x1", "y0", "y1", "z0", "z1"]
    faces = [face(name, f"photo {name}") for name in names]
    members = [Membership(name, name[0], 1.0, 1.0) for name in names]
    # A frozen set uses the face x0, although the person x is now doubtful.
    frozen = Split("x0", "x", "test", "identity", True)
    rows = make_splits(faces, members, [frozen], SplitRules(), together=[("x", "y"), ("z", "y")], doubtful={"x", "z"})
    row_of = {row.face_id: row for row in rows}
    assert [row_of[name].split for name in ("x0", "y0", "y1")] == ["test"] * 3
    assert {name for name in names if row_of[name].reason == DOUBTFUL_PERSON} == {"x1", "z0", "z1"}
