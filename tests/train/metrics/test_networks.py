"""Tests the metrics AdaFace, AWing and Q-Align. Small networks and functions take the place of the real networks."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from manifests.errors import BadInput
from tests.doubles.faces.colour_judge import judge, photo
from train.metrics.measure import build_measure, explain_missing
from train.metrics.networks import qalign
from train.metrics.networks.adaface import OTHERS, STATE, Ir, IrShape, load_adaface, prepare_input
from train.metrics.networks.awing import FILES, MAP, POINTS, load_awing, read_points

SMALL = IrShape(widths=(4, 4, 8, 8), units=(1, 2, 1, 1), stem=4, dim=16)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)


# --- AdaFace ---


def write_checkpoint(folder: Path) -> Ir:
    torch.manual_seed(0)
    network = Ir(SMALL).eval()
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    content = {"state_dict": state | {"head.kernel": torch.zeros(3)}, "hyper_parameters": argparse.Namespace(m=0.4)}
    torch.save(content, folder / STATE)
    return network


def write_onnx(folder: Path) -> None:
    """Writes an ONNX file whose network returns 4 x 4 mean colours of the crop, (1, 48)."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["means"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["means"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, 112])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 48])
    graph = helper.make_graph(nodes, "means", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / OTHERS[0])


def test_ir_50_has_adafaces_tensors() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Ir().state_dict().items() if "num_batches" not in name}
    # The names and shapes are those in net.py of mk-minchul/AdaFace.
    assert shapes["input_layer.0.weight"] == (64, 3, 3, 3) and shapes["output_layer.3.weight"] == (512, 512 * 49)
    assert (
        shapes["body.3.shortcut_layer.0.weight"] == (128, 64, 1, 1) and "body.0.shortcut_layer.0.weight" not in shapes
    )
    assert shapes["body.23.res_layer.4.weight"] == (512, 512, 3, 3) and "body.24.res_layer.4.weight" not in shapes
    assert "output_layer.4.weight" not in shapes and shapes["output_layer.4.running_mean"] == (512,)


def test_a_checkpoint_of_adaface_is_read_and_its_input_is_bgr(tmp_path: Path) -> None:
    network, image = write_checkpoint(tmp_path), photo(0, 0)
    crop = prepare_input(image)
    with torch.inference_mode():
        expected = network(crop)[0].numpy()
    assert np.array_equal(load_adaface(tmp_path, SMALL)(image), expected)
    red = prepare_input(np.full((64, 64, 3), (255, 0, 51), np.uint8))
    assert red.shape == (1, 3, 112, 112)
    assert red[0, :, 56, 56].tolist() == pytest.approx([-0.6, -1, 1], abs=1e-6)  # blue, green, red


def test_a_checkpoint_without_a_dict_of_tensors_is_a_sentence(tmp_path: Path) -> None:
    torch.save({"state_dict": [1, 2]}, tmp_path / STATE)
    with pytest.raises(BadInput, match=r"The entry state_dict of .* is no dict of tensors"):
        load_adaface(tmp_path)


def test_adaface_measures_identity_to_the_input_and_the_angle_to_the_target(tmp_path: Path) -> None:
    write_onnx(tmp_path)
    measure, reasons = build_measure(["deg_adaface", "id_input_adaface"], judge(), tmp_path)
    restored, target, lq = photo(0, 1), photo(0, 0), photo(1, 0)
    row = measure(restored, target, [], lq=lq)

    def mean_colours(image: np.ndarray) -> np.ndarray:
        return prepare_input(image)[0].reshape(3, 4, 28, 4, 28).mean((2, 4)).numpy().ravel()

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        a, b = mean_colours(one), mean_colours(other)
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert reasons == {} and row["id_input_adaface"] == pytest.approx(cosine(restored, lq), abs=1e-5)
    assert row["deg_adaface"] == pytest.approx(math.degrees(math.acos(cosine(restored, target))), abs=1e-2)
    assert set(measure(restored, None, [], lq=lq)) == {"id_input_adaface"}


# --- AWing ---


