"""Tests that a sample depends only on (seed, epoch, face of the target)."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from degrade.sampling import make_generator
from manifests.ledger.ledger import Ledger
from tests.doubles.training import SMALL, dataset, face_of, models_of, recognizer_onnx, snapshot
from tests.doubles.training_snapshots import make_face_table
from train.data.dataset import TrainingFaces
from train.data.sampling import (
    Sample,
    draw_identity_map,
    draw_preset_name,
    draw_sample,
    draw_theta,
    find_turn,
    repeat_fine_targets,
)
from train.data.snapshot import Snapshot
from train.data.take_snapshot import take_snapshot
from train.recipes.recipes import Recipe
from train.recipes.training_presets import MILD

OFTEN_WRONG: Recipe = replace(SMALL, wrong_share=0.4, augment="each")


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot(tmp_path_factory.mktemp("draws"))


def album(*photos: int, size: int = 0, most_references: int | None = None, **columns: list[Any]) -> Snapshot:
    """Returns a snapshot without files. `photos` has the number of photos of each person. All photos are targets."""
    people = [f"person{number}" for number, many in enumerate(photos) for _ in range(many)]
    rows = range(len(people))
    references = [[r for r in rows if people[r] == people[row] and r != row][:most_references] for row in rows]
    usual = {"face_id": [f"face{row}" for row in rows], "identity_id": people, "split": ["train"] * len(people)}
    return Snapshot(
        folder=Path("nowhere"),
        facts={"config": {"size": size}},
        faces=make_face_table({**usual, "references": references, **columns}),
        embeddings=np.zeros((len(people), 2), np.float32),
        landmarks=np.zeros((len(people), 5, 2), np.float32),
        crops=np.zeros((len(people), size, size, 3), np.uint8),
        large_crops=np.zeros((0, 512, 512, 3), np.uint8),
        valid_bits=np.zeros((len(people), size * size // 8), np.uint8),
    )


def drawn(taken: Snapshot, recipe: Recipe, count: int, seed: int = 0) -> list[Sample]:
    targets = taken.targets("train")
    return [draw_sample(taken, targets, recipe, seed, index) for index in range(count)]


def plain_sample(taken: Snapshot, recipe: Recipe, seed: int, index: int) -> Sample:
    """Draws a sample in a simple, slow way: with lists and dicts, and with a loop over all people for wrong
    references."""
    targets = [row for row, split in enumerate(taken.splits) if split == "train" and taken.is_target[row]]
    epoch, place = divmod(index, len(targets))
    target = targets[int(make_generator(seed, "train", "epoch", epoch).permutation(len(targets))[place])]
    rng = make_generator(seed, "train", "sample", epoch, taken.face_ids[target])
    possible = list(taken.references[target])
    count = min(int(rng.choice(np.asarray(recipe.reference_counts))), len(possible))
    flip, wrong = bool(rng.integers(2)), bool(rng.uniform() < recipe.wrong_share)
    people: dict[str, list[int]] = {}
    for row, (person, split) in enumerate(zip(taken.identity_ids, taken.splits, strict=True)):
        if person != taken.identity_ids[target] and split == "train":
            people.setdefault(person, []).append(row)
    strangers = [person for person in sorted(people) if len(people[person]) >= count] if wrong and count else []
    if strangers:
        possible = people[strangers[int(rng.integers(len(strangers)))]]
    references = tuple(int(row) for row in rng.choice(np.array(possible, np.int64), count, replace=False))
    seeds = tuple(int(number) for number in rng.integers(2**31, size=count)) if recipe.augment == "each" else ()
    return Sample(target, references, flip, not strangers, seeds, epoch)


def test_a_plain_program_over_all_people_draws_the_same_samples() -> None:
    # The rows of the people are not in the order of their ids. Two faces are not targets, and one face is in another
    # split.
    names, photos = ["p2", "p10", "p1", "p3", "p4"], [4, 1, 5, 2, 4]
    people = [name for turn in range(5) for name, many in zip(names, photos, strict=True) if turn < many]
    count = len(people)
    columns = {
        "identity_id": people,
        "split": ["val" if row == 6 else "train" for row in range(count)],
        "is_target": [people[row] != "p10" and row != 3 for row in range(count)],
        "references": [[r for r in range(count) if people[r] == people[row] and r != row] for row in range(count)],
    }
    taken = album(count, **columns)
    recipe = replace(OFTEN_WRONG, reference_counts=(0, 1, 2, 4), wrong_share=0.7)
    targets = taken.targets("train")
    samples = [draw_sample(taken, targets, recipe, 3, index) for index in range(300)]
    assert samples == [plain_sample(taken, recipe, 3, index) for index in range(300)]
    assert 0 < sum(sample.right for sample in samples) < 300
    assert hashlib.sha256(repr(samples).encode()).hexdigest()[:16] == "a78719f07c76799c"


def test_references_are_of_the_same_person_and_never_the_target(taken: Snapshot) -> None:
    samples = drawn(taken, SMALL, 400)
    for sample in samples:
        assert sample.target not in sample.references and sample.right
        assert len(set(sample.references)) == len(sample.references)
        assert set(sample.references) <= set(taken.references[sample.target].tolist())
        assert {taken.identity_ids[row] for row in sample.references} <= {taken.identity_ids[sample.target]}
    # The recipe also draws 4 references, but the person has only 3 other photos.
    assert {len(sample.references) for sample in samples} == {0, 1, 2, 3}


def test_near_duplicates_and_copies_are_never_shown_whatever_the_pairs_say(tmp_path: Path) -> None:
    made = dataset(tmp_path / "dataset", recognizer_onnx(tmp_path / "recognizer.onnx"))
    twins = [replace(face_of(person, 1), duplicate_of=face_of(person, 0).face_id) for person in range(4)]
    with Ledger.open(made, write=True) as ledger:
        ledger.record("double", "again", {}, twins)
    taken = take_snapshot(made, tmp_path / "snapshot", 32, models_of(tmp_path / "recognizer.onnx"))
    every = [row for sample in drawn(taken, OFTEN_WRONG, 400) for row in (sample.target, *sample.references)]
    assert not {twin.face_id for twin in twins} & {taken.face_ids[row] for row in every}


def test_each_number_of_references_comes_as_often_as_the_others() -> None:
    counts = Counter(len(sample.references) for sample in drawn(album(6, 6, 6), SMALL, 2000))
    assert counts.keys() == set(SMALL.reference_counts)
    assert all(abs(many / 2000 - 1 / len(SMALL.reference_counts)) < 0.04 for many in counts.values())


def test_every_reference_of_the_pairs_comes_as_often_as_the_others() -> None:
    taken = album(6)
    shown = Counter(row for s in drawn(taken, SMALL, 6000) if s.target == 0 for row in s.references)
    assert shown.keys() == set(range(1, 6))
    assert max(shown.values()) < 1.3 * min(shown.values())


def test_what_the_pairs_leave_out_is_not_drawn() -> None:
    """Tests that training uses only the references in the table `pairs`."""
    cut = album(6, 6, most_references=2)
    for sample in drawn(cut, SMALL, 200):
        assert set(sample.references) <= set(cut.references[sample.target].tolist())


def test_an_epoch_sees_every_target_once_in_an_order_of_its_own(taken: Snapshot) -> None:
    targets = taken.targets("train")
    samples = drawn(taken, SMALL, 2 * len(targets))
    epochs = [[s.target for s in samples[: len(targets)]], [s.target for s in samples[len(targets) :]]]
    assert sorted(epochs[0]) == sorted(epochs[1]) == targets.tolist()
    assert epochs[0] != epochs[1]


def test_a_sample_follows_from_seed_epoch_and_face_alone(taken: Snapshot) -> None:
    """Tests that the sample of a target does not depend on the other targets of the epoch."""
    targets = taken.targets("train")
    few = targets[: len(targets) // 2]

    def by_target(some: np.ndarray, epoch: int, seed: int = 0) -> dict[int, Sample]:
        samples = [draw_sample(taken, some, OFTEN_WRONG, seed, epoch * len(some) + i) for i in range(len(some))]
        return {sample.target: sample for sample in samples}

    every = by_target(targets, 1)
    assert all(every[target] == sample for target, sample in by_target(few, 1).items())
    assert every != by_target(targets, 2) and every != by_target(targets, 1, seed=1)


def test_wrong_references_are_of_one_other_person_of_the_split_and_as_often_as_told(taken: Snapshot) -> None:
    samples = drawn(taken, OFTEN_WRONG, 1000)
    for sample in samples:
        people = {taken.identity_ids[row] for row in sample.references}
        own = taken.identity_ids[sample.target]
        assert people <= {own} if sample.right else len(people) == 1 and own not in people
        assert {taken.splits[row] for row in sample.references} <= {"train"}
    shown = [sample for sample in samples if sample.references]
    assert 0.34 < sum(not sample.right for sample in shown) / len(shown) < 0.46
    assert all(sample.right for sample in samples if not sample.references)


def test_the_number_of_references_does_not_tell_right_from_wrong() -> None:
    # The person with two photos has at most one right reference, and therefore gets at most one wrong reference. The
    # two people with five photos get up to four wrong references.
    taken, always = album(2, 5, 5), replace(SMALL, wrong_share=1.0)
    for sample, right in zip(drawn(taken, always, 400), drawn(taken, SMALL, 400), strict=True):
        assert sample.target == right.target and len(sample.references) == len(right.references)
        assert sample.right == (not sample.references)
    # If no other person has enough photos, a sample gets the right references.
    for sample in drawn(album(5, 2), always, 200):
        if len(sample.references) > 2:
            assert sample.right and set(sample.references) <= set(range(5))


def test_each_reference_has_a_seed_of_its_own_where_it_is_augmented(taken: Snapshot) -> None:
    samples = [sample for sample in drawn(taken, OFTEN_WRONG, 200) if len(sample.references) > 1]
    assert all(len(set(sample.seeds)) == len(sample.references) for sample in samples)
    assert not any(sample.seeds for sample in drawn(taken, SMALL, 20))


def test_a_share_of_the_images_is_degraded_mildly_where_a_recipe_says_so(taken: Snapshot) -> None:
    half = replace(SMALL, mixture={"mild": 0.5})
    mild = [
        draw_preset_name(half, 0, epoch, face, True) == MILD.name for epoch in range(100) for face in taken.face_ids
    ]
    assert 0.45 < sum(mild) / len(mild) < 0.55
    assert not any(
        draw_preset_name(SMALL, 0, epoch, face, True) == MILD.name for epoch in range(9) for face in taken.face_ids
    )
    # Both recipes draw the same samples, but the second recipe degrades some of them mildly.
    plain, mixed = (TrainingFaces(taken, recipe, 0) for recipe in (SMALL, half))
    seen = Counter[bool]()
    for index in range(24):
        one, other = plain[index], mixed[index]
        assert one["row"] == other["row"] and bool((one["references"] == other["references"]).all())
        epoch, face = index // len(plain.targets), taken.face_ids[int(one["row"])]
        milder = draw_preset_name(half, 0, epoch, face, True) == MILD.name
        assert bool((one["lq"] == other["lq"]).all()) != milder
        seen[milder] += 1
    assert seen[True] and seen[False]
    assert draw_theta(MILD, 0, 0, "face")["preset"] == "mild"


def test_fine_targets_are_repeated_and_only_fine_targets_have_clean_or_mild_inputs() -> None:
    taken = album(10, size=256, resolution=[64] * 8 + [128, 181])
    repeated = replace(SMALL, mixture={"clean": 0.3, "mild": 0.3, "severe": 0.2}, fine_repeats=3)
    rows, fine_from = repeat_fine_targets(taken, "train", repeated)
    assert rows.tolist() == [*range(8), 8, 8, 8, 9, 9, 9] and fine_from == 128
    turns = [find_turn(rows, 5, index) for index in range(4 * len(rows))]
    assert len(set(turns)) == len(turns) and Counter(target for target, _ in turns) == Counter(rows.tolist() * 4)
    names = [
        {draw_preset_name(repeated, 0, turn, face, bool(pixels >= fine_from)) for turn in range(99)}
        for face, pixels in zip(taken.face_ids, taken.resolution, strict=True)
    ]
    assert names == [{"severe", repeated.preset}] * 8 + [{"clean", "mild", "severe", repeated.preset}] * 2
    # Each target is used once, and no target is treated as soft, in two cases: the recipe repeats no targets, or there
    # are too few fine targets.
    few = album(40, size=256, resolution=[64] * 37 + [256] * 3)
    for snapshot_, recipe in ((taken, SMALL), (few, repeated)):
        rows, fine_from = repeat_fine_targets(snapshot_, "train", recipe)
        assert rows.tolist() == snapshot_.targets("train").tolist() and fine_from == 0
        assert [find_turn(rows, 0, index)[1] for index in range(2 * len(rows))] == [0] * len(rows) + [1] * len(rows)


def test_the_map_of_the_recognizers_crop_follows_from_the_seed_and_stays_within_its_limits() -> None:
    jittered = replace(SMALL, identity_jitter=0.1)
    maps = np.array([draw_identity_map(jittered, 0, turn, "face") for turn in range(500)])
    assert np.array_equal(maps[7], draw_identity_map(jittered, 0, 7, "face"))
    assert not np.array_equal(maps[7], draw_identity_map(jittered, 1, 7, "face"))
    scale = np.hypot(maps[:, 0, 1], maps[:, 1, 1])
    assert np.abs(np.log(scale)).max() <= 0.1 and np.abs(np.log(scale)).max() > 0.09
    assert 0.18 < np.abs(maps[:, :, 2]).max() <= 0.2  # a tenth of a side of length 2
    assert 200 < (np.linalg.det(maps[:, :, :2]) < 0).sum() < 300  # half of the crops are mirrored


def test_only_a_recipe_with_jitter_has_a_map_in_its_samples(taken: Snapshot) -> None:
    assert "identity_map" not in TrainingFaces(taken, SMALL, 0)[3]
    jittered = TrainingFaces(taken, replace(SMALL, identity_jitter=0.1), 0)
    sample, other = jittered[3], TrainingFaces(taken, SMALL, 0)[3]
    assert sample["identity_map"].shape == (2, 3)
    assert all(np.array_equal(sample[name], other[name]) for name in ("lq", "target", "references"))
