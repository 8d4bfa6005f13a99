"""Sample number i of a run is the same everywhere."""

import numpy as np
import pytest
import torch
from train_doubles import SMALL, snapshot

from manifests.errors import BadInput
from train.data import TrainingFaces, batches, draw_sample, fixed_batch, to_device
from train.recipes import find_recipe
from train.snapshot import Snapshot


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot(tmp_path_factory.mktemp("data"))


def test_references_are_of_the_same_person_and_never_the_target(taken: Snapshot) -> None:
    targets, counts = taken.targets("train"), []
    for index in range(400):
        sample = draw_sample(taken, targets, (0, 1, 2, 4), 0, index)
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
        [draw_sample(taken, targets, (0,), 0, epoch * len(targets) + i).target for i in range(len(targets))]
        for epoch in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == targets.tolist()
    assert epochs[0] != epochs[1]


def test_the_bytes_do_not_depend_on_workers_or_on_where_a_run_resumes(taken: Snapshot) -> None:
    faces = TrainingFaces(taken, SMALL, seed=3)

    def first(start: int, count: int, workers: int) -> list[dict[str, torch.Tensor]]:
        stream = batches(faces, start, 4, workers)
        return [next(stream) for _ in range(count)]

    alone, two, later = first(0, 4, 0), first(0, 4, 2), first(8, 2, 1)
    for a, b in [*zip(alone, two, strict=True), *zip(alone[2:], later, strict=True)]:
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_another_seed_draws_other_samples(taken: Snapshot) -> None:
    one, other = TrainingFaces(taken, SMALL, 0)[5], TrainingFaces(taken, SMALL, 1)[5]
    assert not torch.equal(one["lq"], other["lq"])


def test_a_flip_turns_target_and_references_together(taken: Snapshot) -> None:
    faces = TrainingFaces(taken, SMALL, 0)
    index = next(
        i
        for i in range(100)
        if (s := draw_sample(taken, faces.targets, faces.counts, 0, i)).flip and len(s.references) > 1
    )
    sample, item = draw_sample(taken, faces.targets, faces.counts, 0, index), faces[index]
    for got, row in [
        (item["target"], sample.target),
        (item["references"][0], sample.references[0]),
        (item["references"][1], sample.references[1]),
    ]:
        assert np.array_equal(got.permute(1, 2, 0).numpy(), taken.crops[row][:, ::-1])
    assert not item["present"][len(sample.references) :].any()
    assert not item["references"][len(sample.references) :].any()


def test_pictures_reach_the_device_as_floats(taken: Snapshot) -> None:
    batch = to_device({"lq": torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)}, torch.device("cpu"))
    assert batch["lq"].dtype == torch.float32 and float(batch["lq"].max()) == 1.0


def test_the_watched_faces_stay_the_same_for_any_seed(taken: Snapshot) -> None:
    one, other = (fixed_batch(TrainingFaces(taken, SMALL, seed), "val", 3, 4) for seed in (0, 1))
    assert one is not None and other is not None
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert fixed_batch(TrainingFaces(taken, SMALL, 0), "test", 3, 4) is None


def test_a_snapshot_of_another_size_is_refused(taken: Snapshot) -> None:
    with pytest.raises(BadInput, match="32 px crops"):
        TrainingFaces(taken, find_recipe("tiny"), 0)
