"""Tests that references show the same person in another picture of the same split, and the order of each policy."""

from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import curate.people.pairing.pairs
from curate.config import PAIR_POLICIES, PairRules
from curate.people.pairing.pairs import make_pairs
from manifests.errors import BadInput
from manifests.ledger.records import Face, Photo, Split

MEAN = np.array([[170.0, 240], [340, 240], [256, 310], [190, 370], [320, 370]])
NEAREST = PairRules("nearest")
MOST = NEAREST.max_references


def rows(sides: str, policy: str = "identity", person: str = "x") -> list[Split]:
    names = {"t": "train", "v": "val", "e": "test", "-": "train"}
    return [
        Split(f"{person}{i:02}", person, names[c], policy, status="dropped" if c == "-" else "ok", reason="set aside")
        for i, c in enumerate(sides)
    ]


def face(face_id: str, photo: str | None = None, yaw=0.0, pitch=0.0, marks=MEAN, marks68=None, stands=None) -> Face:
    points = None if marks68 is None else tuple(np.ravel(marks68))
    where = ((0.0, 0.0, 9.0, 9.0), tuple(np.ravel(marks)), points)
    return Face(face_id, photo or face_id, *where, 1, 50, yaw, pitch, 0, 1, 0, 0.5, 1, "0", stands)


def fan(count: int) -> np.ndarray:
    angle = np.linspace(0, 1, count)
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def pairs(splits, photos=None, rules=NEAREST):
    faces = [face(row.face_id, (photos or {}).get(row.face_id)) for row in splits]
    return make_pairs(splits, faces, fan(len(faces)), rules)[0]


def refs_of(faces, rules, vectors=None, photos=None) -> dict[str, tuple[str, ...]]:
    """Returns the references of each target. All faces show one person and are in train."""
    splits = [Split(face.face_id, "x", "train", "identity") for face in faces]
    same = np.tile(np.float32([1, 0]), (len(faces), 1))
    made, _ = make_pairs(splits, faces, same if vectors is None else vectors, rules, photos=photos)
    return {row.target: row.refs for row in made}


def test_the_most_alike_come_first_and_the_cosine_is_kept():
    found = {row.target: row for row in pairs(rows("ttttt"))}
    assert found["x00"].refs == ("x01", "x02", "x03", "x04")
    assert found["x04"].refs == ("x03", "x02", "x01", "x00")
    assert list(found["x00"].similarities) == sorted(found["x00"].similarities, reverse=True)
    assert found["x00"].similarities[0] == pytest.approx(np.cos(0.25), abs=1e-6)
    assert found["x00"].policy == "nearest"


def test_the_own_photo_and_what_was_set_aside_are_no_references():
    found = {row.target: row.refs for row in pairs(rows("ttt-"), {"x01": "x00"})}
    assert found == {"x00": ("x02",), "x01": ("x02",), "x02": ("x01", "x00")}


def test_a_copy_of_the_own_photo_and_a_near_duplicate_are_no_references():
    splits = rows("tttt")
    faces = [face("x00", "a"), face("x01", "copy of a"), face("x02"), face("x03", stands="x02")]
    made, _ = make_pairs(splits, faces, fan(4), PairRules(), {"copy of a": "a", "a": "a"})
    assert {row.target: set(row.refs) for row in made} == {"x00": {"x02"}, "x01": {"x02"}, "x02": {"x00", "x01"}}


def test_a_photo_with_a_copy_of_the_own_photo_gives_no_reference():
    faces = [face(f"x0{number}", f"p{number}") for number in range(3)]
    made, _ = make_pairs(rows("ttt"), faces, fan(3), PairRules(), photos_with_copies={"p0": {"p1"}, "p1": {"p0"}})
    assert {row.target: set(row.refs) for row in made} == {"x00": {"x02"}, "x01": {"x02"}, "x02": {"x00", "x01"}}


def test_who_has_no_reference_is_no_target():
    assert pairs(rows("t")) == [] == pairs([]) == pairs(rows("tt"), {"x00": "p", "x01": "p"})


def test_in_a_personal_collection_references_come_from_train():
    found = {row.target: row for row in pairs(rows("ttve", "photos"))}
    assert set(found["x02"].refs) == set(found["x03"].refs) == {"x00", "x01"}
    assert (found["x02"].split, found["x03"].split) == ("val", "test")
    assert found["x00"].refs == ("x01",)


def test_no_more_than_the_most():
    assert {len(row.refs) for row in pairs(rows("t" * (MOST + 5)))} == {MOST}


