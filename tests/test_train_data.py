"""Sample number i of a run is the same everywhere."""

from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from train_doubles import SMALL, finder, snapshot

from degrade.operations import apply, to_float, to_uint8
from manifests.errors import BadInput
from train.data import Batch, TrainingFaces, batches, fixed_batch, to_device
from train.draws import draw_sample
from train.models.restorer import Restorer
from train.recipes import Recipe, find_recipe
from train.reference_photos import References, shown_for
from train.snapshot import Snapshot
from train.warp import warp_to

# everything that a recipe can ask of the data, at once
EVERYTHING: Recipe = replace(
    SMALL, parts=(*SMALL.parts, "warped"), losses={**SMALL.losses, "cycle": 1.0}, wrong=0.4, augment="each"
)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snapshot, "finder", lambda _: finder())


def same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(
        one[name] == other[name] if name == "theta" else torch.equal(one[name], other[name]) for name in one
    )


def test_references_are_of_the_same_person_and_never_the_target(taken: Snapshot) -> None:
    targets, counts = taken.targets("train"), []
    for index in range(400):
        sample = draw_sample(taken, targets, SMALL, 0, index)
        counts.append(len(sample.references))
        assert sample.target not in sample.references
        assert len(set(sample.references)) == len(sample.references)
        assert set(sample.references) <= set(taken.references[sample.target].tolist())
        assert {taken.identity_ids[row] for row in sample.references} <= {taken.identity_ids[sample.target]}
    # three references exist where four were drawn
    assert set(counts) == {0, 1, 2, 3}


