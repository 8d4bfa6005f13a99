"""Tests which faces are in a snapshot, and that training needs only the snapshot and not the dataset."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from curate.faces.align import FFHQ_512, align_face, scale_template
from curate.faces.interface import ModelFile
from degrade.operations.pixels import shrink
from manifests.errors import BadInput, LedgerBroken, ModelUnavailable
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Pair
from manifests.privacy.run_cleanup import remove_faces_from_runs
from tests.doubles.training import DIM, SMALL, dataset, face_of, models_of, picture, recognizer_onnx, snapshot
from tests.places import REPOSITORY
from train.data.dataset import TrainingFaces
from train.data.snapshot import Snapshot, load_snapshot
from train.data.take_snapshot import plan_snapshot, take_snapshot
from train.data.taking.choose_faces import stream_faces


def test_rows_crops_and_embeddings_are_aligned(tmp_path: Path) -> None:
    taken = snapshot(tmp_path)
    assert taken.crops.shape == (20, 32, 32, 3) and taken.embeddings.shape == (20, DIM)
    assert list(taken.face_ids) == sorted(taken.face_ids)
    assert len(taken.targets("train")) == 16 and len(taken.targets("val")) == 4
    for row, references in enumerate(taken.references):
        assert len(references) == 3 and row not in references
        assert {taken.identity_ids[reference] for reference in references} == {taken.identity_ids[row]}
    assert np.array_equal(taken.crops[6], shrink(picture(1, 2), 32))
    assert taken.recognizer["mean"] == 127.5 and taken.recognizer["dim"] == DIM
    assert taken.facts["counts"]["people"] == {"train": 4, "val": 1}


def test_a_snapshot_written_in_batches_has_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = snapshot(tmp_path)

    def stream_few(ledger: Ledger) -> Iterator[pa.RecordBatch]:
        for batch in stream_faces(ledger):
            yield from (batch.slice(start, 7) for start in range(0, len(batch), 7))

    monkeypatch.setattr("train.data.taking.write_faces.stream_faces", stream_few)
    parts = take_snapshot(tmp_path / "dataset", tmp_path / "parts", 32, models_of(tmp_path / "recognizer.onnx"))
    assert parts.faces.column(0).num_chunks == 3 and parts.faces.equals(whole.faces)
    assert len(whole.large_crops) == 16
    for name in ("crops", "large_crops", "valid", "landmarks", "embeddings"):
        assert (whole.folder / f"{name}.npy").read_bytes() == (parts.folder / f"{name}.npy").read_bytes()
    assert not list(parts.folder.glob("chosen*"))


def test_landmarks_lie_where_the_crop_shows_them(tmp_path: Path) -> None:
    recognizer = recognizer_onnx(tmp_path / "recognizer.onnx")
    made = dataset(tmp_path / "dataset", recognizer)
    points = FFHQ_512 / 3 + np.random.default_rng(0).normal(0, 4, (5, 2))
    odd = replace(face_of(0, 0), landmarks5=tuple(float(v) for v in points.ravel()))
    with Ledger.open(made, write=True) as ledger:
        ledger.record("double", "again", {}, [odd])
    taken = take_snapshot(made, tmp_path / "snapshot", 32, models_of(recognizer))
    here = scale_template(FFHQ_512, 512, 32)
    assert taken.landmarks.shape == (20, 5, 2) and taken.landmarks.dtype == np.float32
    row = taken.face_ids.index(odd.face_id)
    # A dot at a landmark of the photo must be at the same landmark in the crop of the snapshot.
    photo = np.zeros((512, 512, 3), np.uint8)
    cv2.circle(photo, (int(points[2][0]), int(points[2][1])), 12, (255, 255, 255), -1)
    crop = shrink(align_face(photo, points, FFHQ_512, 512), 32).astype(float).mean(2)
    crop[~taken.valid(row)] = 0
    ys, xs = np.mgrid[:32, :32]
    centre = (crop * xs).sum() / crop.sum(), (crop * ys).sum() / crop.sum()
    assert np.abs(taken.landmarks[row][2] - centre).max() < 0.2
    # All other faces of the doubles have the landmarks of the template.
    assert np.allclose(taken.landmarks[np.arange(20) != row], here, atol=1e-3)


def test_the_detector_comes_along_where_it_is_an_onnx_file(tmp_path: Path) -> None:
    plain = snapshot(tmp_path)
    assert plain.detector_onnx is None and "detector" not in plain.facts
    file = tmp_path / "finds.onnx"
    file.write_bytes(b"a detector")
    recognizer = tmp_path / "recognizer.onnx"

    def taken(name: str, detector: Path) -> Snapshot:
        models = models_of(recognizer)
        with_detector = replace(models, files=(ModelFile("detector", detector, "its licence"), *models.files))
        return take_snapshot(tmp_path / "dataset", tmp_path / name, 32, with_detector)

    carrying = taken("carrying", file)
    assert carrying.detector_onnx is not None and carrying.detector_onnx.read_bytes() == b"a detector"
    assert carrying.facts["detector"]["licence"] == "its licence" and carrying.hash != plain.hash
    (library := tmp_path / "dlib.so").touch()  # dlib's detector is inside this library and has no file of its own
    assert taken("dlib", library).detector_onnx is None


def test_a_snapshot_of_another_version_is_refused(tmp_path: Path) -> None:
    file = snapshot(tmp_path).folder / "snapshot.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 1}))
    with pytest.raises(
        BadInput, match=r"Another version of Likeness made .*: remove this folder\. Then you can evaluate"
    ):
        load_snapshot(file.parent)


def test_a_purge_does_not_change_the_rows_of_an_open_snapshot(tmp_path: Path) -> None:
    taken = snapshot(tmp_path)
    opened, copy = load_snapshot(taken.folder), pickle.loads(pickle.dumps(taken))
    faces = TrainingFaces(opened, SMALL, 0)
    assert opened.face_ids[2:9:3] == [taken.face_ids[row] for row in (2, 5, 8)] and copy.hash == taken.hash
    remove_faces_from_runs([taken.folder], [taken.face_ids[0]])
    for name in ("crops", "large_crops", "valid_bits", "embeddings", "landmarks"):
        assert np.array_equal(getattr(opened, name), getattr(taken, name))
    assert np.array_equal(opened.crops[6], shrink(picture(1, 2), 32))
    # a worker process that opens the snapshot only after the purge raises an error
    with pytest.raises(BadInput, match=r"changed while Likeness used it: run the same command again"):
        _ = pickle.loads(pickle.dumps(faces)).snapshot


def test_a_face_enlarged_too_far_is_a_reference_and_no_target(tmp_path: Path) -> None:
    recognizer = recognizer_onnx(tmp_path / "recognizer.onnx")
    made = dataset(tmp_path / "dataset", recognizer)
    small = face_of(0, 1, upsample=1.6 * 512 / 32)
    with Ledger.open(made, write=True) as ledger:
        ledger.record("double", "again", {}, [small])
    taken = take_snapshot(made, tmp_path / "snapshot", 32, models_of(recognizer))
    row = taken.face_ids.index(small.face_id)
    assert not taken.is_target[row] and len(taken.references[row]) == 0
    assert any(row in references for references in taken.references)
    assert plan_snapshot(made, 32)["left_out"] == {"too_small_in_its_photo": 1}


def test_near_duplicates_and_dropped_faces_never_appear(tmp_path: Path) -> None:
    recognizer = recognizer_onnx(tmp_path / "recognizer.onnx")
    made = dataset(tmp_path / "dataset", recognizer)
    copy = replace(face_of(0, 1), duplicate_of=face_of(0, 0).face_id)
    dropped = replace(face_of(0, 2), status="dropped", reason="too_blurred")
    with Ledger.open(made, write=True) as ledger:
        ledger.record("double", "again", {}, [copy, dropped])
    taken = take_snapshot(made, tmp_path / "snapshot", 32, models_of(recognizer))
    assert not {copy.face_id, dropped.face_id} & set(taken.face_ids)


def test_a_reference_of_another_person_or_split_stops_it(tmp_path: Path) -> None:
    recognizer = recognizer_onnx(tmp_path / "recognizer.onnx")
    made = dataset(tmp_path / "dataset", recognizer)
    leak = Pair(face_of(0, 0).face_id, (face_of(4, 0).face_id,), (0.9,), "nearest", "train")
    with Ledger.open(made, write=True) as ledger:
        ledger.record("double", "again", {}, [leak])
    with pytest.raises(LedgerBroken, match="another person"):
        take_snapshot(made, tmp_path / "snapshot", 32, models_of(recognizer))


def test_the_same_ledger_and_settings_reuse_it_and_a_change_does_not(tmp_path: Path) -> None:
    first = snapshot(tmp_path)
    marker = first.folder / "marker"
    marker.touch()
    # the snapshot already exists, so the second call needs no face models
    again = take_snapshot(tmp_path / "dataset", first.folder, 32)
    assert marker.exists() and again.hash == first.hash
    with Ledger.open(tmp_path / "dataset", write=True) as ledger:
        ledger.record("double", "again", {}, [face_of(0, 1, upsample=100)])
    changed = take_snapshot(tmp_path / "dataset", first.folder, 32, models_of(tmp_path / "recognizer.onnx"))
    assert not marker.exists() and changed.hash != first.hash
    assert not list(tmp_path.glob(".snapshot*"))


def test_a_run_whose_people_were_purged_is_told_to_train_anew(tmp_path: Path) -> None:
    taken = snapshot(tmp_path)
    assert remove_faces_from_runs([taken.folder.parent], {taken.face_ids[0]})["snapshots"] == 1
    models = models_of(tmp_path / "recognizer.onnx")
    with pytest.raises(BadInput, match=r"A purge or an opt-out removed .*: train again from the start, with another"):
        take_snapshot(tmp_path / "dataset", taken.folder, 32, models, replace=False)


def test_another_recognizer_than_recorded_is_refused(tmp_path: Path) -> None:
    recognizer = recognizer_onnx(tmp_path / "recognizer.onnx")
    made = dataset(tmp_path / "dataset", recognizer)
    other = recognizer_onnx(tmp_path / "other.onnx", seed=1)
    with pytest.raises(ModelUnavailable, match="put the old files of the recognizer back"):
        take_snapshot(made, tmp_path / "snapshot", 32, models_of(other))


def test_nothing_to_train_on_is_a_sentence(tmp_path: Path) -> None:
    recognizer = recognizer_onnx(tmp_path / "recognizer.onnx")
    made = dataset(tmp_path / "dataset", recognizer, photos=1)
    with pytest.raises(BadInput, match="a target needs another photo of the same person"):
        take_snapshot(made, tmp_path / "snapshot", 32, models_of(recognizer))
    with pytest.raises(BadInput, match="contains no snapshot"):
        load_snapshot(tmp_path)


@pytest.mark.slow
def test_training_needs_neither_ledger_nor_its_libraries(tmp_path: Path) -> None:
    taken = snapshot(tmp_path)
    shutil.rmtree(tmp_path / "dataset")
    script = f"""
import sys
for name in ("duckdb", "polars", "insightface", "onnxruntime", "faiss", "dlib"):
    sys.modules[name] = None  # importing it now fails
sys.path.insert(0, {str(REPOSITORY)!r})
from dataclasses import replace
from pathlib import Path
from train.fit.loop import train
from train.recipes.recipes import find_recipe
changes = {json.dumps({n: getattr(SMALL, n) for n in ("size", "channels", "reference_channels", "batch")})}
recipe = replace(find_recipe("tiny"), **{{k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}})
train(Path({str(tmp_path / "run")!r}), Path({str(taken.folder)!r}), recipe, 4, workers=0)
assert "pandas" not in sys.modules, "slow to import"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoint-00000004" / "model.safetensors").is_file()
