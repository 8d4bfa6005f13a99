"""Tests the measured rows, the reasons for missing metrics, and in which order each metric ranks images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from curate.faces.align import FFHQ_512, align_face
from curate.faces.interface import Detection
from curate.faces.load import load_faces
from degrade.operations.apply import apply_to_pixels
from degrade.presets import find_preset
from manifests.errors import BadInput
from manifests.pictures.images import decode
from tests.doubles.faces.colour_judge import judge, photo
from tests.doubles.models.weights import random_alexnet, random_resnet18_110, random_vgg16
from train.evaluation.results.aggregate import average_systems
from train.losses.backbones import get_file_name
from train.metrics.landmarks import find_5_points
from train.metrics.measure import build_measure, explain_missing
from train.metrics.registry import METRICS

WITHOUT_WEIGHTS = ["psnr", "ssim", "ms_ssim", "id_target", "id_references", "deg_judge", "l2_ld", "copy_ratio"]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a download"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_resnet18_110(random_alexnet(random_vgg16(tmp_path_factory.mktemp("weights"))))


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), sigma)


# --- the table ---


def test_every_row_says_how_it_is_computed() -> None:
    for name, metric in METRICS.items():
        assert metric.title and metric.convention and metric.source, name
        assert metric.better in ("higher", "lower", "") and metric.scope in ("image", "set", "wrong"), name
        assert not metric.convention.endswith(".") and "\n" not in metric.convention, name
        assert metric.nan_reason or not metric.min_side, name
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)


def test_what_is_ours_is_called_ours_and_the_two_degs_are_named_apart() -> None:
    for name, metric in METRICS.items():
        if name.startswith("ald_") or name == "l2_ld":
            assert "(ours)" in metric.title
    assert "dlib" in METRICS["lmd"].title and "98 points" in METRICS["lmd"].convention
    assert METRICS["deg_published"].title == "Deg" and METRICS["deg_judge"].title == "Deg (judge)"


# --- metrics that are missing ---


def test_all_that_cannot_be_had_is_a_reason_and_the_rest_is_measured(tmp_path: Path) -> None:
    measure, reasons = build_measure(None, judge(), tmp_path)
    row = measure(photo(0, 1), photo(0, 0), [photo(0, 2)], lq=photo(0, 3))
    assert set(WITHOUT_WEIGHTS) <= set(row) and set(row) | set(reasons) == set(METRICS) - {"takeover", "ntire"}
    assert {"lpips", "lpips_alex", "dists", "fid", "fid_folder", "deg_published", "musiq"} <= set(reasons)
    for name, reason in reasons.items():
        assert name not in row and reason.endswith(".") and "\n" not in reason
        assert reason == explain_missing(name, tmp_path)
        assert "--weights FOLDER" in reason or "pip install" in reason or "hf download" in reason


def test_with_weights_every_picture_metric_is_there(weights: Path) -> None:
    names = ["lpips", "lpips_alex", "dists", "deg_published"]
    measure, reasons = build_measure(names, judge(), weights)
    row = measure(photo(0, 1), photo(0, 0), [])
    assert reasons == {} and list(row) == names and all(value > 0 for value in row.values())
    assert measure(photo(0, 0), photo(0, 0), [])["lpips"] == 0


def test_a_file_that_does_not_fit_is_a_reason_too(tmp_path: Path) -> None:
    (tmp_path / get_file_name("vgg16")).write_text("not found")
    (tmp_path / "resnet18_110.pth").write_text("not found")
    measure, reasons = build_measure(["psnr", "lpips", "dists", "deg_published"], judge(), tmp_path)
    assert set(reasons) == {"lpips", "dists", "deg_published"} and "does not contain" in reasons["lpips"]
    assert list(measure(photo(0, 1), photo(0, 0), [])) == ["psnr"]


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    for name in ("psnr2", ""):
        with pytest.raises(BadInput, match=r"the metrics are psnr, ssim"):
            build_measure([name], judge(), None)
    with pytest.raises(BadInput, match="is not a folder"):
        build_measure(["lpips"], judge(), tmp_path / "nowhere")
    measure, _ = build_measure(["psnr"], judge(), None)
    with pytest.raises(BadInput, match="resize the restored image to the size of the target"):
        measure(photo(0, 0, 64), photo(0, 0, 128), [])
    for wrong in (
        np.full((64, 64, 3), np.nan, np.float32),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 32, 3), np.uint8),
    ):
        with pytest.raises(BadInput, match="square RGB image of type uint8"):
            measure(wrong, photo(0, 0, 64), [])


def test_a_figure_that_one_image_does_not_have_is_not_a_number() -> None:
    measure, _ = build_measure(["psnr", "ssim", "l2_ld", "id_references", "copy_ratio", "face_restored"], judge(), None)
    target = photo(0, 0, 8)
    row = measure(target, target, [])
    assert row["psnr"] == 100 and all(math.isnan(row[name]) for name in ("ssim", "id_references", "copy_ratio"))
    row = measure(np.full((64, 64, 3), 90, np.uint8), photo(0, 0, 64), [photo(0, 1, 64)])
    assert row["face_restored"] == 0 and math.isnan(row["l2_ld"]) and not math.isnan(row["id_references"])
    for name in ("ssim", "l2_ld", "id_references", "copy_ratio"):
        assert METRICS[name].nan_reason


def test_takeover_is_measured_where_wrong_references_are_given() -> None:
    measure, reasons = build_measure(["psnr", "takeover"], judge(), None)
    target, wrong = photo(0, 0), [photo(1, 0), photo(1, 1)]
    assert reasons == {} and list(measure(target, target, [])) == ["psnr"]
    assert measure(target, target, [], wrong)["takeover"] == 0
    assert measure(wrong[1], target, [], wrong)["takeover"] == 1


def test_a_picture_that_comes_again_is_looked_at_once() -> None:
    faces, seen = judge(), []
    counted = replace(faces, embed=lambda chips: seen.append(len(chips)) or faces.embed(chips))
    measure, _ = build_measure(["id_target", "id_references", "copy_ratio", "deg_judge"], counted, None)
    first = measure(photo(0, 3), photo(0, 0), [photo(0, 1), photo(0, 2)])
    assert sum(seen) == 4
    assert measure(photo(0, 3), photo(0, 0), [photo(0, 1), photo(0, 2)]) == first and sum(seen) == 4


def test_the_five_landmarks_are_at_512_px_whatever_the_size() -> None:
    measure, _ = build_measure(["l2_ld"], judge(), None)
    target = photo(0, 0)
    brighter = np.clip(target.astype(int) + 20, 0, 255).astype(np.uint8)
    by_hand = (brighter.mean() - target.mean()) / 20 * (512 / 128)
    assert measure(brighter, target, [])["l2_ld"] == pytest.approx(by_hand, abs=1e-4)
    np.testing.assert_allclose(find_5_points(target, judge())[:, 1], FFHQ_512[:, 1], atol=1e-4)


# --- Deg, LMD and L2-LD by hand ---


def test_deg_is_in_degrees_and_its_mean_leaves_out_pairs_below_one_degree(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(weights: Path | None) -> Callable[[np.ndarray], np.ndarray]:
        # The angle in degrees is half the level of the first pixel. The length of the vector does not matter.
        def embed(image: np.ndarray) -> np.ndarray:
            angle = math.radians(float(image[0, 0, 0]) / 2)
            return 7 * np.array([math.cos(angle), math.sin(angle)])

        return embed

    monkeypatch.setattr("train.metrics.networks.deg_recognizer.explain_missing", lambda weights: None)
    monkeypatch.setattr("train.metrics.networks.deg_recognizer.load_deg_recognizer", load)
    measure, _ = build_measure(["deg_published"], judge(), None)
    target, *restored = (np.full((64, 64, 3), level, np.uint8) for level in (0, 1, 60, 120))
    rows = [
        {**measure(image, target, []), "face_id": str(number), "identity_id": str(number), "reason": None}
        | {"key": "0", "system": ""}
        for number, image in enumerate(restored)
    ]
    # The angles are 0.5, 30 and 60 degrees. Because 0.5 does not count, the mean is (30 + 60) / 2.
    (average,) = average_systems(rows, ["deg_published"], 0)
    assert average["deg_published"]["mean"] == pytest.approx(45) and average["deg_published"]["images"] == 2


def test_lmd_is_a_mean_over_68_points_in_pixels_of_512_without_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    target, restored = photo(0, 0), photo(0, 1)
    apart = np.zeros((68, 2))
    apart[:17] = [3, 4]  # 17 points are 5 px apart.
    apart[17:34] = [-8, 6]  # Another 17 points are 10 px apart, and 34 points coincide.
    for scale in (1, 2):
        places = np.random.default_rng(0).uniform(100, 400, (68, 2)) * scale

        def find(image: np.ndarray, places: np.ndarray = places, scale: int = scale) -> np.ndarray:
            return places + apart * scale * np.array_equal(image, restored)

        monkeypatch.setattr("train.metrics.readers.find_68_points", find)
        measure, _ = build_measure(["lmd"], judge(), None)
        assert measure(restored, target, [])["lmd"] == pytest.approx(scale * (17 * 5 + 17 * 10) / 68)


def test_l2_ld_is_a_mean_over_five_points_in_pixels_of_512_without_normalisation() -> None:
    target, restored = photo(0, 0, 64), photo(0, 1, 64)
    apart = np.array([[0, 0], [3, 4], [0, 1], [6, 8], [0, 0]])  # 0, 5, 1, 10 and 0 px apart in the 64 px crop

    def detect(image: np.ndarray) -> list[Detection]:
        points = FFHQ_512 / 8 + apart * np.array_equal(image, restored)
        return [Detection(np.array([0, 0, 9, 9], np.float32), points, 0.9)]

    measure, _ = build_measure(["l2_ld"], replace(judge(), detect=detect), None)
    # A pixel of the 64 px crop is 8 pixels of a 512 px crop.
    assert measure(restored, target, [])["l2_ld"] == pytest.approx(8 * (0 + 5 + 1 + 10 + 0) / 5, abs=1e-4)


# --- the order in which each metric ranks images ---


def test_the_target_the_blurred_target_the_lq_and_a_reference_pasted_in(weights: Path) -> None:
    names = [*WITHOUT_WEIGHTS, "lpips", "lpips_alex", "dists", "deg_published"]
    measure, _ = build_measure(names, judge(), weights)
    target, references = photo(0, 0), [photo(0, 1), photo(0, 2)]
    noise = np.random.default_rng(5).normal(0, 4, target.shape)
    lq = np.clip(blurred(target, 4) + noise, 0, 255).astype(np.uint8)
    rows = {
        name: measure(image, target, references)
        for name, image in (("target", target), ("blurred", blurred(target, 2)), ("lq", lq), ("pasted", references[0]))
    }

    def order(metric: str, *systems: str) -> None:
        found = [rows[system][metric] for system in systems]
        worst_last = sorted(found, reverse=METRICS[metric].better == "higher")
        assert found == worst_last and len(set(found)) == len(found), (metric, rows)

    for metric in ("psnr", "ssim", "ms_ssim"):
        order(metric, "target", "blurred", "lq", "pasted")
    for metric in ("lpips", "lpips_alex", "dists", "deg_judge", "deg_published", "id_target"):
        for other in ("blurred", "lq", "pasted"):
            # The published Deg gives NaN for the target itself.
            if metric == "deg_published":
                assert math.isnan(rows["target"][metric]) and rows[other][metric] > 1
            else:
                order(metric, "target", other)
    order("id_target", "target", "blurred", "pasted")
    assert rows["target"]["l2_ld"] == rows["target"]["deg_judge"] == 0
    # The pasted reference has the highest identity to references, and its copy ratio shows that it is a copy.
    assert max(rows, key=lambda system: rows[system]["id_references"]) == "pasted"
    assert rows["pasted"]["copy_ratio"] == pytest.approx(1) and rows["target"]["copy_ratio"] == 0
    assert max(rows["blurred"]["copy_ratio"], rows["lq"]["copy_ratio"]) < 0.1


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.exhaustive
def test_on_real_people(shared_data: Path) -> None:
    """Tests the means over eight people, with all metrics that need only face models."""
    faces = load_faces(f"insightface:{shared_data / 'weights' / 'insightface_small'}")
    from_68 = ["lmd", "ald_eyes", "ald_mouth", "ald_eyes_mean", "ald_mouth_mean", "ald_eyes_affine", "ald_mouth_affine"]
    names = [*WITHOUT_WEIGHTS, "face_restored", *from_68]
    measure, reasons = build_measure(names, faces, None)
    assert reasons == {}
    rows: dict[str, list[dict[str, float]]] = {}
    preset = find_preset("codeformer")
    for number, folder in enumerate(sorted((shared_data / "people_crops").iterdir())[::6]):
        crops = []
        for path in sorted(folder.glob("*.jpg"))[:6]:
            photo_of = decode(path)
            found = faces.detect(photo_of)
            if found:
                crops.append(align_face(photo_of, found[0].landmarks5, FFHQ_512, 256 * 2)[::2, ::2].copy())
        target, *references = crops[:4]
        lq = apply_to_pixels(target, preset.sample(np.random.default_rng(number)))
        shown = {"target": target, "blurred": blurred(target, 2), "lq": lq, "pasted": references[0]}
        for system, image in shown.items():
            rows.setdefault(system, []).append(measure(image, target, references))
    mean = {
        system: {name: float(np.nanmean([row[name] for row in own])) for name in names} for system, own in rows.items()
    }
    for name in ("psnr", "ssim", "ms_ssim"):
        assert mean["target"][name] > mean["blurred"][name] > mean["lq"][name] > mean["pasted"][name], mean
    assert mean["target"]["id_target"] > mean["blurred"]["id_target"] > mean["pasted"]["id_target"], mean
    assert mean["pasted"]["id_references"] == max(row["id_references"] for row in mean.values())
    assert mean["pasted"]["copy_ratio"] == pytest.approx(1, abs=1e-5) and mean["target"]["copy_ratio"] == 0
    assert max(mean["blurred"]["copy_ratio"], mean["lq"]["copy_ratio"]) < 0.15, mean
    for name in ("deg_judge", "l2_ld", *from_68):
        assert mean["target"][name] < 1e-5 < mean["blurred"][name] < mean["pasted"][name], (name, mean)
    assert mean["target"]["face_restored"] == 1


def test_pixels_outside_the_photo_change_no_metric() -> None:
    names = ["psnr", "ssim", "ms_ssim", "id_target", "same_person", "face_restored", "l2_ld"]
    measure, _ = build_measure(names, judge(), None)
    target, restored = photo(0, 0, 64), photo(0, 1, 64)
    valid = np.ones((64, 64), bool)
    valid[:20] = False
    other = restored.copy()
    other[:20] = 255 - other[:20]
    assert measure(restored, target, [], valid=valid) == measure(other, target, [], valid=valid)
    by_hand = 10 * np.log10(255**2 / np.square(restored[20:].astype(float) - target[20:]).mean())
    assert measure(restored, target, [], valid=valid)["psnr"] == pytest.approx(by_hand, abs=1e-3)
    whole = measure(restored, target, [])
    assert measure(restored, target, [], valid=np.ones((64, 64), bool)) == pytest.approx(whole, abs=1e-5)


def test_a_face_counts_as_the_person_from_the_judges_threshold_on() -> None:
    measure, _ = build_measure(["id_target", "same_person"], judge(), None)
    for other in (photo(0, 1), photo(3, 1)):
        row = measure(other, photo(0, 0), [])
        assert row["same_person"] == float(row["id_target"] >= judge().same_person)
