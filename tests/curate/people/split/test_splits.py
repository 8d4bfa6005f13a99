"""Tests that no person, no photo and no copy of a photo is ever in two splits."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.config import SplitRules
from curate.face_filters import FILTER_SETS
from curate.people.split.faces_set_aside import PHOTO_SPANS_SPLITS, describe_faces_set_aside
from curate.people.split.split_notes import describe_empty_splits, describe_split_changes
from curate.people.split.splits import (
    FACE_DROPPED,
    check_splits,
    find_split_changes,
    make_splits,
    mark_references_only,
)
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.filters import PhotoFacts
from manifests.ledger.records import SPLITS, Face, Membership, Split

RULES = SplitRules()
PHOTOS = SplitRules(policy="photos")


def face(name: str, photo: str, duplicate_of: str | None = None) -> Face:
    row = Face(name, photo, (0.0,) * 4, (0.0,) * 10, None, 0.9, 40.0, 0.0, 0.0, 0.0, 0.5, 1.0, 0.5, 3.0, "0")
    if duplicate_of is None:
        return row
    return replace(row, status="dropped", reason="near_duplicate", duplicate_of=duplicate_of)


def member(name: str, person: str) -> Membership:
    return Membership(name, person, 1.0, 1.0)


def people(n: int, each: int) -> tuple[list[Face], list[Membership]]:
    names = [(f"{p:02}{i:02}", p) for p in range(n) for i in range(each)]
    return [face(name, f"photo {name}") for name, _ in names], [member(name, f"p{p}") for name, p in names]


@st.composite
def collections(draw):
    """Draws faces of a few people in a few photos.

    A photo shows a person at most once. Some faces have copies in other photos.
    """
    n_people, n_photos = draw(st.integers(1, 9)), draw(st.integers(1, 20))
    cells = [(p, q) for p in range(n_people) for q in range(n_photos)]
    shown = draw(st.lists(st.sampled_from(cells), unique=True, min_size=1, max_size=40))
    salt = draw(st.integers(0, 99))
    faces = [face(f"{hash_of(p, q, salt)}", f"photo{q}") for p, q in shown]
    members = [member(f"{hash_of(p, q, salt)}", f"person{p}") for p, q in shown]
    copies = draw(st.lists(st.tuples(st.integers(0, len(faces) - 1), st.integers(0, n_photos + 2)), max_size=8))
    for number, (of, photo) in enumerate(copies):
        faces.append(face(f"zz{number:02}", f"photo{photo}", faces[of].face_id))
    return faces, members


def hash_of(*parts: int) -> str:
    from manifests.runtime.files import sha256_bytes

    return sha256_bytes(repr(parts).encode())[:8]


RULES_OF = st.sampled_from(
    [RULES, PHOTOS, SplitRules(val=0.3, test=0.3), SplitRules(val=0.0), SplitRules("photos", 0.2, 0)]
)


@settings(max_examples=300)
@given(collections(), RULES_OF, st.data())
def test_nothing_crosses_a_split_whatever_the_collection_and_what_was_locked(collection, rules, data):
    faces, members = collection
    first = make_splits(faces, members, [], rules)
    check_splits(faces, first)
    side_of_photo = defaultdict(set)
    side_of_person = defaultdict(set)
    rows = {row.face_id: row for row in first}
    assert sorted(rows) == sorted(row.face_id for row in members)
    for one in faces:
        row = rows[one.duplicate_of or one.face_id]
        if row.status == "ok":
            side_of_photo[one.photo_id].add(row.split)
            side_of_person[row.identity_id].add(row.split)
        else:
            assert row.reason == PHOTO_SPANS_SPLITS
    assert all(len(sides) == 1 for sides in side_of_photo.values())
    if rules.policy == "identity":
        assert all(len(sides) == 1 for sides in side_of_person.values())
    # A second run changes nothing, even if a split is locked and the rows have another order.
    wanted = data.draw(st.sampled_from(SPLITS))
    before = [replace(row, locked=row.split == wanted) for row in first]
    again = make_splits(faces[::-1], members[::-1], before, rules)
    assert again == before


@settings(max_examples=100)
@given(st.integers(3, 40), st.integers(2, 4), st.sampled_from([RULES, SplitRules(val=0.01, test=0.01)]))
def test_with_three_people_or_more_no_split_is_empty(n, each, rules):
    rows = make_splits(*people(n, each), [], rules)
    assert {row.split for row in rows} == set(SPLITS)
    train = sum(row.split == "train" for row in rows)
    assert train >= len(rows) / n


def test_with_two_people_test_comes_before_val_and_with_one_there_is_train():
    assert {row.split for row in make_splits(*people(2, 3), [], RULES)} == {"train", "test"}
    assert {row.split for row in make_splits(*people(1, 3), [], RULES)} == {"train"}
    assert make_splits([], [], [], RULES) == []


def test_a_share_of_nothing_gets_nobody():
    rows = make_splits(*people(40, 2), [], SplitRules(val=0, test=0.2))
    assert {row.split for row in rows} == {"train", "test"}


def test_the_split_follows_from_the_faces_not_from_the_identitys_name():
    faces, members = people(12, 3)
    renamed = [replace(row, identity_id=f"other {row.identity_id[::-1]}") for row in members]
    sides = [row.split for row in make_splits(faces, members, [], RULES)]
    assert [row.split for row in make_splits(faces, renamed, [], RULES)] == sides


def test_shares_are_about_right_for_many():
    rows = make_splits(*people(2000, 2), [], SplitRules(val=0.1, test=0.2))
    shares = [sum(row.split == name for row in rows) / len(rows) for name in SPLITS]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.03)


def shown_in(photos: list[str]) -> tuple[list[Face], list[Membership]]:
    """Returns a face for each letter of each photo. Each letter stands for a person."""
    cells = [(f"{who}{number:03}", number, who) for number, people in enumerate(photos) for who in people]
    return [face(name, f"photo {n}") for name, n, _ in cells], [member(name, who) for name, _, who in cells]


COUPLES = ["ab"] * 4 + ["cd"] * 4
FAMILY = ["vwxyz"] * 4 + [*"vwxyz"] * 4 + ["v", "w"]


@pytest.mark.parametrize(
    ("photos", "filled"), [(COUPLES, 2), (FAMILY, 1), (["uv"] * 4 + FAMILY, 1), (COUPLES + FAMILY + ["m", "m"], 3)]
)
def test_couples_and_families_stay_whole_and_fill_the_splits(photos, filled):
    rows = make_splits(*shown_in(photos), [], RULES)
    assert {row.status for row in rows} == {"ok"} and len({row.split for row in rows}) == filled


def test_one_photo_of_everybody_costs_its_faces_and_no_split_is_empty():
    people_alone = [*"abcdefgh"] * 3
    rows = make_splits(*shown_in([*people_alone, "abcdefgh"]), [], RULES)
    assert {row.face_id for row in rows if row.status != "ok"} == {f"{who}024" for who in "abcdefgh"}
    assert {row.split for row in rows if row.status == "ok"} == set(SPLITS)


def test_families_who_know_each_other_part_where_fewest_faces_are_lost():
    families = ["".join(chr(ord("A") + 4 * f + i) for i in range(4)) for f in range(12)]
    photos = [family for family in families for _ in range(5)]
    # Each family has one photo that also shows a person of the next family.
    photos += [one[0] + other[0] for one, other in pairwise(families)]
    rows = make_splits(*shown_in(photos), [], RULES)
    side = {row.identity_id: row.split for row in rows}
    assert all(len({side[who] for who in family}) == 1 for family in families) and set(side.values()) == set(SPLITS)
    assert sum(row.status != "ok" for row in rows) <= 8


def test_people_who_share_no_photo_keep_their_hash_whoever_shares_photos():
    faces, members = people(60, 3)
    alone = sides(make_splits(faces, members, [], RULES))
    more, theirs = shown_in(COUPLES)
    assert alone.items() <= sides(make_splits([*faces, *more], [*members, *theirs], [], RULES)).items()


def test_a_new_person_follows_the_frozen_people_of_the_same_photos():
    faces, members = people(10, 3)
    first = make_splits(faces, members, [], RULES)
    locked = frozen(first, "test")
    for split in SPLITS:
        host = next(row for row in first if row.split == split)
        new = [face(f"n{i}", one.photo_id) for i, one in enumerate(faces) if one.face_id[:2] == host.face_id[:2]]
        rows = make_splits([*faces, *new], [*members, *(member(row.face_id, "new") for row in new)], locked, RULES)
        assert {row.split for row in rows if row.identity_id == "new"} == {split}
        assert {row.status for row in rows} == {"ok"}


def test_a_photo_of_people_of_two_frozen_splits_is_set_aside_and_the_note_says_why():
    faces, members = people(10, 3)
    before = frozen(make_splits(faces, members, [], RULES), "test")
    a, b = (next(row for row in before if row.split == split) for split in ("train", "test"))
    together = [replace(row, photo_id="both") if row.face_id in (a.face_id, b.face_id) else row for row in faces]
    rows = make_splits(together, members, before, RULES)
    aside = {row.face_id: row.reason for row in rows if row.status != "ok"}
    assert aside == {a.face_id: PHOTO_SPANS_SPLITS, b.face_id: PHOTO_SPANS_SPLITS}
    (said,) = describe_faces_set_aside(rows, together, frozen=True, listed=False)
    assert said.startswith("2 faces are set aside, because their photos show people of two splits.")
    assert f"{a.identity_id} (train)" in said and f"{b.identity_id} (test)" in said and "share 1 photo." in said
    assert "frozen set" in said and "--split-by" not in said
    assert "--split-by photos" in describe_faces_set_aside(rows, together, frozen=False, listed=False)[0]
    assert "list" in describe_faces_set_aside(rows, together, frozen=False, listed=True)[0]
    assert describe_faces_set_aside(before, faces, frozen=True, listed=False) == []


def test_the_note_names_the_splits_that_stay_empty():
    assert [
        describe_empty_splits(make_splits(*shown_in(photos), [], RULES), RULES) for photos in (["ab"], [*"aabbcc"])
    ] == [[], []]
    (said,) = describe_empty_splits(make_splits(*shown_in(FAMILY), [], RULES), RULES)
    assert said.startswith("Val and test are empty, because most of the 5 people") and "--split-by photos" in said


def test_a_bystander_goes_with_the_people_of_the_photo():
    faces, members = people(10, 3)
    crowd = [face(f"x{row.face_id}", row.photo_id) for row in faces]
    strangers = [member(row.face_id, f"stranger {row.face_id}") for row in crowd]
    rows = make_splits([*faces, *crowd], [*members, *strangers], [], RULES)
    assert {row.status for row in rows} == {"ok"}


def test_a_locked_person_keeps_its_split_when_its_smallest_face_changes():
    faces, members = people(10, 3)
    locked = [replace(row, locked=True) for row in make_splits(faces, members, [], RULES) if row.split == "test"]
    person = locked[0].identity_id
    new = face("!first", "photo new"), member("!first", person)
    rows = {row.face_id: row for row in make_splits([*faces, new[0]], [*members, new[1]], locked, RULES)}
    assert rows["!first"].split == "test" and not rows["!first"].locked
    assert all(rows[row.face_id] == row for row in locked)


def test_people_of_two_locked_splits_who_become_one_are_refused():
    faces, members = people(10, 3)
    locked = [replace(row, locked=True) for row in make_splits(faces, members, [], RULES)]
    merged = [replace(row, identity_id="one") for row in members]
    with pytest.raises(BadInput, match="Identity one has faces of"):
        make_splits(faces, merged, locked, RULES)


def test_a_locked_row_stays_while_its_face_is_not_accepted_and_decides_for_the_copy_that_stands_for_it():
    faces, members = people(10, 1)
    first = make_splits(faces, members, [], RULES)
    locked = [replace(row, split="test", locked=True) for row in first[:1]]
    gone = first[0].face_id
    # First, the face is not accepted any more.
    rows = make_splits(faces[1:], members[1:], locked, RULES)
    assert rows[0] == replace(locked[0], status="dropped", reason=FACE_DROPPED)
    assert make_splits(faces, members, rows[:1], RULES)[0] == locked[0]
    # Then a larger copy is added, which represents the face.
    copy = face("zzz", "photo larger")
    moved = [face(gone, faces[0].photo_id, "zzz"), *faces[1:], copy]
    rows = make_splits(moved, [*members[1:], member("zzz", "p0")], locked, RULES)
    assert {row.face_id: row.split for row in rows}["zzz"] == "test"
    assert rows[0].status == "dropped"


def frozen(rows: list[Split], split: str) -> list[Split]:
    return [replace(row, locked=row.split == split) for row in rows]


def sides(rows: list[Split]) -> dict[str, str]:
    return {row.face_id: row.split for row in rows}


@settings(max_examples=200)
@given(collections(), RULES_OF, st.data())
def test_once_a_split_is_locked_nobody_moves_whoever_comes_and_goes(collection, rules, data):
    faces, members = collection
    first = make_splits(faces, members, [], rules)
    before = frozen(first, data.draw(st.sampled_from(SPLITS)))
    if not any(row.locked for row in before):
        return
    # New people and photos are added, and some faces are missing in this run and come back in the next run.
    new = data.draw(st.lists(st.tuples(st.integers(0, 12), st.integers(50, 60)), unique=True, max_size=10))
    away = {row.face_id for row in data.draw(st.lists(st.sampled_from(members), max_size=5))}
    # A person whose known faces are all missing would count as a new person, so such a person gets no new photos.
    lost = {row.identity_id for row in members} - {row.identity_id for row in members if row.face_id not in away}
    new = [(p, q) for p, q in new if f"person{p}" not in lost]
    come = [(face(f"!{p:02}{q:02}", f"photo{q}"), member(f"!{p:02}{q:02}", f"person{p}")) for p, q in new]
    less = [one for one in faces if one.face_id not in away and one.duplicate_of not in away]
    more = [*less, *(one for one, _ in come)], [*(m for m in members if m.face_id not in away), *(m for _, m in come)]
    then = make_splits(*more, before, rules)
    check_splits(more[0], then)
    assert sides(first).items() <= sides(then).items() and find_split_changes(before, then) == []
    back = [*faces, *(one for one, _ in come)], [*members, *(m for _, m in come)]
    again = make_splits(*back, then, rules)
    check_splits(back[0], again)
    assert sides(then).items() <= sides(again).items()
    assert make_splits(back[0][::-1], back[1][::-1], then[::-1], rules) == again


def test_while_nothing_is_locked_earlier_rows_count_for_nothing():
    faces, members = people(12, 3)
    first = make_splits(faces, members, [], RULES)
    other = [replace(row, split="train") for row in first]
    assert make_splits(faces, members, other, RULES) == first and find_split_changes(other, first) == []


def test_who_joins_a_locked_person_moves_and_is_told_and_nobody_else_does():
    faces, members = people(3, 3)
    first = make_splits(faces, members, [], RULES)
    before = frozen(first, "test")
    person = {row.split: row.identity_id for row in before}
    # The person of val is joined with the person of test. After that, val is empty, and train has not changed.
    merged = [replace(row, identity_id=person["test"]) if row.identity_id == person["val"] else row for row in members]
    then = make_splits(faces, merged, before, RULES)
    assert {row.split for row in then} == {"train", "test"}
    moved = find_split_changes(before, then)
    assert len(moved) == 3 and {(old.split, new.split) for old, new in moved} == {("val", "test")}
    (said,) = describe_split_changes(moved)
    assert said.startswith("3 faces of 1 person change their split") and f"{person['test']}, 3 from val to test" in said
    # A new person is put into the empty split.
    new = [face(f"n{i}", f"photo n{i}") for i in range(2)]
    later = make_splits([*faces, *new], [*merged, *(member(one.face_id, "new") for one in new)], then, RULES)
    assert sides(then).items() <= sides(later).items() and {row.split for row in later} == set(SPLITS)


def test_of_two_people_who_become_one_the_trained_one_keeps_its_split():
    faces, members = people(12, 3)
    before = frozen(make_splits(faces, members, [], RULES), "test")
    person = {row.split: row.identity_id for row in before}
    merged = [replace(row, identity_id=person["val"]) if row.identity_id == person["train"] else row for row in members]
    moved = find_split_changes(before, make_splits(faces, merged, before, RULES))
    assert {(old.identity_id, old.split, new.split) for old, new in moved} == {(person["val"], "val", "train")}


@pytest.mark.parametrize(("one", "other"), [(RULES, PHOTOS), (PHOTOS, RULES)])
def test_another_policy_than_the_frozen_sets_is_refused(one, other):
    faces, members = people(12, 3)
    first = make_splits(faces, members, [], one)
    assert {row.policy for row in make_splits(faces, members, first, other)} == {other.policy}
    with pytest.raises(BadInput, match=f"were split by {one.policy}.*Give --split-by {one.policy}, or start a new"):
        make_splits(faces, members, frozen(first, "test"), other)


def test_photos_policy_divides_one_person_and_keeps_copies_together():
    faces, members = people(1, 30)
    # A third photo, which was dropped, is a copy of the photos of the faces 0000 and 0001. These two photos therefore
    # count as copies of each other.
    chain = [face("zz", faces[0].photo_id, faces[1].face_id)]
    rows = {row.face_id: row for row in make_splits([*faces, *chain], members, [], PHOTOS)}
    assert {row.split for row in rows.values()} == set(SPLITS)
    assert rows[faces[0].face_id].split == rows[faces[1].face_id].split
    for other in range(2, 30):
        linked = [face(f"z{i}", faces[0].photo_id, faces[i].face_id) for i in range(1, other)]
        found = make_splits([*faces, *linked], members, [], PHOTOS)
        assert len({row.split for row in found[:other]}) == 1


@pytest.mark.parametrize(
    "rules", [SplitRules("people"), SplitRules(val=-0.1), SplitRules(val=0.5, test=0.5), SplitRules(test=1.5)]
)
def test_rules_that_make_no_sense_are_a_sentence(rules):
    with pytest.raises(BadInput):
        make_splits([], [], [], rules)


def test_the_check_names_what_leaks():
    faces = [face("a", "p"), face("b", "q"), face("c", "p"), face("d", "r", "a")]
    rows = [Split("a", "x", "train", "identity"), Split("b", "y", "test", "identity")]
    check_splits(faces, rows)
    for more, said in (
        ([Split("c", "x", "test", "identity")], "identity x"),
        ([Split("c", "z", "test", "photos")], "photo p"),
        ([Split("d", "z", "test", "identity")], "face a or a near-duplicate"),
    ):
        with pytest.raises(LedgerBroken, match=f"Leak between splits: {said}"):
            check_splits(faces, [*rows, *more])
    check_splits(faces, [*rows, Split("c", "x", "test", "identity", status="dropped", reason=PHOTO_SPANS_SPLITS)])


def test_a_test_face_outside_its_photo_is_only_a_reference():
    shares = {"a": 0.11, "b": 0.1, "c": None}
    faces = [replace(face(f"{split} {a}", a), outside=shares[a]) for split in SPLITS for a in shares]
    rows = [Split(row.face_id, "p", row.face_id.split()[0], "identity") for row in faces]
    facts = {row.photo_id: PhotoFacts(64, 64) for row in faces}

    def mark(name: str, listed: tuple[str, ...] = ()) -> list[str]:
        marked = mark_references_only(rows, faces, facts, FILTER_SETS[name], listed)
        assert [replace(row, no_target=None) for row in marked] == rows
        return [row.face_id for row in marked if row.no_target == "outside_photo"]

    assert mark("default") == ["test a"] == mark("strict")
    assert mark("keep-outside") == [] == mark("default", listed=("test a",))
