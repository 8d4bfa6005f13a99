"""Tests the degradation inside a pipeline of albumentations. The tests need the extra `albumentations`."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from degrade.operations.apply import apply, apply_to_pixels
from degrade.operations.pixels import to_float, to_uint8
from degrade.theta import check_theta
from manifests.errors import BadInput
from tests.doubles.frozen.lq_sets import toy_picture

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
A = pytest.importorskip("albumentations", reason="needs the extra albumentations", exc_type=ImportError)

from degrade.engines.albumentations import FaceDegradation  # noqa: E402


def test_a_replay_holds_theta_and_gives_the_same_picture() -> None:
    face, other = toy_picture(0, 96), toy_picture(1, 96)
    transform = A.ReplayCompose([A.HorizontalFlip(p=0.5), FaceDegradation("gfpgan")])
    for _ in range(4):
        first = transform(image=face)
        flip, ours = first["replay"]["transforms"]
        theta = ours["params"]["theta"]
        check_theta(json.loads(json.dumps(theta)))
        flipped = np.ascontiguousarray(face[:, ::-1]) if flip["applied"] else face
        assert np.array_equal(first["image"], apply_to_pixels(flipped, theta))
        assert np.array_equal(A.ReplayCompose.replay(first["replay"], image=face)["image"], first["image"])
        again = A.ReplayCompose.replay(first["replay"], image=other)["image"]
        assert np.array_equal(again, apply_to_pixels(other[:, ::-1] if flip["applied"] else other, theta))


def test_the_seed_of_the_pipeline_decides() -> None:
    face = toy_picture(0, 96)
    one, two = (A.Compose([FaceDegradation("codeformer")], seed=5) for _ in range(2))
    firsts = [one(image=face)["image"] for _ in range(3)]
    assert all(np.array_equal(first, two(image=face)["image"]) for first in firsts)
    assert not np.array_equal(firsts[0], firsts[1])
    assert not np.array_equal(firsts[0], A.Compose([FaceDegradation("codeformer")], seed=6)(image=face)["image"])


def test_float32_is_the_same_picture_as_uint8() -> None:
    face = toy_picture(2, 96)
    whole, floating = (A.Compose([FaceDegradation()], seed=1)(image=x)["image"] for x in (face, to_float(face)))
    assert whole.dtype == np.uint8 and floating.dtype == np.float32
    assert np.array_equal(to_uint8(floating), whole)


def test_only_the_named_pictures_are_degraded_and_by_one_theta() -> None:
    face, mask = toy_picture(3, 96), np.eye(96, dtype=np.uint8)
    more = {"target": "image", "second": "image"}
    result = A.Compose([FaceDegradation()], additional_targets=more)(image=face, target=face, second=face, mask=mask)
    assert np.array_equal(result["target"], face) and np.array_equal(result["mask"], mask)
    assert not np.array_equal(result["image"], face)
    named = A.ReplayCompose([FaceDegradation(only=("image", "second"))], additional_targets=more)
    result = named(image=face, target=face, second=face)
    assert np.array_equal(result["second"], result["image"]) and np.array_equal(result["target"], face)
    again = A.ReplayCompose.replay(result["replay"], image=face, target=face, second=face)
    assert all(np.array_equal(again[name], result[name]) for name in ("image", "second", "target"))
    away = A.Compose([FaceDegradation(only=("lq",))], additional_targets={"lq": "image"})(image=face, lq=face)
    assert np.array_equal(away["image"], face) and not np.array_equal(away["lq"], face)
    stack = np.stack([face, face])
    degraded = A.Compose([FaceDegradation()])(images=stack)["images"]
    assert np.array_equal(degraded[0], degraded[1]) and not np.array_equal(degraded[0], face)


def test_it_is_described_and_made_again_from_its_description() -> None:
    made = A.from_dict(A.to_dict(A.Compose([FaceDegradation("codeformer", p=0.25)], seed=3)))
    (transform,) = made.transforms
    assert (transform.preset, transform.only, transform.p) == ("codeformer", ("image", "images"), 0.25)
    assert FaceDegradation(p=0)(image=toy_picture(4))["image"].shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.zeros((64, 64), np.uint8), "gray"),
        (np.zeros((64, 64, 4), np.uint8), "RGBA"),
        (np.zeros((64, 64, 3), np.uint16), "uint16"),
        (np.full((64, 64, 3), 2, np.float32), "0 to 1"),
    ],
)
def test_what_cannot_be_degraded_is_one_sentence(picture: np.ndarray, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        FaceDegradation()(image=picture)
    with pytest.raises(BadInput, match="the presets are"):
        FaceDegradation("best")


def test_theta_outside_the_pipeline_is_the_same_engine() -> None:
    face = to_float(toy_picture(5, 96))
    result = A.ReplayCompose([FaceDegradation()])(image=face)
    assert np.array_equal(result["image"], apply(face, result["replay"]["transforms"][0]["params"]["theta"]))
