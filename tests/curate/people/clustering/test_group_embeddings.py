"""Tests that the groups depend only on the faces, not on their order, and that decisions always hold."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.people.clustering.components import label_components
from curate.people.clustering.confidence import count_cosines
from curate.people.clustering.doubtful_people import find_doubtful_groups
from curate.people.clustering.group_embeddings import group_embeddings
from manifests.errors import BadInput


def unit(values) -> np.ndarray:
    values = np.asarray(values, np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def crowd(people: int, each: int, seed: int = 0, spread: float = 0.25, d: int = 64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(people, d)))
    truth = np.repeat(np.arange(people), each)
    return unit(centres[truth] + rng.normal(0, spread / np.sqrt(d), (len(truth), d))), truth


def partition(labels) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


@st.composite
def faces(draw):
    """Draws faces: vectors in clusters, and the photo of each vector.

    Some vectors are equal, and some share a photo.
    """
    n = draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    centres = unit(rng.normal(size=(draw(st.integers(1, 6)), 4)))
    vectors = unit(centres[rng.integers(0, len(centres), n)] + rng.normal(0, draw(st.sampled_from([0.1, 0.4])), (n, 4)))
    twins = rng.integers(0, n, n // 3)
    vectors[: len(twins)] = vectors[twins]
    photos = [f"p{i}" for i in rng.integers(0, draw(st.integers(1, n)), n)]
    return vectors, photos


@st.composite
def links(draw, n: int):
    """Draws pairs of faces that must be one person, and pairs of faces that must not be one person.

    Each face first gets a team. The two faces of a pair must be one person if they have the same team, so the pairs
    cannot contradict each other.
    """
    team = [draw(st.integers(0, 3)) for _ in range(n)]
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=6))
    return [p for p in pairs if team[p[0]] == team[p[1]]], [p for p in pairs if team[p[0]] != team[p[1]]]


@settings(max_examples=150)
@given(faces(), st.randoms(use_true_random=False), st.integers(1, 30), st.sampled_from([None, 0.5]))
def test_the_order_of_the_faces_never_changes_who_is_with_whom(given_faces, random, neighbours, same_person):
    vectors, photos = given_faces
    order = list(range(len(vectors)))
    random.shuffle(order)
    # Equal faces get equal worth, so their order cannot matter.
    worth = np.array([0.3 if zlib.crc32(row.tobytes()) % 3 == 0 else 1.0 for row in vectors])
    one = group_embeddings(vectors, photos, same_person=same_person, neighbours=neighbours, worth=worth)
    other = group_embeddings(
        vectors[order], [photos[i] for i in order], same_person=same_person, neighbours=neighbours, worth=worth[order]
    )
    # Equal faces of one photo cannot be told apart, so two groups count as equal if they contain the same vectors.
    held = [(vectors[i].tobytes(), photos[i]) for i in range(len(vectors))]

    def told(labels, at):
        return sorted(sorted(held[at[i]] for i in part) for part in partition(labels))

    assert told(one.labels, range(len(held))) == told(other.labels, order)
    assert sorted(one.confidence.tolist()) == pytest.approx(sorted(other.confidence.tolist()), abs=1e-5)
    assert one.false_match_rate == other.false_match_rate


@settings(max_examples=150)
@given(st.data())
def test_links_hold_and_one_photo_shows_a_person_twice_only_if_it_is_said(data):
    vectors, photos = data.draw(faces())
    must, cannot = data.draw(links(len(vectors)))
    found = group_embeddings(vectors, photos, must, cannot, same_person=data.draw(st.sampled_from([None, 0.5])))
    labels, repeated = found.labels, set(found.repeated.tolist())
    assert all(labels[a] == labels[b] for a, b in must)
    assert all(labels[a] != labels[b] for a, b in cannot)
    block = label_components(len(vectors), np.array(must, np.int64).reshape(-1, 2))
    for a in range(len(vectors)):
        for b in range(a):
            if photos[a] == photos[b] and labels[a] == labels[b]:
                assert block[a] == block[b] or repeated & {a, b}
    assert not repeated & {row for pair in (*must, *cannot) for row in pair}


@settings(max_examples=60)
@given(faces(), st.sampled_from([None, 0.5]))
def test_labels_and_certainty_have_their_ranges(given_faces, same_person):
    vectors, photos = given_faces
    found = group_embeddings(vectors, photos, same_person=same_person)
    n = len(vectors)
    assert sorted(set(found.labels.tolist())) == list(range(found.labels.max() + 1))
    assert found.confidence.dtype == found.margin.dtype == np.float32
    for part in partition(found.labels):
        for row in part:
            if len(part) == 1:
                assert found.confidence[row] == 1
            else:
                own = [float(vectors[row] @ vectors[other]) for other in part if other != row]
                assert found.confidence[row] == pytest.approx(np.mean(own), abs=1e-4)
    assert (np.abs(found.confidence) <= 1 + 1e-4).all() and (found.margin <= 2 + 1e-4).all() and n == len(found.margin)


@settings(max_examples=60)
@given(st.data())
def test_links_hold_in_any_order(data):
    vectors, _ = crowd(4, 5, seed=data.draw(st.integers(0, 99)), spread=1.5, d=16)
    must, cannot = data.draw(links(20))
    order = data.draw(st.permutations(range(20)))
    place = {row: at for at, row in enumerate(order)}
    one = group_embeddings(vectors, None, must, cannot).labels
    moved = [[(place[a], place[b]) for a, b in pairs] for pairs in (must, cannot)]
    other = group_embeddings(vectors[order], None, *moved).labels
    assert partition(one) == partition(other[[place[row] for row in range(20)]])


def test_people_who_were_forced_together_teach_nothing():
    vectors, truth = crowd(60, 10, d=128, spread=0.9)
    strangers, _ = crowd(300, 1, seed=9, d=128, spread=0.9)
    forced = [(600 + i, 601 + i) for i in range(299)]
    found = group_embeddings(np.concatenate([vectors, strangers]), None, forced)
    assert partition(found.labels[:600]) == partition(truth)
    assert len(set(found.labels[600:].tolist())) == 1


def test_a_margin_is_measured_where_every_neighbour_is_the_same_person():
    vectors, _ = crowd(3, 40, d=128, spread=0.5)
    few, many = group_embeddings(vectors, neighbours=8), group_embeddings(vectors, neighbours=100)
    assert (few.labels == many.labels).all()
    assert np.abs(few.margin - many.margin).max() < 1e-4


def test_people_are_told_apart():
    vectors, truth = crowd(12, 9)
    found = group_embeddings(vectors, same_person=0.5)
    assert partition(found.labels) == partition(truth)
    assert found.threshold == 0.5 and found.false_match_rate < 0.01 and found.recall == 1
    assert (found.margin > 0.3).all()
    found = group_embeddings(vectors)
    assert partition(found.labels) == partition(truth)
    assert 0.1 < found.threshold < 0.7 and 0 < found.false_match_rate < 0.01


def test_many_people_of_one_photo_need_more_evidence_than_few_people_of_many():
    few, _ = crowd(10, 60, spread=0.9, d=128)
    many, _ = crowd(600, 1, spread=0.9, d=128)
    assert group_embeddings(many).threshold > group_embeddings(few).threshold + 0.03
    # If the user gives a threshold, it replaces the calibrated threshold.
    assert len(set(group_embeddings(few, same_person=0.95).labels.tolist())) > len(
        set(group_embeddings(few).labels.tolist())
    )


def test_one_weak_face_does_not_hold_two_people_together():
    vectors, truth = crowd(2, 15, d=128, spread=0.8)
    between = unit([vectors[truth == 0].mean(0) + vectors[truth == 1].mean(0)])
    labels = group_embeddings(np.concatenate([vectors, between])).labels
    assert len(set(labels[:15].tolist())) == 1 and len(set(labels[15:30].tolist())) == 1 and labels[0] != labels[15]


def test_a_thousand_copies_of_one_photo_count_as_one_face():
    vectors, truth = crowd(5, 6, d=128, spread=0.8)
    copies = np.repeat(vectors[:1], 1000, 0)
    labels = group_embeddings(np.concatenate([vectors, copies])).labels
    assert partition(labels[:30]) == partition(truth)
    assert set(labels[30:].tolist()) == {labels[0]}


def test_a_collection_of_one_person_is_one_person():
    vectors, _ = crowd(1, 80, d=128, spread=0.9)
    assert len(set(group_embeddings(vectors).labels.tolist())) == 1


def test_an_inverted_file_finds_nearly_what_the_exact_search_finds():
    vectors, truth = crowd(150, 12, d=64, spread=0.7)
    exact, fast = group_embeddings(vectors), group_embeddings(vectors, exact=500)
    assert exact.recall == 1 and 0.9 < fast.recall <= 1
    assert partition(exact.labels) == partition(truth)
    assert len(partition(fast.labels) & partition(truth)) > 140
    again = group_embeddings(vectors[::-1], exact=500)
    assert partition(again.labels[::-1]) == partition(fast.labels)


def test_a_recognizer_whose_strangers_are_alike_is_grouped_by_a_mean_cosine():
    vectors, truth = crowd(12, 9, d=64, spread=0.7)
    # In these embeddings, the cosines between strangers are about .8.
    shifted = unit(np.concatenate([vectors, np.full((len(vectors), 1), 2.0, np.float32)], axis=1))
    found = group_embeddings(shifted, same_person=0.87)
    assert partition(found.labels) == partition(truth) and 0 <= found.false_match_rate < 0.02


def test_none_one_all_the_same_and_all_different():
    none = group_embeddings(np.zeros((0, 4), np.float32))
    assert len(none.labels) == len(none.confidence) == 0
    one = group_embeddings(unit([[1, 2, 3]]), ["p"])
    assert one.labels.tolist() == [0] and one.confidence.tolist() == [1] and one.margin.tolist() == [2]
    same = np.repeat(unit([[1, 2, 3]]), 200, 0)
    assert group_embeddings(same).labels.tolist() == [0] * 200
    assert group_embeddings(same, [f"p{i}" for i in range(200)]).labels.tolist() == [0] * 200
    assert len(set(group_embeddings(same, ["p"] * 200).labels.tolist())) == 200
    assert len(set(group_embeddings(np.eye(30, dtype=np.float32)).labels.tolist())) == 30


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 2.0])
def test_rows_that_are_no_unit_vectors_are_refused_with_a_sentence(bad):
    vectors = np.eye(3, dtype=np.float32)
    vectors[1, 1] = bad
    with pytest.raises(BadInput, match="length 1"):
        group_embeddings(vectors)


@pytest.mark.parametrize(
    "told",
    [
        {"same_person": np.nan},
        {"same_person": 5},
        {"neighbours": 0},
        {"photo_ids": ["one for three"]},
        {"photo_ids": ["a", None, "b"]},
    ],
)
def test_an_argument_that_means_nothing_is_refused(told):
    with pytest.raises(BadInput, match=next(iter(told))):
        group_embeddings(np.eye(3, dtype=np.float32), **told)


@pytest.mark.parametrize(
    ("must", "cannot", "said"),
    [
        ([(0, 1)], [(1, 0)], "faces 1 and 0"),
        ([(0, 1), (2, 1)], [(0, 2)], "faces 0 and 2"),
        ([], [(3, 3)], "faces 3 and 3"),
        ([(0, 4)], [], "names face 4"),
        ([], [(-1, 0)], "names face -1"),
    ],
)
def test_a_contradiction_is_named(must, cannot, said):
    with pytest.raises(BadInput, match=said):
        group_embeddings(np.eye(4, dtype=np.float32), None, must, cannot)


def test_what_people_said_wins_over_likeness():
    vectors = unit([[1, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 0, 1]])
    labels = group_embeddings(vectors, None, [(0, 2)], [(0, 1)], same_person=0.5).labels
    assert labels[0] == labels[2] != labels[1]
    # A link can say that two faces of one photo are the same person.
    labels = group_embeddings(vectors, ["p", "p", "q", "r"], [(0, 1)], same_person=0.5).labels
    assert labels[0] == labels[1]
    # Faces 0 and 1 of one photo are each linked with another face, and all four faces look alike. Faces 0 and 1 still
    # stay two people, each together with its linked face.
    vectors = unit([[1, 0, 0], [1, 0.1, 0], [1, 0, 0.1], [1, 0.1, 0.1]])
    labels = group_embeddings(vectors, ["p", "p", "q", "r"], [(0, 2), (1, 3)], same_person=0.2).labels
    assert labels[0] == labels[2] != labels[1] == labels[3]


def test_without_photos_one_person_may_appear_twice():
    vectors = unit([[1, 0], [1, 0.1]])
    assert len(set(group_embeddings(vectors, ["p", "p"], same_person=0.5).labels)) == 2
    assert len(set(group_embeddings(vectors, None, same_person=0.5).labels)) == 1


def test_photo_ids_of_different_lengths_are_different():
    vectors = unit([[1, 0], [1, 0.1], [1, 0.2]])
    assert len(set(group_embeddings(vectors, ["p", "pp", "ppp"], same_person=0.5).labels)) == 1


def test_the_histogram_counts_every_pair_once():
    vectors, truth = crowd(3, 5)
    found = count_cosines(vectors, truth)
    assert len(found["edges"]) == 101 and sum(found["within"]) == 30 and sum(found["between"]) == 105 - 30
    assert sum(count_cosines(vectors, truth, max_faces=5)["between"]) <= 10
    nothing = count_cosines(np.zeros((0, 0), np.float32), np.zeros(0, np.int64))
    assert sum(nothing["within"]) == sum(nothing["between"]) == 0


@pytest.mark.parametrize("same_person", [None, 0.4])
def test_weak_faces_form_no_person_and_join_no_two(same_person):
    vectors, truth = crowd(8, 6, d=128, spread=0.9)
    rng = np.random.default_rng(5)
    place = np.linalg.svd(vectors)[2][-1:]  # A direction that is orthogonal to all people.
    # There are 30 strangers whose cosines to each other have the mean .6.
    junk = unit(place + 0.8 * unit(rng.normal(size=(30, 128))))
    bridge = unit([vectors[truth == 0].sum(0) + vectors[truth == 1].sum(0)])
    own = unit([vectors[truth == 2].sum(0) + rng.normal(0, 0.25, 128)])
    rows = np.concatenate([vectors, junk, bridge, own])
    worth = np.where(np.arange(len(rows)) < len(vectors), 1.0, 0.2)
    labels = group_embeddings(rows, None, same_person=same_person, worth=worth).labels
    assert len(set(labels[48:78].tolist())) == 30 and not set(labels[48:78].tolist()) & set(labels[:48].tolist())
    assert partition(labels[:48]) == partition(truth)
    assert labels[79] == labels[truth.tolist().index(2)]
    # If the worth is not given, the strangers become one person.
    assert len(set(group_embeddings(rows, None, same_person=same_person).labels[48:78].tolist())) < 5
    # A link can join two weak faces. A weak face does not join a face of its own photo.
    linked = group_embeddings(rows, None, [(48, 49)], same_person=same_person, worth=worth).labels
    assert linked[48] == linked[49]
    photos = [f"p{i}" for i in range(len(rows))]
    partner = truth.tolist().index(2)
    photos[79] = photos[partner]
    apart = group_embeddings(rows, photos, same_person=same_person, worth=worth)
    assert apart.labels[79] != apart.labels[partner] or 79 in apart.repeated
    assert group_embeddings(rows, photos, [], [(79, partner)], same_person=same_person, worth=worth).labels[79] not in (
        apart.labels[partner],
    )


def mix(cosine: float, centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a unit row with the given cosine to the unit vector `centre`, float32 (1, d)."""
    aside = rng.normal(size=centre.shape)
    aside -= (aside @ centre) * centre
    return unit([cosine * centre + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside)])


