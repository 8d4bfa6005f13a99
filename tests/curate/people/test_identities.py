"""Tests that a person keeps the id that most of its faces had in the run before."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from curate.people.clustering.group_embeddings import Grouping
from curate.people.constraints.links import Links
from curate.people.identities import make_identities
from manifests.ledger.records import Identity, Membership

KEY = bytes(32)


def grouping(*labels: int) -> Grouping:
    n = len(labels)
    return Grouping(np.array(labels, np.int64), np.ones(n, np.float32), np.full(n, 0.5, np.float32), 0.3, None)


def run(faces: str, labels: list[int], before: dict[str, str] | None = None) -> dict[str, str]:
    earlier = [Membership(face, identity, 1.0, 1.0) for face, identity in (before or {}).items()]
    rows, members = make_identities(list(faces), grouping(*labels), earlier, KEY)
    assert {row.identity_id for row in rows} == {member.identity_id for member in members}
    assert [row.identity_id for row in rows] == sorted({row.identity_id for row in rows})
    return {member.face_id: member.identity_id for member in members}


def test_nobody():
    assert make_identities([], grouping(), [], KEY) == ([], [])


def test_new_ids_follow_from_the_smallest_face_and_not_from_labels_or_order():
    one = run("abcd", [0, 0, 1, 1])
    assert one["a"] == one["b"] != one["c"] == one["d"] and one["a"].startswith("p-")
    assert run("dcba", [7, 7, 3, 3]) == one
    assert run("ac", [0, 1]) == {"a": one["a"], "c": one["c"]}


def test_ids_of_one_face_differ_with_the_key():
    ids = {make_identities(["a"], grouping(0), [], key)[0][0].identity_id for key in (KEY, b"x" * 32, b"y" * 32)}
    assert len(ids) == 3


def test_the_largest_overlap_keeps_the_id():
    # If person x is divided, the larger part keeps the id x.
    found = run("abcde", [0, 0, 0, 1, 1], dict.fromkeys("abcde", "x"))
    assert found["a"] == "x" != found["d"]
    # If the people x and y are joined, the joined person gets the id of the larger part.
    assert set(run("abcde", [0] * 5, {"a": "x", "b": "x", "c": "y", "d": "y", "e": "y"}).values()) == {"y"}
    # Two people never get the same id.
    found = run("abcd", [0, 0, 1, 1], {"a": "x", "b": "x", "c": "x", "d": "y"})
    assert found["a"] == "x" and found["c"] == "y"


def test_a_new_face_changes_nobodys_id():
    before = run("bcdef", [0, 0, 1, 1, 2])
    after = run("abcdefg", [0, 0, 0, 1, 1, 2, 3], before)
    assert {face: after[face] for face in before} == before and len(set(after.values())) == 4


def links(n: int, **changes) -> Links:
    plain = Links((), (), np.arange(n), (), frozenset(), frozenset(), frozenset(), {}, ())
    return replace(plain, **changes)


def test_names_and_locks_stay_with_the_faces_they_were_given_to():
    said = links(5, names=(((0, 1, 2), "Ann"), ((3, 4), "Bob")), locked=frozenset({3}), block=np.array([0, 1, 2, 3, 3]))
    before = [Membership(face, "x", 1.0, 1.0) for face in "abcde"]
    found, _ = make_identities(list("abcde"), grouping(0, 0, 1, 2, 2), before, KEY, said)
    ids = run("abcde", [0, 0, 1, 2, 2], dict.fromkeys("abcde", "x"))
    named = {row.identity_id: row for row in found}
    assert named[ids["a"]] == Identity(ids["a"], "Ann", False) and named[ids["c"]].name is None
    assert named[ids["d"]] == Identity(ids["d"], "Bob", True)
    # If two people are joined, the joined person gets the name that was given later.
    together, _ = make_identities(list("abcde"), grouping(0, 0, 0, 0, 0), before, KEY, said)
    assert [row.name for row in together] == ["Bob"]
    labelled, members = make_identities(
        list("abcde"), grouping(0, 0, 0, 0, 0), [], KEY, links(5, labels={4: "B", 2: "A"})
    )
    assert [row.name for row in labelled] == ["A"] and [m.source for m in members] == [
        "cluster", "cluster", "label", "cluster", "label",
    ]  # fmt: skip


def test_an_id_that_is_taken_is_not_given_again():
    (taken,) = set(run("a", [0]).values())
    # Alone, face a would get the id `taken`. The person of the faces b and c now has this id, so face a gets another
    # id.
    found = run("abc", [0, 1, 1], {"b": taken, "c": taken})
    assert found["b"] == found["c"] == taken != found["a"]


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=20)


@given(LABELS, LABELS)
def test_ids_are_one_to_one_with_people_and_the_same_again(first, second):
    faces = [f"{i:02}" for i in range(20)]
    _, before = make_identities(faces[: len(first)], grouping(*first), [], KEY)
    rows, after = make_identities(faces[: len(second)], grouping(*second), before, KEY)
    ids = [member.identity_id for member in after]
    assert len({*zip(second, ids, strict=True)}) == len(set(second)) == len(set(ids)) == len(rows)
    assert make_identities(faces[: len(second)], grouping(*second), after, KEY) == (rows, after)