def test_too_few_photos_or_references_leave_no_pair_and_a_reason():
    splits = [*rows("ttt", person="x"), *rows("tt", person="y"), *rows("t", person="z"), *rows("--", person="w")]
    faces = [face(row.face_id) for row in splits]
    make = partial(make_pairs, splits, faces, fan(len(faces)))
    assert make(PairRules())[1] == {"too_few_photos": 1}
    made, left_out = make(PairRules(min_photos=3))
    assert {row.target[0] for row in made} == {"x"} and left_out == {"too_few_photos": 3}
    made, left_out = make(PairRules(min_references=2))
    assert {row.target[0] for row in made} == {"x"} and left_out == {"too_few_photos": 1, "too_few_references": 2}
    assert make(PairRules(min_references=2, min_photos=4)) == ([], {"too_few_photos": 6})
    nobody = make_pairs(rows("vv", "photos"), [face("x00"), face("x01")], fan(2), PairRules())
    assert nobody == ([], {"too_few_references": 2})


def test_a_reference_only_is_counted_with_its_own_reason_and_no_target():
    splits = [replace(row, no_target="outside_photo" if row.face_id == "x01" else None) for row in rows("eee")]
    faces = [face(row.face_id) for row in splits]
    made, left_out = make_pairs(splits, faces, fan(3), PairRules())
    assert {row.target: set(row.refs) for row in made} == {"x00": {"x01", "x02"}, "x02": {"x00", "x01"}}
    assert left_out == {"outside_photo": 1}
    assert make_pairs(splits, faces, fan(3), PairRules(min_photos=4))[1] == {"outside_photo": 1, "too_few_photos": 2}


def test_random_is_not_the_nearest_and_has_no_favourites():
    found = {row.target: row.refs for row in pairs(rows("t" * 40), rules=PairRules(max_references=8))}
    near = {row.target: row.refs for row in pairs(rows("t" * 40), rules=PairRules("nearest", max_references=8))}
    shared = [len(set(found[target]) & set(near[target])) for target in found]
    assert np.mean(shared) < 4
    used = np.unique([ref for refs in found.values() for ref in refs], return_counts=True)[1]
    # A reference is used 8 times on average, and no reference is used three times as often.
    assert len(used) == 40 and used.max() < 24
    # If one more photo is added, the order of the other references does not change.
    more = {row.target: row.refs for row in pairs(rows("t" * 41), rules=PairRules(max_references=8))}
    assert all([r for r in more[t] if r != "x40"] == list(found[t])[: 8 - ("x40" in more[t])] for t in found)


def test_a_window_keeps_its_distances_and_the_preset_is_of_each_split():
    assert PairRules("window").window("train") == (0, 0.4) and PairRules("window").window("test") == (0.1, 0.4)
    for split, low in (("t", 0.0), ("v", 0.1), ("e", 0.1)):
        made = pairs(rows(split * 30), rules=PairRules("window"))
        away = [1 - cosine for row in made for cosine in row.similarities]
        assert len(made) == 30 and low - 1e-6 <= min(away) < low + 0.1 and max(away) <= 0.4 + 1e-6
    own = pairs(rows("t" * 30), rules=PairRules("window:0.05-0.2"))
    away = [1 - cosine for row in own for cosine in row.similarities]
    assert 0.05 - 1e-6 <= min(away) <= max(away) <= 0.2 + 1e-6 and own[0].policy == "window:0.05-0.2"
    assert pairs(rows("tt"), rules=PairRules("window:0.9-1")) == []


def test_hard_poses_come_first():
    faces = [face("a", yaw=0), face("b", yaw=5), face("c", yaw=-40), face("d", pitch=20), face("e", yaw=-30, pitch=30)]
    found = refs_of(faces, PairRules("hard-pose"))
    assert found["a"] == ("e", "c", "d", "b") and found["c"] == ("b", "d", "a", "e")
    assert refs_of(faces, PairRules("hard-pose", max_references=1))["a"] == ("e",)


def test_two_diverse_references_cover_two_looks():
    """Tests a person with twenty frontal photos, three profiles and three photos at another age.

    Two references must show two of these three kinds, and three references must show all three kinds.
    """
    young, old = np.float32([1, 0]), np.float32([0.2, np.sqrt(1 - 0.04)])
    kinds = "f" * 20 + "p" * 3 + "o" * 3
    faces = [face(f"{i:02}{k}", yaw=60.0 + i / 10 if k == "p" else i / 10) for i, k in enumerate(kinds)]
    vectors = np.stack([old if k == "o" else young for k in kinds])
    for count, looks in ((2, 2), (3, 3)):
        found = refs_of(faces, PairRules("diverse", max_references=count), vectors)
        assert {len({ref[2] for ref in refs}) for refs in found.values()} == {looks}


def similar(points: np.ndarray, angle: float, scale: float, move: tuple[float, float]) -> np.ndarray:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T + np.array(move)


