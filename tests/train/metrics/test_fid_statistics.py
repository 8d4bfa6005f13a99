"""Tests FID's conventions and statistics: agreement with public libraries, the layouts of files, and wrong files."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance as clean_fids_distance
from cleanfid.resize import build_resizer
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from manifests.errors import BadInput
from train.metrics.fid.conventions import CONVENTIONS, describe_resizing
from train.metrics.fid.statistics import Statistics, compute_distance, read_statistics, write_statistics

WEIGHTS = "a" * 64
D = 12  # the number of features in these tests


def features(count: int, seed: int) -> np.ndarray:
    mix = np.random.default_rng(9).normal(size=(D, D))
    return np.random.default_rng(seed).normal(0.1 * seed, 1, (count, D)) @ mix


def statistics(count: int = 50, seed: int = 1) -> Statistics:
    rows = features(count, seed)
    return Statistics(rows.mean(0), np.cov(rows, rowvar=False), count)


def written(path: Path, convention: str = "clean-fid") -> Path:
    path.write_bytes(write_statistics(statistics(), convention, WEIGHTS))
    return path


# --- agreement with public libraries ---


def library_resizings(image: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what each library gives to its network, (3, 299, 299)."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    tensorflow = interpolate_bilinear_2d_like_tensorflow1x(planes.float(), (299, 299), align_corners=False)
    return {
        "torch-fidelity": (tensorflow[0].numpy() - 128) / 128,
        "pytorch-fid": build_resizer("legacy_pytorch")(image).transpose(2, 0, 1) / 127.5 - 1,
        "clean-fid": (build_resizer("clean")(image).transpose(2, 0, 1) - 128) / 128,
    }


def check_resizings(image: np.ndarray) -> None:
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    ours = {name: convention.prepare(planes)[0].numpy() for name, convention in CONVENTIONS.items()}
    for name, expected in library_resizings(image).items():
        assert np.abs(ours[name] - expected).max() < 1e-6, name
    names = list(ours)
    apart = [np.abs(ours[one] - ours[other]).mean() for one in names for other in names if one < other]
    assert min(apart) > 1e-3, "the conventions do not differ"


@pytest.mark.parametrize("size", [64, 512])
def test_images_are_resized_as_the_libraries_do(size: int) -> None:
    check_resizings(np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.mark.shared_data
def test_photos_are_resized_as_the_libraries_do(shared_data: Path) -> None:
    for path in sorted((shared_data / "people_crops").glob("*/*.jpg"))[::700]:
        check_resizings(cv2.imread(str(path))[:, :, ::-1].copy())


@pytest.mark.parametrize("count", [40, 5])  # with fewer images than features, the covariance is singular
def test_the_distance_is_clean_fids(count: int) -> None:
    one, other = statistics(count, 1), statistics(60, 2)
    expected = clean_fids_distance(one.mean, one.covariance, other.mean, other.covariance)
    assert compute_distance(one, other) == pytest.approx(expected, abs=1e-4, rel=1e-6)
    assert compute_distance(other, one) == pytest.approx(expected, abs=1e-4, rel=1e-6)
    assert compute_distance(one, one) == pytest.approx(0, abs=1e-8)


# --- files ---


def test_our_file_is_read_again_and_says_how_it_was_made(tmp_path: Path) -> None:
    path = written(tmp_path / "ours.npz")
    read = read_statistics(path, D, None, WEIGHTS)
    assert (read.images, read.convention, read.weights_sha256) == (50, "clean-fid", WEIGHTS)
    assert compute_distance(read, statistics()) < 1e-8
    with np.load(path) as arrays:  # pytorch-fid and clean-fid read mu and sigma
        assert arrays["mu"].shape == (D,) and arrays["sigma"].shape == (D, D)
        assert str(arrays["resizing"]) == describe_resizing("clean-fid")
    assert written(tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_a_file_of_pytorch_fid_needs_the_name_of_its_convention(tmp_path: Path) -> None:
    own = statistics()
    np.savez(tmp_path / "theirs.npz", mu=own.mean, sigma=own.covariance)
    with pytest.raises(BadInput, match="does not say how its images were resized"):
        read_statistics(tmp_path / "theirs.npz", D, None, WEIGHTS)
    read = read_statistics(tmp_path / "theirs.npz", D, "pytorch-fid", WEIGHTS)
    assert (read.images, read.convention) == (None, "pytorch-fid") and compute_distance(read, own) < 1e-8


@pytest.mark.parametrize("is_old", [False, True])
def test_a_file_of_basicsr_has_pytorch_fids_convention(tmp_path: Path, is_old: bool) -> None:
    own, buffer = statistics(), io.BytesIO()
    content = {"name": "FFHQ", "size": 512, "mean": own.mean, "cov": own.covariance}
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    if is_old:  # files of numpy 1 have the older name of the module
        data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "inception_FFHQ_512.pth").write_bytes(data)
    read = read_statistics(tmp_path / "inception_FFHQ_512.pth", D, None, WEIGHTS)
    assert read.convention == "pytorch-fid" and compute_distance(read, own) < 1e-8
    with pytest.raises(BadInput, match="has the convention pytorch-fid, not clean-fid"):
        read_statistics(tmp_path / "inception_FFHQ_512.pth", D, "clean-fid", WEIGHTS)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"mean": np.zeros(4), "cov": np.eye(4)}, "statistics of 4 features, so another network made it"),
        ({"mean": np.zeros(D), "cov": np.eye(D - 1)}, "so they are not statistics of FID"),
        ({"mean": np.full(D, np.nan), "cov": np.eye(D)}, "are not a mean and a covariance"),
        ({"mean": np.zeros(D), "cov": np.triu(np.ones((D, D)))}, "are not a mean and a covariance"),
        ({"mean": np.zeros(D)}, "has no array cov"),
        ({"mean": Harmful(), "cov": np.eye(D)}, "cannot be read as statistics of FID"),
    ],
)
def test_wrong_statistics_are_a_sentence(tmp_path: Path, content: dict[str, object], said: str) -> None:
    torch.save(content, tmp_path / "wrong.pth")
    with pytest.raises(BadInput, match=said) as caught:
        read_statistics(tmp_path / "wrong.pth", D, None, WEIGHTS)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_another_network_or_convention_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "ours.npz")
    with pytest.raises(BadInput, match="was made with another Inception network"):
        read_statistics(path, D, None, "b" * 64)
    with pytest.raises(BadInput, match="has the convention clean-fid, not pytorch-fid"):
        read_statistics(path, D, "pytorch-fid", WEIGHTS)
    with pytest.raises(BadInput, match="There is no FID convention 'tf'; the conventions are torch-fidelity"):
        read_statistics(path, D, "tf", WEIGHTS)
    for name in ("missing.npz", "text.npz"):
        if name == "text.npz":
            (tmp_path / name).write_text("not found")
        with pytest.raises(BadInput, match="cannot be read as statistics of FID") as caught:
            read_statistics(tmp_path / name, D, None, WEIGHTS)
        assert "\n" not in str(caught.value)