def test_a_weak_face_joins_nobody_if_its_nearest_person_is_in_its_photo():
    vectors, truth = crowd(6, 6, d=128, spread=0.9)
    first, second = (unit(vectors[truth == person].sum(0)[None])[0] for person in (0, 1))
    weak = unit([first + 0.85 * second])  # this weak face is nearest to person 0, and near to person 1
    rows, worth = np.concatenate([vectors, weak]), np.array([1.0] * len(vectors) + [0.3])
    photos = [f"p{i}" for i in range(len(rows))]
    labels = group_embeddings(rows, photos, worth=worth).labels
    assert labels[-1] == labels[0]
    photos[-1] = photos[0]
    labels = group_embeddings(rows, photos, worth=worth).labels
    assert labels[-1] not in labels[:-1][truth == 1].tolist()


def test_background_faces_do_not_raise_the_limit_for_main_faces():
    vectors, truth = crowd(60, 3, d=128, spread=0.6)
    rng = np.random.default_rng(3)
    centres = unit([vectors[truth == person].sum(0) for person in range(60)])
    clear = np.concatenate([mix(0.6, centre, rng) for centre in centres])
    rows = np.concatenate([vectors, clear, mix(0.31, centres[7], rng), unit(rng.normal(size=(200, 128)))])
    worth = np.array([1.0] * 180 + [0.3] * 261)
    main = np.arange(len(rows)) < 241
    home, face = 3 * 7, 240

    def joins(count: int, is_main: np.ndarray | None) -> bool:
        labels = group_embeddings(rows[:count], worth=worth[:count], is_main=is_main).labels
        return bool(labels[face] == labels[home])

    assert joins(241, None) and joins(len(rows), main)
    assert not joins(len(rows), None)  # if the strangers count as main faces, they raise the limit