class Bright(torch.nn.Module):
    """Returns heatmaps like facexlib's network. Map number n has the brightness of the image, moved up by n % 3
    rows."""

    def forward(self, image: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        small = torch.nn.functional.avg_pool2d(image.mean(1), 4)
        maps = torch.stack([torch.roll(small, -(number % 3), 1) for number in range(99)], 1)
        return [torch.zeros_like(maps), maps], [maps[:, :1]]


def dot(x: int, y: int) -> np.ndarray:
    image = np.zeros((512, 512, 3), np.uint8)
    image[y, x] = 255
    return np.asarray(cv2.dilate(image, np.ones((9, 9), np.uint8)))


def test_lmd_is_the_mean_distance_of_98_points(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Bright()), str(tmp_path / FILES[0]))
    points = load_awing(tmp_path)(dot(204, 300))
    assert points.shape == (POINTS, 2) and np.abs(points[0] - (204, 300)).max() <= 4
    assert points[1] == pytest.approx(points[0] - (0, 8)) and points[3] == pytest.approx(points[0])
    measure, reasons = build_measure(["lmd_awing"], judge(), tmp_path)
    # A dot that moved by 24 px and 32 px moved by 40 px. The judge's detector is not called.
    assert reasons == {} and measure(dot(228, 332), dot(204, 300), [])["lmd_awing"] == pytest.approx(40)


def points_by_facexlib(heatmaps: np.ndarray) -> np.ndarray:
    """Computes the points by facexlib's formula, one after the other."""
    flats = [one.ravel() for one in heatmaps]
    best = [int(flat.argmax()) for flat in flats]
    is_low, is_high = any(one + MAP >= 4096 for one in best), any(one - MAP <= 0 for one in best)
    found = []
    for flat, one in zip(flats, best, strict=True):
        x = np.sign(flat[one + 1] - flat[one - 1])
        y = np.sign((flat[4095] if is_low else flat[one + MAP]) - (flat[0] if is_high else flat[one - MAP]))
        found.append((one % MAP + 0.25 * x + 0.5, one // MAP + 0.25 * y + 0.5))
    return np.array(found)


@pytest.mark.parametrize("row", [30, 0, 63])
def test_points_are_read_from_heatmaps_as_facexlib_does(row: int) -> None:
    heatmaps = np.random.default_rng(0).uniform(size=(POINTS, MAP, MAP))
    heatmaps[:, 1, :] = heatmaps[:, 62, :] = heatmaps[:, 0, :] = heatmaps[:, 63, :] = 0
    heatmaps[5, row, 20] = 2
    assert np.array_equal(read_points(heatmaps), points_by_facexlib(heatmaps))


# --- files that are missing or wrong ---


@pytest.mark.parametrize("name", ["deg_adaface", "id_input_adaface", "lmd_awing"])
def test_a_missing_file_is_a_sentence(tmp_path: Path, name: str) -> None:
    reason = explain_missing(name, tmp_path)
    assert reason is not None and reason.endswith("--weights FOLDER.") and "\n" not in reason


@pytest.mark.parametrize(
    ("file", "name"),
    [(STATE, "deg_adaface"), (OTHERS[0], "deg_adaface"), (FILES[0], "lmd_awing"), (FILES[1], "lmd_awing")],
)
def test_a_file_of_another_network_is_a_sentence(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).write_text("not found")
    reason = build_measure([name], judge(), tmp_path)[1][name]
    assert str(tmp_path / file) in reason and reason.endswith(".") and "\n" not in reason


def test_another_output_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Identity()), str(tmp_path / FILES[0]))
    with pytest.raises(BadInput, match=r"its output has the shape \(1, 3, 256, 256\), not \(1, 99, 64, 64\)"):
        load_awing(tmp_path)
    torch.save({"state_dict": {"model.conv": torch.zeros(1)}}, tmp_path / STATE)
    with pytest.raises(BadInput, match="lacks"):
        load_adaface(tmp_path, SMALL)


# --- Q-Align ---


def test_q_align_is_pyiqas_and_is_never_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyiqa")
    from huggingface_hub import constants
    from pyiqa.models import inference_model

    reason = explain_missing("qalign", tmp_path)
    assert (
        reason == "The model q-future/one-align is missing: download its 15 GB with `hf download q-future/one-align`."
    )
    asked: list[tuple[str, bool]] = []

    def load(name: str, device: str) -> object:
        asked.append((name, constants.HF_HUB_OFFLINE))
        return lambda images: images.mean((1, 2, 3), keepdim=True) * len(images)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tmp_path / "config.json"))
    monkeypatch.setattr(inference_model, "InferenceModel", load)
    images = torch.rand(2, 3, 8, 8)
    assert qalign.load_qalign(None)(images) == pytest.approx([float(one.mean()) for one in images])
    assert asked == [("qalign", True)]
