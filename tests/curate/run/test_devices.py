"""Tests curation on a device other than the CPU. The devices of the tests use onnxruntime's CPU provider."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnxruntime
import pytest

from curate.cli import describe_summary
from curate.config import CurateConfig
from curate.detection.read_photos import gather_photos
from curate.faces import load
from curate.faces.errors import NoSuchDevice
from curate.faces.load import load_faces
from curate.faces.models.insightface_models import load_insightface
from curate.faces.networks import devices
from curate.faces.networks.devices import CPU, Device
from curate.faces.networks.network import Network
from curate.run.pipeline import curate
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face, Membership
from tests.doubles.commands.command_tables import call_curate
from tests.doubles.curation import album, curated, install, models, rows, use_models
from tests.doubles.faces.face_models import PACK, shared
from tests.places import SHARED

GPU = Device("cuda", "CPUExecutionProvider", "onnxruntime-gpu", photos=3, faces=4, memory="cpu")


def test_photos_are_searched_in_groups_and_the_ledger_names_the_device(tmp_path, monkeypatch):
    install(monkeypatch)
    photos, groups, plain = album(tmp_path / "photos", each=2), list[int](), models("double")
    network = SimpleNamespace(batch=3, device=GPU, notices=[])

    def detect_many(images, eyes):
        groups.append(len(images))
        return [plain.detect(image) for image in images]

    def fail_once(crops: np.ndarray) -> np.ndarray:
        if len(groups) == 3:  # the third group of photos is embedded after the device failed
            network.device, network.notices = CPU, ["The device cuda failed."]
        return plain.embed(crops)

    grouped = replace(plain, networks=(network,), detect=None, detect_many=detect_many, embed=fail_once)
    use_models(monkeypatch, lambda spec: grouped)
    monkeypatch.setattr("curate.detection.detect.PHOTOS_A_BATCH", 5)
    monkeypatch.setattr("curate.photos.batches.LEAST_A_BATCH", 5)
    summary = curated(photos, tmp_path / "dataset")
    assert groups == [3, 2, 3]  # eight photos in two batches, of five and of three photos
    assert summary.devices == {"cpu": 3, "cuda": 5} and "The device cuda failed." in summary.notices
    assert "on cpu (3 faces), cuda (5 faces)" in describe_summary(summary, tmp_path)
    with Ledger.open(tmp_path / "dataset") as ledger:
        told = ledger.query("SELECT embedding_device, count(*) FROM faces GROUP BY 1 ORDER BY 1").rows()
    assert told == [("cpu", 3), ("cuda", 5)]
    use_models(monkeypatch, models)
    alone = curated(photos, tmp_path / "alone")
    assert alone.devices == {"cpu": 8} and "on the device cpu" in describe_summary(alone, tmp_path)

    def describe(face: Face) -> Face:
        return replace(face, shard=None, shard_row=None, embedding_device=None)

    assert list(map(describe, rows(tmp_path / "alone", Face))) == list(map(describe, rows(tmp_path / "dataset", Face)))


def test_if_only_the_recognizer_fails_every_process_keeps_the_detector_on_the_device(tmp_path, monkeypatch):
    install(monkeypatch)
    photos, plain, asked = album(tmp_path / "photos", people=2, each=2), models("double"), list[tuple[str, str]]()
    note = "The device cuda could not be started (no memory), so the recognizer runs on the CPU."
    networks = (
        SimpleNamespace(batch=1, device=GPU, notices=[]),
        SimpleNamespace(batch=1, device=CPU, notices=[note]),
    )
    failed = replace(plain, networks=networks, device_to_load="cuda")

    def load(stage: str):
        def load_once(spec: str, device: str = "cpu"):
            asked.append((stage, device))
            return failed

        return load_once

    use_models(monkeypatch, lambda spec: failed)
    for stage in ("detect", "embed"):
        monkeypatch.setattr(f"curate.detection.{stage}.load_faces_once", load(stage))
    summary = curated(photos, tmp_path / "dataset")
    for shard in (tmp_path / "dataset" / "embeddings").iterdir():
        shard.unlink()
    curated(photos, tmp_path / "dataset")  # embeds the faces of the lost shard again
    assert set(asked) == {("detect", "cuda"), ("embed", "cuda")}
    assert summary.devices == {"cpu": 4} and summary.notices.count(note) == 1


def test_the_last_group_is_searched_while_its_last_photo_is_guarded():
    guarded = list[int]()

    def read(count: int):
        for number in range(count):
            guarded.append(number)
            yield SimpleNamespace(width=8, height=8), np.zeros((8, 8, 3), np.uint8)
        guarded.append(-1)

    ends = [(len(group), guarded[-1]) for group in gather_photos(read(5), 5, 3)]
    assert ends == [(3, 2), (2, 4)]


def test_an_error_of_a_group_fails_only_the_photo_that_causes_it(tmp_path, monkeypatch):
    install(monkeypatch)
    photos, plain = album(tmp_path / "photos", people=2, each=2), models("double")
    broken = cv2.imread(str(photos / "person0" / "1.png"))[:, :, ::-1]

    def detect(image: np.ndarray):
        if np.array_equal(image, broken):
            raise ValueError("broken")
        return plain.detect(image)

    network = SimpleNamespace(batch=5, device=GPU, notices=[])
    failing = replace(
        plain, networks=(network,), detect=detect, detect_many=lambda images, eyes: [detect(image) for image in images]
    )
    use_models(monkeypatch, lambda spec: failing)
    assert curated(photos, tmp_path / "dataset").photos == {"detector_failed": 1, "ok": 3}


@pytest.fixture(autouse=True)
def forget_models() -> Iterator[None]:
    """Forgets the face models that other tests loaded in this process on other devices."""
    load._load.cache_clear()
    yield
    load._load.cache_clear()


@shared
def test_a_device_gives_the_same_faces_crops_and_people_as_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr("manifests.privacy.keys.create_key", lambda: bytes(32))
    monkeypatch.setitem(devices.DEVICES, "cuda", GPU)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    batches: dict[str, list[int]] = {"detector": [], "recognizer": []}
    run_part = Network._run_part

    def watched(self: Network, name: str, pictures: np.ndarray) -> list[np.ndarray]:
        if self.device is GPU:
            batches[self.role].append(len(pictures))
        return run_part(self, name, pictures)

    monkeypatch.setattr(Network, "_run_part", watched)
    photos = sorted((SHARED / "photos" / "madonna").iterdir())
    photos = [path for path in photos if path.stat().st_size < 60_000][:3]
    turned = tmp_path / "turned.png"
    cv2.imwrite(str(turned), np.rot90(cv2.imread(str(photos[0]))))
    found = {}
    for device in ("cpu", "auto"):
        dataset = tmp_path / device
        summary = curate([*photos, turned], dataset, CurateConfig(faces=PACK), device=device)
        with Ledger.open(dataset) as ledger:
            ids, vectors = ledger.read_embeddings()
        found[device] = (_read_faces(dataset), rows(dataset, Membership), ids, vectors, summary)
    on_cpu, on_gpu = found["cpu"], found["auto"]
    assert on_cpu[:3] == on_gpu[:3] and len(on_cpu[2]) == 3
    assert np.abs(on_cpu[3] - on_gpu[3]).max() <= 1e-5
    assert on_gpu[4].devices == {"cuda": 4} and on_cpu[4].devices == {"cpu": 4}  # three faces, and a copy of one
    assert max(batches["detector"]) == 3 and max(batches["recognizer"]) == 4


def _read_faces(dataset: Path) -> list[Face]:
    """Returns the faces without the columns that a device may change. `crop_sha256` shows that the crops are equal."""
    parts = {"shard": None, "shard_row": None, "embedding_device": None, "embedding_norm": None}
    return [replace(face, **parts) for face in rows(dataset, Face)]


@shared
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_device_that_does_not_start_leaves_both_networks_on_the_cpu_and_says_so():
    loaded = load_insightface(PACK.removeprefix("insightface:"), device=replace(GPU, provider="CUDAExecutionProvider"))
    assert [network.device for network in loaded.networks] == [CPU, CPU] and loaded.device == "cpu"
    assert loaded.device_to_load == "cpu"  # no other process tries the device again
    detector, recognizer = loaded.list_failures()
    assert "could not be started" in detector and "The recognizer" in recognizer and "on the CPU" in recognizer


@shared
def test_a_recognizer_that_does_not_start_leaves_the_detector_on_the_device(monkeypatch):
    start, device = Network._start, replace(GPU, provider="CUDAExecutionProvider")

    def start_detector_alone(self: Network):
        if self.device is CPU:
            return start(self)
        if self.role == "recognizer":
            raise RuntimeError("no memory")
        self.device = GPU  # the double of a device that starts
        try:
            return start(self)
        finally:
            self.device = device

    monkeypatch.setattr(Network, "_start", start_detector_alone)
    loaded = load_insightface(PACK.removeprefix("insightface:"), device=device)
    assert [network.device for network in loaded.networks] == [device, CPU]
    assert loaded.device_to_load == "cuda" and loaded.device == "cpu"
    assert loaded.list_failures() == (
        "The device cuda could not be started (no memory), so the recognizer runs on the CPU.",
    )


def test_with_dlib_a_note_says_that_a_device_has_no_effect(monkeypatch):
    monkeypatch.setattr("curate.faces.load.load_dlib", lambda: models("double"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    (note,) = load_faces("dlib", device="cuda").notices
    assert "--device cuda has no effect" in note
    assert load_faces("dlib", device="auto").notices == ()


def test_a_device_that_is_not_installed_is_refused_before_anything_is_written(tmp_path):
    photos = album(tmp_path / "photos", people=1, each=1)
    result = call_curate(photos, "--out", tmp_path / "dataset", "--device", "cuda", "--dry-run")
    assert isinstance(result.exception, NoSuchDevice) and "onnxruntime-gpu" in str(result.exception)
    with pytest.raises(NoSuchDevice, match="Give auto, cpu, cuda"):
        curate([photos], tmp_path / "dataset", CurateConfig(faces="dlib"), device="tpu")
    assert not (tmp_path / "dataset").exists()