def test_three_weak_faces_of_clear_evidence_form_a_person_and_two_do_not():
    vectors, truth = crowd(8, 6, d=128, spread=0.9)
    worth = np.where(np.isin(truth, (0, 1)), 0.5, 1.0)
    keep = np.flatnonzero((truth != 1) | (np.cumsum(truth == 1) <= 2))  # only two faces of person 1 are kept
    rows, worth, people = vectors[keep], worth[keep], truth[keep]
    labels = group_embeddings(rows, worth=worth).labels
    assert len(set(labels[people == 0].tolist())) == 1 and len(set(labels[people == 1].tolist())) == 2
    assert partition(labels[people > 1]) == partition(people[people > 1]) and len(set(labels.tolist())) == 9
    assert len(set(group_embeddings(rows, worth=worth, same_person=0.4).labels[people == 0].tolist())) == 6
    # Two weak faces stay two people if they are in one photo, or if a decision separates them.
    photos = [f"p{i}" for i in range(len(rows))]
    one, other = np.flatnonzero(people == 0)[:2].tolist()
    photos[other] = photos[one]
    for apart in (
        group_embeddings(rows, photos, worth=worth),
        group_embeddings(rows, None, cannot_link=[(one, other)], worth=worth),
    ):
        assert apart.labels[one] != apart.labels[other]


