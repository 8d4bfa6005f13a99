"""Tests that sample number i of a run is the same in every process and after every restart."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from multiprocessing import active_children
from pathlib import Path
from threading import Event, active_count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train.data.dataset
import train.data.mesh
from curate.faces.errors import FaceModelError
from curate.faces.interface import FaceDetector
from degrade.operations.apply import apply
from degrade.operations.pixels import to_float, to_uint8
from manifests.errors import BadInput
from tests.doubles.faces.mesh_points import mean_face
from tests.doubles.training import SMALL, finder, real_snapshot, snapshot
from train.data.augment import augment_reference
from train.data.dataset import Batch, TrainingFaces, _read_ahead, batches, check_detector, fixed_batch
from train.data.mesh import find_mesh_points
from train.data.sampling import draw_sample
from train.data.snapshot import Snapshot
from train.data.to_device import to_device
from train.data.warp import warp_to
from train.fit.loop import train as train_restorer
from train.models.config import ModelConfig
from train.recipes.recipes import Recipe, find_recipe
from train.restore.references.reference_photos import References, warp_references

# A recipe that needs every field of a sample.
EVERYTHING: Recipe = replace(
    SMALL, parts=(*SMALL.parts, "warped"), losses={**SMALL.losses, "cycle": 1.0}, wrong_share=0.4, augment="each"
)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snapshot, "load_detector", lambda _: finder())


def same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(
        one[name] == other[name] if name == "theta" else torch.equal(one[name], other[name]) for name in one
    )


def test_a_thread_reads_the_next_batch_while_the_current_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, threads = [Event() for _ in range(3)], active_count()

    def read() -> Iterator[Batch]:
        for number, event in enumerate(reads):
            event.set()
            yield {"row": torch.tensor(number)}
        raise OSError("the worker process ended")

    source = read()
    is_open, stream = weakref.ref(source), _read_ahead(source)
    del source
    assert int(next(stream)["row"]) == 0 and reads[1].wait(60) and not reads[2].is_set()
    assert [int(next(stream)["row"]) for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="the worker process ended") as held:
        next(stream)
    # The error in `held` does not keep the stream in memory, so the worker processes of a stream can end.
    assert active_count() == threads and is_open() is None and held.value.__traceback__ is not None
    # Batches are read ahead only if there are worker processes.
    ahead: list[object] = []
    monkeypatch.setattr(train.data.dataset, "_read_ahead", lambda stream: ahead.append(stream) or stream)
    for workers in (0, 1):
        batches([], 0, 4, workers)  # type: ignore[arg-type]
        assert len(ahead) == workers


@pytest.mark.parametrize("workers", [0, 1])
def test_closing_the_batches_ends_the_worker_processes(taken: Snapshot, workers: int) -> None:
    before = set(active_children())
    stream = batches(TrainingFaces(taken, SMALL, 0), 0, 2, workers)
    next(stream)
    assert len(set(active_children()) - before) == workers
    stream.close()
    assert set(active_children()) <= before


@pytest.mark.parametrize("recipe", [SMALL, EVERYTHING])
def test_the_bytes_do_not_depend_on_workers_or_on_where_a_run_resumes(taken: Snapshot, recipe: Recipe) -> None:
    faces = TrainingFaces(taken, recipe, seed=3)

    def first(start: int, count: int, workers: int) -> list[Batch]:
        stream = batches(faces, start, 4, workers)
        return [next(stream) for _ in range(count)]

    alone, later = first(0, 4, 0), first(8, 2, 1)
    for workers in (1, 2):
        assert all(same(a, b) for a, b in zip(alone, first(0, 4, workers), strict=True))
    assert all(same(a, b) for a, b in zip(alone[2:], later, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_that_share_a_batch_see_what_one_sees(taken: Snapshot, workers: int) -> None:
    faces = TrainingFaces(taken, EVERYTHING, seed=3)
    whole = next(batches(faces, 4, 4, 0))
    for rank in (0, 1):
        share = next(batches(faces, 4, 4, workers, rank, 2))
        assert same(share, {name: part[2 * rank : 2 * rank + 2] for name, part in whole.items()})


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
    # In a flipped picture, the first landmark is again the eye at the left of the picture.
    turned = item["landmarks"].numpy()
    assert np.allclose(turned[:, 0], taken.size - 1 - taken.landmarks[sample.target][[1, 0, 2, 4, 3], 0])
    assert turned[0, 0] < turned[1, 0] and turned[3, 0] < turned[4, 0]
    assert not item["present"][len(sample.references) :].any()
    assert not item["references"][len(sample.references) :].any()


def test_theta_makes_the_input_again(taken: Snapshot) -> None:
    for item in islice(TrainingFaces(taken, EVERYTHING, 0), 8):
        target = item["target"].permute(1, 2, 0).numpy()
        again = to_uint8(apply(to_float(target), item["theta"]))
        assert np.array_equal(again, item["lq"].permute(1, 2, 0).numpy())


def test_references_are_warped_to_the_landmarks_of_the_input_as_restoring_does(taken: Snapshot) -> None:
    recipe = replace(EVERYTHING, augment="flip", wrong_share=0.0)
    noise = np.random.default_rng(0).uniform(-1, 1, taken.landmarks.shape).astype(np.float32)
    # All faces of the doubles have the same landmarks, so noise is added.
    taken = replace(taken, landmarks=taken.landmarks + noise)
    faces, plain = TrainingFaces(taken, recipe, 0), TrainingFaces(taken, replace(recipe, parts=SMALL.parts), 0)
    config: ModelConfig = SimpleNamespace(parts=recipe.parts)  # type: ignore[assignment]
    found = []
    for index in range(24):
        sample, item, still = draw_sample(taken, faces.targets, recipe, 0, index), faces[index], plain[index]
        lq = item["lq"].permute(1, 2, 0).numpy()
        seen = finder().detect(lq)
        assert bool(item["found"]) == bool(seen) and "found" not in still and "warped" not in still
        assert item["warped"].tolist() == [bool(seen) and slot < len(sample.references) for slot in range(4)]
        for slot, row in enumerate(sample.references):
            before = still["references"][slot].permute(1, 2, 0).numpy()
            own = taken.landmarks[row].copy()
            if sample.flip:
                own = own[[1, 0, 2, 4, 3]]
                own[:, 0] = taken.size - 1 - own[:, 0]
            expected = warp_to(before, own, seen[0].landmarks5) if seen else before
            assert np.array_equal(item["references"][slot].permute(1, 2, 0).numpy(), expected)
            shown = References(before[None], np.zeros((1, 1), np.float32), (own,))
            restoring = warp_references(config, shown, seen[0].landmarks5 if seen else None).crops[0]
            assert np.array_equal(restoring, expected)
            found.append(bool(seen) and not np.array_equal(expected, before))
    assert 0 < sum(found) < len(found)


def test_the_mesh_of_the_recipe_warps_references_as_restoring_does_and_failures_are_counted(
    taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(image: np.ndarray) -> np.ndarray:
        """Returns other points for each image. For a third of the images, they are far from the detector's
        landmarks."""
        number = int(image.sum()) % 30
        return mean_face() + np.array([8, -8]) + (number / 10 if number % 3 else 200)

    monkeypatch.setattr(train.data.mesh, "find_68_points", find)
    parts = (*SMALL.parts, "mesh")
    recipe = replace(EVERYTHING, parts=parts, augment="flip", wrong_share=0.0, reference_counts=(2,))
    faces, plain = TrainingFaces(taken, recipe, 0), TrainingFaces(taken, replace(recipe, parts=()), 0)
    config: ModelConfig = SimpleNamespace(parts=parts)  # type: ignore[assignment]
    warped = list[bool]()
    for index in range(24):
        sample, item, still = draw_sample(taken, faces.targets, recipe, 0, index), faces[index], plain[index]
        lq, seen = item["lq"].permute(1, 2, 0).numpy(), finder().detect(item["lq"].permute(1, 2, 0).numpy())
        to = find_mesh_points(lq, seen[0].landmarks5 if seen else None)
        assert bool(item["found"]) == (to is not None)
        for slot, row in enumerate(sample.references):
            before, five = still["references"][slot].permute(1, 2, 0).numpy(), taken.landmarks[row].copy()
            if sample.flip:
                five = five[[1, 0, 2, 4, 3]] * [-1, 1] + [taken.size - 1, 0]
            own = find_mesh_points(before, five)
            shown = References(before[None], np.zeros((1, 1), np.float32), (own,))
            expected = warp_references(config, shown, to).crops[0]
            assert np.array_equal(item["references"][slot].permute(1, 2, 0).numpy(), expected)
            warped.append(to is not None and own is not None)
            assert bool(item["warped"][slot]) == warped[-1]
            if warped[-1]:  # the edges of a warped reference are black
                assert not expected[:2].any() and not expected[:, :2].any()
            else:
                assert torch.equal(item["references"][slot], still["references"][slot])
    assert 0 < sum(warped) < len(warped)
    monkeypatch.setattr(train.data.mesh, "explain_missing", lambda: "dlib is not installed.")
    with pytest.raises(BadInput, match=r"Recipe small warps references .* of dlib\. dlib is not inst"):
        check_detector(taken, recipe)


def test_a_reference_whose_landmarks_nothing_can_be_warped_by_stays_as_aligned_and_is_counted(taken: Snapshot) -> None:
    recipe = replace(EVERYTHING, augment="flip", reference_counts=(2,))
    broken = replace(taken, landmarks=np.zeros_like(taken.landmarks))
    faces, plain = TrainingFaces(broken, recipe, 0), TrainingFaces(taken, replace(recipe, parts=()), 0)
    items = [faces[index] for index in range(16)]
    assert any(item["found"] for item in items) and not any(item["warped"].any() for item in items)
    assert all(torch.equal(item["references"], plain[index]["references"]) for index, item in enumerate(items))


def test_what_finds_the_landmarks_is_said_or_its_absence_is_refused(
    taken: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_detector(taken, SMALL) == ""
    assert "no detector, so the detector of double on this machine finds" in check_detector(taken, EVERYTHING)
    carrying = replace(taken, folder=tmp_path)
    (tmp_path / "detector.onnx").touch()
    assert check_detector(carrying, EVERYTHING) == ""

    def missing(_: Snapshot) -> FaceDetector:
        raise FaceModelError("dlib is not installed: pip install 'likeness[offline]'.")

    monkeypatch.setattr(Snapshot, "load_detector", missing)
    assert check_detector(taken, SMALL) == ""
    with pytest.raises(BadInput, match=r"small needs a face detector .* of double cannot be loaded: dlib is not"):
        check_detector(taken, EVERYTHING)
    with pytest.raises(BadInput, match="needs a face detector to warp references"):
        train_restorer(tmp_path / "run", taken.folder, EVERYTHING, 4, workers=0)
    assert not (tmp_path / "run").exists()


def test_each_reference_is_augmented_on_its_own_and_the_target_is_not(taken: Snapshot) -> None:
    recipe = replace(SMALL, augment="each", reference_counts=(2,))
    faces, still = TrainingFaces(taken, recipe, 0), TrainingFaces(taken, replace(recipe, augment="flip"), 0)
    for item, plain in islice(zip(faces, still, strict=True), 8):
        assert torch.equal(item["target"], plain["target"]) and torch.equal(item["lq"], plain["lq"])
        assert torch.equal(item["embeddings"], plain["embeddings"])
        assert all(not torch.equal(item["references"][slot], plain["references"][slot]) for slot in (0, 1))


def test_a_reference_is_augmented_before_it_is_warped_by_landmarks_that_went_along(taken: Snapshot) -> None:
    recipe = replace(EVERYTHING, wrong_share=0.0)
    faces, still = TrainingFaces(taken, recipe, 0), TrainingFaces(taken, replace(recipe, parts=()), 0)
    warped = 0
    for index in range(24):
        sample, item, plain = draw_sample(taken, faces.targets, recipe, 0, index), faces[index], still[index]
        seen = finder().detect(item["lq"].permute(1, 2, 0).numpy())
        for slot, row in enumerate(sample.references if seen else ()):
            crop, points = taken.crops[row], taken.landmarks[row]
            if sample.flip:
                crop, points = np.ascontiguousarray(crop[:, ::-1]), points[[1, 0, 2, 4, 3]] * [-1, 1] + [31, 0]
            changed, moved = augment_reference(np.array(crop), points, sample.seeds[slot])
            assert np.array_equal(plain["references"][slot].permute(1, 2, 0).numpy(), changed)
            expected = warp_to(changed, moved, seen[0].landmarks5)
            assert np.array_equal(item["references"][slot].permute(1, 2, 0).numpy(), expected)
            warped += 1
    assert warped


def test_pictures_reach_the_device_as_floats(taken: Snapshot) -> None:
    batch = to_device({"lq": torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)}, torch.device("cpu"))
    assert batch["lq"].dtype == torch.float32 and float(batch["lq"].max()) == 1.0
    assert to_device({"theta": [{"version": 2}]}, torch.device("cpu")) == {"theta": [{"version": 2}]}
    references = torch.randint(1, 256, (2, 3, 3, 4, 4), dtype=torch.uint8)
    present = torch.tensor([[True, False, True], [False, True, False]])
    moved = to_device({"references": references, "present": present}, torch.device("cpu"))["references"]
    assert torch.equal(moved[present], references[present].float() / 255)
    assert not moved[~present].any()
    # Float pictures are already in 0..1 and are not divided by 255.
    as_floats = to_device({"references": references.float() / 255, "present": present}, torch.device("cpu"))
    assert torch.equal(as_floats["references"], moved)


def test_the_watched_faces_stay_the_same_for_any_seed(taken: Snapshot) -> None:
    one, other = (fixed_batch(TrainingFaces(taken, EVERYTHING, seed), "val", 3, 4) for seed in (0, 1))
    assert one is not None and other is not None
    assert same(one, other) and bool(one["right"].all()) and {"found", "warped", "landmarks"} <= one.keys()
    # the picture is not flipped, and the sample's θ gives its LQ image
    for i, row in enumerate(one["row"].tolist()):
        target = one["target"][i].permute(1, 2, 0).numpy()
        assert np.array_equal(target, taken.crops[row])
        again = to_uint8(apply(to_float(target), one["theta"][i]))
        assert np.array_equal(again, one["lq"][i].permute(1, 2, 0).numpy())
    assert fixed_batch(TrainingFaces(taken, SMALL, 0), "test", 3, 4) is None


@pytest.mark.shared_data
def test_a_detector_of_real_faces_finds_the_same_in_every_worker(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # use the real detector of the snapshot instead of the double
    real = real_snapshot(tmp_path, shared_data, people=3, photos=4, size=128)
    recipe = replace(EVERYTHING, size=128, reference_counts=(2,), wrong_share=0.0)
    assert real.detector_onnx is not None and check_detector(real, recipe) == ""
    faces = TrainingFaces(real, recipe, 0)
    runs = [[next(stream) for _ in range(3)] for stream in (batches(faces, 0, 4, workers) for workers in (0, 1, 2))]
    assert all(same(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))
    found = torch.cat([batch["found"] for batch in runs[0]])
    assert 0.2 < found.float().mean() < 1  # in some LQ images, which are very degraded, the detector finds no face


def test_a_snapshot_of_another_size_is_refused(taken: Snapshot) -> None:
    with pytest.raises(BadInput, match="have 32 px, but recipe tiny needs crops of 256 px"):
        TrainingFaces(taken, find_recipe("tiny"), 0)