@given(st.integers(0, 999), st.booleans(), st.floats(-3, 3), st.floats(0.2, 5), st.floats(-500, 500))
def test_affine_nearest_sees_no_similarity_transform_of_a_reference(seed, dense, angle, scale, move):
    rng = np.random.default_rng(seed)
    five = MEAN + rng.normal(0, 15, (7, 5, 2))
    many = rng.normal(0, 60, (68, 2)) + rng.normal(0, 9, (7, 68, 2))
    moved5 = [similar(points, i * angle, scale, (move, i)) for i, points in enumerate(five)]
    moved68 = [similar(points, i * angle, scale, (move, i)) for i, points in enumerate(many)]
    before = [face(f"f{i}", marks=five[i], marks68=many[i] if dense else None) for i in range(7)]
    after = [face(f"f{i}", marks=moved5[i], marks68=moved68[i] if dense else None) for i in range(7)]
    rules = PairRules("affine-nearest")
    assert refs_of(before, rules) == refs_of(after, rules)


def test_affine_nearest_is_the_smallest_residual_that_asffnet_measures():
    rng = np.random.default_rng(0)
    many = rng.normal(0, 60, (68, 2)) + rng.normal(0, 9, (12, 68, 2))

    def residual(reference: np.ndarray, target: np.ndarray) -> float:
        known = np.c_[reference, np.ones(len(reference))]
        return float(np.linalg.norm(known @ np.linalg.lstsq(known, target, rcond=None)[0] - target))

    eyes, mouth = [*range(17, 27), *range(36, 48)], list(range(48, 68))
    for target, refs in refs_of(
        [face(f"{i:02}", marks68=p) for i, p in enumerate(many)], PairRules("affine-nearest")
    ).items():
        goal = many[int(target)]
        told = [
            1.01 * residual(many[int(r)][eyes], goal[eyes]) + 1.49 * residual(many[int(r)][mouth], goal[mouth])
            for r in refs
        ]
        assert len(told) == 11 and told == sorted(told)


def test_landmarks_that_mean_nothing_are_no_error():
    flat = [MEAN, np.zeros((5, 2)), np.stack([np.arange(5), np.arange(5)], 1), MEAN + 1]
    found = refs_of([face(f"f{i}", marks=points) for i, points in enumerate(flat)], PairRules("affine-nearest"))
    assert found["f0"][0] == "f3" and all(len(refs) == 3 for refs in found.values())


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.sampled_from("tve-")), max_size=25),
    st.sampled_from([*PAIR_POLICIES, "window:0.01-0.3"]),
    st.integers(1, 5),
    st.sampled_from(["identity", "photos"]),
    st.randoms(use_true_random=False),
)
def test_laws(shown, policy, most, split_policy, random):
    side = {0: "train", 1: "val", 2: "test", 3: "train"}
    names = {"t": "train", "v": "val", "e": "test", "-": "train"}
    splits = [
        Split(f"{i:02}", f"p{person}", side[person] if split_policy == "identity" else names[c], split_policy, False,
              "dropped" if c == "-" else "ok", "x")
        for i, (person, _, c) in enumerate(shown)
    ]  # fmt: skip
    faces = [
        face(f"{i:02}", f"photo{photo}", 9.0 * i, 5.0 * photo, MEAN + (i * np.arange(10) % 7).reshape(5, 2))
        for i, (_, photo, _) in enumerate(shown)
    ]
    vectors, rules = fan(len(faces)), PairRules(policy, max_references=most)
    made, left_out = make_pairs(splits, faces, vectors, rules)
    photo_of, row_of = {face.face_id: face.photo_id for face in faces}, {row.face_id: row for row in splits}
    usable = defaultdict(set)
    for row in splits:
        if row.status == "ok":
            usable[row.identity_id, row.split].add(row.face_id)
    assert [row.target for row in made] == sorted(row.target for row in made)
    assert len(made) + sum(left_out.values()) == sum(row.status == "ok" for row in splits)
    for pair in made:
        own = row_of[pair.target]
        candidates = usable[own.identity_id, "train" if split_policy == "photos" else own.split]
        candidates = {ref for ref in candidates if photo_of[ref] != photo_of[pair.target]}
        assert own.status == "ok" and pair.split == own.split and pair.policy == policy
        assert 0 < len(pair.refs) == len(pair.similarities) == len(set(pair.refs)) <= most
        assert set(pair.refs) <= candidates
        cosine = {ref: float(vectors[int(pair.target)] @ vectors[int(ref)]) for ref in candidates}
        assert pair.similarities == pytest.approx([cosine[ref] for ref in pair.refs], abs=1e-5)
        if rules.name == "window":
            low, high = rules.window(pair.split)
            assert all(low - 1e-5 <= 1 - cosine[ref] <= high + 1e-5 for ref in pair.refs)
        else:
            assert len(pair.refs) == min(most, len(candidates))
        if policy == "nearest":
            assert (
                min(cosine[ref] for ref in pair.refs)
                >= max([cosine[r] for r in candidates - set(pair.refs)], default=-1) - 1e-5
            )
    together = list(zip(faces, vectors, strict=True))
    random.shuffle(together)
    random.shuffle(splits)
    shuffled = [one for one, _ in together], np.array([vector for _, vector in together]).reshape(-1, 2)
    assert make_pairs(splits, *shuffled, rules) == (made, left_out)