@pytest.mark.parametrize("linked", [False, True])
def test_a_weak_face_below_the_limit_joins_nobody(linked):
    vectors, truth = crowd(3, 60, d=128, spread=0.9)
    centre, rest = unit([vectors[truth == 0].sum(0)]), np.random.default_rng(1).normal(size=(1, 128))
    rest = unit(rest - (rest @ centre.T) * centre)
    links = [(i, i + 1) for i in np.flatnonzero(truth == 0)[:-1].tolist()] if linked else []
    for cosine, joins in ((0.25, False), (0.4, True)):
        rows = np.concatenate([vectors, unit(cosine * centre + np.sqrt(1 - cosine**2) * rest)])
        labels = group_embeddings(rows, must_link=links, worth=np.append(np.ones(180), 0.5)).labels
        assert (labels[-1] == labels[0]) == joins and (labels[-1] in labels[:-1]) == joins


def test_groups_of_strangers_cannot_hide_each_other_and_groups_of_weak_faces_need_more():
    def find(cosine: float, weak: bool) -> list[bool]:
        rng = np.random.default_rng(2)
        # four directions for the people, and one more direction for each of the 20 faces
        basis = np.linalg.qr(rng.normal(size=(64, 24)))[0].T
        rows = np.concatenate([np.sqrt(cosine) * basis[:4].repeat(5, 0) + np.sqrt(1 - cosine) * basis[4:]])
        labels, every, nothing = np.arange(4).repeat(5), np.ones(20, bool), np.zeros(20, bool)
        strong, formed = (nothing, every) if weak else (every, nothing)
        return find_doubtful_groups(rows.astype(np.float32), np.arange(20), labels, strong, formed, 0.1).tolist()

    # A group is doubtful if its mean cosine is below a limit. If the four groups were people, the limit would be .16.
    # The search begins with 20 strangers, so the limit is .28, and .36 for a group of weak faces.
    assert find(0.25, False) == [True] * 4 and find(0.3, False) == [False] * 4
    assert find(0.3, True) == [True] * 4 and find(0.4, True) == [False] * 4


def test_a_collection_of_unrecognisable_faces_has_no_person_of_two():
    vectors, _ = crowd(3, 4)
    assert len(set(group_embeddings(vectors, worth=np.zeros(12)).labels.tolist())) == 12
    with pytest.raises(BadInput, match="worth"):
        group_embeddings(vectors, worth=np.full(12, np.nan))


def test_a_person_that_strangers_could_form_is_doubtful_unless_somebody_says_so():
    people, _ = crowd(6, 8, d=128, spread=0.9)
    strangers, _ = crowd(60, 1, seed=7, d=128)
    rows = np.concatenate([people, strangers])
    for share, doubtful in ((0.25, True), (0.5, False)):
        rows[-1:] = unit(share * rows[-2:-1] + np.sqrt(1 - share**2) * strangers[-1:])
        found = group_embeddings(rows)
        assert found.labels[-1] == found.labels[-2]
        assert found.doubtful[-2:].tolist() == [doubtful] * 2 and not found.doubtful[:48].any()
        assert not group_embeddings(rows, None, [(106, 107)]).doubtful[106:].any()
    assert not group_embeddings(rows, same_person=0.3).doubtful.any()