def test_an_epoch_sees_every_target_once_in_an_order_of_its_own(taken: Snapshot) -> None:
    targets = taken.targets("train")
    epochs = [
        [draw_sample(taken, targets, SMALL, 0, epoch * len(targets) + i).target for i in range(len(targets))]
        for epoch in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == targets.tolist()
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("recipe", [SMALL, EVERYTHING])
def test_the_bytes_do_not_depend_on_workers_or_on_where_a_run_resumes(taken: Snapshot, recipe: Recipe) -> None:
    faces = TrainingFaces(taken, recipe, seed=3)

    def first(start: int, count: int, workers: int) -> list[Batch]:
        stream = batches(faces, start, 4, workers)
        return [next(stream) for _ in range(count)]

    alone, two, later = first(0, 4, 0), first(0, 4, 2), first(8, 2, 1)
    for a, b in [*zip(alone, two, strict=True), *zip(alone[2:], later, strict=True)]:
        assert same(a, b)


def test_processes_that_share_a_batch_see_what_one_sees(taken: Snapshot) -> None:
    faces = TrainingFaces(taken, EVERYTHING, seed=3)
    whole = next(batches(faces, 4, 4, 0))
    for rank in (0, 1):
        share = next(batches(faces, 4, 4, 0, rank, 2))
        assert same(share, {name: part[2 * rank : 2 * rank + 2] for name, part in whole.items()})


def test_a_sample_follows_from_seed_epoch_and_face_alone(taken: Snapshot) -> None:
    """Whatever the order of an epoch puts before it."""
    targets = taken.targets("train")
    few = targets[: len(targets) // 2]

    def drawn(some: np.ndarray, epoch: int) -> dict[int, object]:
        samples = [draw_sample(taken, some, EVERYTHING, 0, epoch * len(some) + i) for i in range(len(some))]
        return {sample.target: sample for sample in samples}

    every = drawn(targets, 1)
    assert all(every[target] == sample for target, sample in drawn(few, 1).items())
    assert every != drawn(targets, 2)


def test_another_seed_draws_other_samples(taken: Snapshot) -> None:
    one, other = TrainingFaces(taken, SMALL, 0)[5], TrainingFaces(taken, SMALL, 1)[5]
    assert not torch.equal(one["lq"], other["lq"])


def test_a_flip_turns_target_and_references_together(taken: Snapshot) -> None:
    faces = TrainingFaces(taken, SMALL, 0)
    index = next(
        i for i in range(100) if (s := draw_sample(taken, faces.targets, SMALL, 0, i)).flip and len(s.references) > 1
    )
    sample, item = draw_sample(taken, faces.targets, SMALL, 0, index), faces[index]
    for got, row in [
        (item["target"], sample.target),
        (item["references"][0], sample.references[0]),
        (item["references"][1], sample.references[1]),
    ]:
        assert np.array_equal(got.permute(1, 2, 0).numpy(), taken.crops[row][:, ::-1])
    # an eye stays an eye, and image left comes first
    turned = item["landmarks"].numpy()
    assert np.allclose(turned[:, 0], taken.size - 1 - taken.landmarks[sample.target][[1, 0, 2, 4, 3], 0])
    assert turned[0, 0] < turned[1, 0] and turned[3, 0] < turned[4, 0]
    assert not item["present"][len(sample.references) :].any()
    assert not item["references"][len(sample.references) :].any()


def test_wrong_references_are_of_one_other_person_of_the_split_and_as_often_as_told(taken: Snapshot) -> None:
    targets = taken.targets("train")
    samples = [draw_sample(taken, targets, EVERYTHING, 0, index) for index in range(1000)]
    for sample in samples:
        people = {taken.identity_ids[row] for row in sample.references}
        own = taken.identity_ids[sample.target]
        assert people <= {own} if sample.right else len(people) == 1 and own not in people
        assert {taken.splits[row] for row in sample.references} <= {"train"}
    shown = [sample for sample in samples if sample.references]
    assert 0.34 < sum(not sample.right for sample in shown) / len(shown) < 0.46
    assert all(sample.right for sample in samples if not sample.references)


def test_theta_makes_the_input_again(taken: Snapshot) -> None:
    for item in islice(TrainingFaces(taken, EVERYTHING, 0), 8):
        target = item["target"].permute(1, 2, 0).numpy()
        again = to_uint8(apply(to_float(target), item["theta"]))
        assert np.array_equal(again, item["lq"].permute(1, 2, 0).numpy())


def test_references_are_warped_to_the_landmarks_of_the_input_as_restoring_does(taken: Snapshot) -> None:
    recipe = replace(EVERYTHING, augment="flip", wrong=0.0)
    faces, plain = TrainingFaces(taken, recipe, 0), TrainingFaces(taken, replace(recipe, parts=SMALL.parts), 0)
    model: Restorer = SimpleNamespace(config=SimpleNamespace(parts=recipe.parts))  # type: ignore[assignment]
    found = []
    for index in range(24):
        sample, item, still = draw_sample(taken, faces.targets, recipe, 0, index), faces[index], plain[index]
        lq = item["lq"].permute(1, 2, 0).numpy()
        seen = finder().detect(lq)
        assert bool(item["found"]) == bool(seen) and "found" not in still
        for slot, row in enumerate(sample.references):
            before = still["references"][slot].permute(1, 2, 0).numpy()
            own = taken.landmarks[row].copy()
            if sample.flip:
                own = own[[1, 0, 2, 4, 3]]
                own[:, 0] = taken.size - 1 - own[:, 0]
            expected = warp_to(before, own, seen[0].landmarks5) if seen else before
            assert np.array_equal(item["references"][slot].permute(1, 2, 0).numpy(), expected)
            shown = References(still["references"][slot : slot + 1] / 255, torch.zeros(1, 1), (own,))
            restoring = shown_for(model, shown, seen[0].landmarks5 if seen else None).crops[0]
            assert torch.allclose(restoring, torch.from_numpy(expected).permute(2, 0, 1) / 255, atol=1e-6)
            found.append(bool(seen) and not np.array_equal(expected, before))
    assert 0 < sum(found) < len(found)


def test_each_reference_is_augmented_on_its_own_and_the_target_is_not(taken: Snapshot) -> None:
    recipe = replace(SMALL, augment="each", reference_counts=(2,))
    faces, still = TrainingFaces(taken, recipe, 0), TrainingFaces(taken, replace(recipe, augment="flip"), 0)
    for item, plain in islice(zip(faces, still, strict=True), 8):
        assert torch.equal(item["target"], plain["target"]) and torch.equal(item["lq"], plain["lq"])
        assert torch.equal(item["embeddings"], plain["embeddings"])
        assert all(not torch.equal(item["references"][slot], plain["references"][slot]) for slot in (0, 1))


def test_pictures_reach_the_device_as_floats(taken: Snapshot) -> None:
    batch = to_device({"lq": torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)}, torch.device("cpu"))
    assert batch["lq"].dtype == torch.float32 and float(batch["lq"].max()) == 1.0
    assert to_device({"theta": [{"version": 2}]}, torch.device("cpu")) == {"theta": [{"version": 2}]}


def test_the_watched_faces_stay_the_same_for_any_seed(taken: Snapshot) -> None:
    one, other = (fixed_batch(TrainingFaces(taken, EVERYTHING, seed), "val", 3, 4) for seed in (0, 1))
    assert one is not None and other is not None
    assert same(one, other) and bool(one["right"].all())
    assert fixed_batch(TrainingFaces(taken, SMALL, 0), "test", 3, 4) is None


def test_a_snapshot_of_another_size_is_refused(taken: Snapshot) -> None:
    with pytest.raises(BadInput, match="32 px crops"):
        TrainingFaces(taken, find_recipe("tiny"), 0)
