"""References show the same person in another photo of the same side, the most alike first."""

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from curate.pairs import MOST, make_pairs
from manifests.records import Split


def rows(sides: str, policy: str = "identity", person: str = "x") -> list[Split]:
    names = {"t": "train", "v": "val", "e": "test", "-": "train"}
    return [
        Split(f"{person}{i:02}", person, names[c], policy, status="dropped" if c == "-" else "ok", reason="set aside")
        for i, c in enumerate(sides)
    ]


def vectors(splits: list[Split]) -> dict[str, np.ndarray]:
    angle = np.linspace(0, 1, len(splits))
    return {row.face_id: np.array([np.cos(a), np.sin(a)], np.float32) for row, a in zip(splits, angle, strict=True)}


def pairs(splits, photos=None):
    return make_pairs(splits, {row.face_id: row.face_id for row in splits} | (photos or {}), vectors(splits))


def test_the_most_alike_come_first_and_the_cosine_is_kept():
    found = {row.target: row for row in pairs(rows("ttttt"))}
    assert found["x00"].refs == ("x01", "x02", "x03", "x04")
    assert found["x04"].refs == ("x03", "x02", "x01", "x00")
    assert list(found["x00"].similarities) == sorted(found["x00"].similarities, reverse=True)
    assert found["x00"].similarities[0] == np.float32(np.cos(0.25)) and found["x00"].policy == "nearest"


def test_the_own_photo_and_what_was_set_aside_are_no_references():
    found = {row.target: row.refs for row in pairs(rows("ttt-"), {"x01": "x00"})}
    assert found == {"x00": ("x02",), "x01": ("x02",), "x02": ("x01", "x00")}


def test_who_has_no_reference_is_no_target():
    assert pairs(rows("t")) == [] == pairs([]) == pairs(rows("tt"), {"x00": "p", "x01": "p"})


def test_in_a_personal_collection_references_come_from_train():
    found = {row.target: row for row in pairs(rows("ttve", "photos"))}
    assert set(found["x02"].refs) == set(found["x03"].refs) == {"x00", "x01"}
    assert (found["x02"].split, found["x03"].split) == ("val", "test")
    assert found["x00"].refs == ("x01",)


def test_no_more_than_the_most():
    assert {len(row.refs) for row in pairs(rows("t" * (MOST + 5)))} == {MOST}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.sampled_from("tve-")), max_size=25))
def test_laws(shown):
    side = {0: "train", 1: "val", 2: "test", 3: "train"}
    splits = [
        Split(f"{i:02}", f"p{person}", side[person], "identity", False, "dropped" if c == "-" else "ok", "x")
        for i, (person, _, c) in enumerate(shown)
    ]
    photo_of = {f"{i:02}": f"photo{photo}" for i, (_, photo, _) in enumerate(shown)}
    found = make_pairs(splits, photo_of, vectors(splits))
    person_of = {row.face_id: row for row in splits}
    usable = defaultdict(set)
    for row in splits:
        if row.status == "ok":
            usable[row.identity_id].add(row.face_id)
    assert [row.target for row in found] == sorted(row.target for row in found)
    for pair in found:
        own = person_of[pair.target]
        assert own.status == "ok" and pair.split == own.split and len(pair.refs) == len(pair.similarities) > 0
        assert set(pair.refs) <= usable[own.identity_id] - {pair.target}
        assert photo_of[pair.target] not in {photo_of[ref] for ref in pair.refs}
    assert make_pairs(splits[::-1], photo_of, vectors(splits)) == found