@pytest.mark.parametrize("policy", PAIR_POLICIES)
def test_a_large_person_in_steps_is_the_same_as_at_once(policy, monkeypatch):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(60, 8)).astype(np.float32) + 2
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    faces = [
        face(f"{i:02}", yaw=y, marks=MEAN + y / 9 * (np.arange(10) % 3).reshape(5, 2))
        for i, y in enumerate(rng.normal(0, 30, 60))
    ]
    days = rng.uniform(0, 7000, 60)
    photos = {
        one.photo_id: Photo(one.photo_id, 1, 1, "", taken=datetime(2000, 1, 2) + timedelta(days=day))
        for one, day in zip(faces, days, strict=True)
    }
    at_once = refs_of(faces, PairRules(policy), vectors, photos)
    monkeypatch.setattr(curate.people.pairing.pairs, "_PAIRS_AT_ONCE", 100)
    assert refs_of(faces, PairRules(policy), vectors, photos) == at_once and len(at_once) == 60


@given(st.integers(0, 999), st.integers(2, 6))
def test_diverse_references_lie_no_nearer_to_each_other_than_any_other_face_lies_to_them(seed, most):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(30, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    poses = rng.normal(0, 25, (30, 2))
    faces = [face(f"{i:02}", yaw=yaw, pitch=pitch) for i, (yaw, pitch) in enumerate(poses)]
    places = np.c_[vectors, poses / 45]
    for target, refs in refs_of(faces, PairRules("diverse", max_references=most), vectors).items():
        chosen = [int(ref) for ref in refs]
        others = [i for i in range(30) if i not in chosen and i != int(target)]
        apart = np.linalg.norm(places[:, None] - places, axis=2)
        radius = apart[np.ix_(others, chosen)].min(1).max()
        assert apart[np.ix_(chosen, chosen)][np.triu_indices(most, 1)].min() >= radius - 1e-2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy": "best"}, "Give random, nearest"),
        ({"policy": "nearest:3"}, "Give random, nearest"),
        ({"policy": ""}, "Give random, nearest"),
        ({"policy": "window:0.4-0.1"}, "Give two distances from 0 to 2, the lower distance first"),
        ({"policy": "window:x"}, "Give two distances from 0 to 2, the lower distance first"),
        ({"policy": "window:"}, "Give two distances from 0 to 2, the lower distance first"),
        ({"policy": "window:0-3"}, "Give two distances from 0 to 2, the lower distance first"),
        ({"min_photos": 1}, "Give 2 or more"),
        ({"min_references": 0}, "the first must be 1 or more"),
        ({"max_references": 0}, "the second must not be less than the first"),
        ({"min_references": 5, "max_references": 4}, "the second must not be less than the first"),
    ],
)
def test_rules_that_mean_nothing_are_a_sentence(changes, said):
    with pytest.raises(BadInput, match=said):
        PairRules(**changes)


def test_policies_of_ages_use_trusted_dates_only_and_time_zones_where_both_are_known():
    faces = [face(name) for name in ("a", "b", "c", "d", "e")]
    start = datetime(2010, 1, 2)
    dates = {
        "a": Photo("a", 1, 1, "", taken=start, taken_offset=0),
        "b": Photo("b", 1, 1, "", taken=start + timedelta(days=730.4), taken_offset=600),
        "c": Photo("c", 1, 1, "", taken=start + timedelta(days=730.6)),
        "d": Photo("d", 1, 1, "", taken=start, taken_doubt="changed"),
        "e": Photo("e", 1, 1, "", taken=start + timedelta(days=5 * 365.25)),
    }
    same = refs_of(faces, PairRules("same-age"), photos=dates)
    assert {name: set(refs) for name, refs in same.items()} == {"a": {"b"}, "b": {"a", "c"}, "c": {"b"}}
    assert refs_of(faces, PairRules("across-ages"), photos=dates) == {"a": ("e",), "e": ("a",)}
    splits = [Split(one.face_id, "x", "train", "identity") for one in faces]
    made, _ = make_pairs(splits, faces, fan(5), PairRules("nearest"), photos=dates)
    (found,) = [dict(zip(row.refs, row.gap_days, strict=True)) for row in made if row.target == "a"]
    assert found == {"b": 730, "c": 731, "d": None, "e": 1826}
    assert refs_of(faces, PairRules("same-age")) == {}
