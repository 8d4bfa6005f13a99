"""The faces of a doubtful person are set aside, whatever the splits of the other people."""

from dataclasses import replace

from curate.config import SplitRules
from curate.people.split.splits import check_splits, find_split_changes, make_splits
from manifests.ledger.records import DOUBTFUL_PERSON, Membership
from tests.doubles.faces import face


def test_the_faces_of_a_doubtful_person_are_set_aside_and_cost_nobody_a_face():
    # six people with four photos each, and a doubtful person with a face in one photo of each of them
    shown = [(f"{p}{i}", f"photo {p}{i}", f"person {p}") for p in range(6) for i in range(4)]
    shown += [(f"d{p}", f"photo {p}0", "doubtful") for p in range(6)]
    faces = [face(name, photo) for name, photo, _ in shown]
    members = [Membership(name, person, 1.0, 1.0) for name, _, person in shown]
    rows = make_splits(faces, members, (), SplitRules(), doubtful={"doubtful"})
    aside = {row.face_id: row for row in rows if row.status != "ok"}
    assert sorted(aside) == [f"d{p}" for p in range(6)]
    assert {(row.reason, row.identity_id) for row in aside.values()} == {(DOUBTFUL_PERSON, "doubtful")}
    check_splits(faces, rows)
    # a frozen set locks all rows of a split, but it uses no doubtful face: the person may be confirmed later
    frozen = [replace(row, locked=row.split == "test" or row.reason == DOUBTFUL_PERSON) for row in rows]
    confirmed = make_splits(faces, members, frozen, SplitRules())
    assert all(row.reason != DOUBTFUL_PERSON for row in confirmed) and find_split_changes(frozen, confirmed) == []
    # a face that a frozen set uses stays in its split, even if its person is doubtful now
    everybody = {row.identity_id for row in rows}
    later = {row.face_id: row for row in make_splits(faces, members, frozen, SplitRules(), doubtful=everybody)}
    for row in frozen:
        is_used = row.locked and row.status == "ok"
        assert later[row.face_id] == row if is_used else later[row.face_id].reason == DOUBTFUL_PERSON
