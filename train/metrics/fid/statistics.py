"""Measures, writes and reads the statistics of a set of images: the mean and the covariance of their features."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from manifests.errors import BadInput
from manifests.runtime.text import make_printable, take_first_line
from train.metrics.fid.conventions import CONVENTIONS, check_convention, describe_resizing

BASICSR = "pytorch-fid"  # The convention of BasicSR's files of statistics, for example inception_FFHQ_512.pth.
_BLOCK = 256  # The features of this number of images (ours) are added to the sums at once, which saves time.


@dataclass(frozen=True)
class Statistics:
    """Holds the mean and the covariance of the features of a set of images, and how the features were computed."""

    mean: np.ndarray  # The mean (d,), float64.
    covariance: np.ndarray  # The unbiased covariance (d, d), float64.
    # The next three values are None if the file of the statistics does not have them.
    images: int | None = None  # The number of images.
    convention: str | None = None  # A key of CONVENTIONS.
    weights_sha256: str | None = None  # The sha256 of the network's file.


def measure_statistics(images: Iterable[np.ndarray], network: nn.Module, what: str = "images") -> Statistics:
    """Returns the statistics of RGB images, uint8 (H, W, 3).

    `network` maps uint8 (1, 3, H, W) to (1, d). Raises BadInput if there are fewer than two images. The message of
    this error calls the images `what`.
    """
    count, total, products, block = 0, np.zeros(()), np.zeros(()), list[np.ndarray]()

    def add_block() -> None:
        nonlocal total, products
        rows = np.stack(block)
        total, products = total + rows.sum(0), products + rows.T @ rows
        block.clear()

    with torch.inference_mode():
        for count, image in enumerate(images, 1):
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
            block.append(network(pixels)[0].double().cpu().numpy())
            if count % _BLOCK == 0:
                add_block()
    if block:
        add_block()
    if count < 2:
        raise BadInput(f"FID compares two sets of images, but there are only {count} {what}: give at least two {what}.")
    mean = total / count
    return Statistics(mean, (products - count * np.outer(mean, mean)) / (count - 1), count)


def compute_distance(one: Statistics, other: Statistics) -> float:
    """Returns the Fréchet distance |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two statistics (Fréchet 1957).

    Here m are the means and C the covariances. Let C1 = R R^T. The matrix R^T C2 R is symmetric and has the same
    nonzero eigenvalues as C1 C2, so tr((C1 C2)^(1/2)) is the sum of the roots of its eigenvalues. R has a column for
    each nonzero eigenvalue of C1, so statistics of few images need little time.
    """
    values, vectors = np.linalg.eigh(one.covariance)
    is_kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    root = vectors[:, is_kept] * np.sqrt(values[is_kept])
    crossed = np.linalg.eigvalsh(root.T @ other.covariance @ root)
    shift = ((one.mean - other.mean) ** 2).sum()
    spread = np.trace(one.covariance) + np.trace(other.covariance) - 2 * np.sqrt(crossed.clip(0)).sum()
    return max(float(shift + spread), 0.0)


def write_statistics(statistics: Statistics, convention: str, weights_sha256: str) -> bytes:
    """Returns the bytes of an .npz file with the statistics. pytorch-fid and clean-fid can read the arrays mu and
    sigma."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        mu=statistics.mean,
        sigma=statistics.covariance,
        images=np.array(statistics.images),
        convention=np.array(convention),
        resizing=np.array(describe_resizing(convention)),
        weights_sha256=np.array(weights_sha256),
    )
    return buffer.getvalue()


def read_statistics(path: Path, features: int, convention: str | None, weights_sha256: str | None) -> Statistics:
    """Reads a file of `write_statistics`, an .npz file of pytorch-fid or clean-fid, or a .pth file of BasicSR.

    `features` is the number of features of the network. `weights_sha256` is the sha256 of the network's file, or None
    if the network's file is missing. `convention` is the convention that the user named, or None. The result always has
    a convention.

    Only arrays are read from `path`, so the file cannot run code. Raises BadInput if the file cannot be read, or if it
    does not fit the network or the convention.
    """
    name = make_printable(path)
    try:
        with path.open("rb") as file:
            is_npz = zipfile.is_zipfile(file) and any(
                entry.endswith(".npy") for entry in zipfile.ZipFile(file).namelist()
            )
        statistics = _read_npz(path) if is_npz else _read_basicsr(path)
    except KeyError as error:
        raise BadInput(
            f"{name} has no array {error.args[0]}. Give an .npz file with mu and sigma, or a .pth file with mean and "
            "cov."
        ) from None
    except Exception as error:  # a broken or hostile file can raise any error
        why = take_first_line(error).rstrip(".:")
        raise BadInput(
            f"{name} cannot be read as statistics of FID ({why}). Give an .npz file with mu and sigma, or a .pth file "
            "with mean and cov."
        ) from None
    _check_arrays(statistics, name, features)
    own = statistics.convention
    if convention is not None:
        check_convention(convention)
    if own is None and convention is None:
        raise BadInput(
            f"{name} does not say how its images were resized. Name the convention with --fid-convention: "
            f"{', '.join(CONVENTIONS)}."
        )
    if own is not None and own not in CONVENTIONS:
        raise BadInput(f"{name} has the unknown convention {make_printable(own)}. Make the statistics again.")
    if None not in (own, convention) and own != convention:
        raise BadInput(f"{name} has the convention {own}, not {convention}. Leave --fid-convention out.")
    if None not in (statistics.weights_sha256, weights_sha256) and statistics.weights_sha256 != weights_sha256:
        raise BadInput(
            f"{name} was made with another Inception network: its file has the sha256 "
            f"{statistics.weights_sha256}, and the file that is used now has {weights_sha256}. Use the same file, or "
            "make the statistics again."
        )
    return replace(statistics, convention=own or convention)


def _read_npz(path: Path) -> Statistics:
    with np.load(path, allow_pickle=False) as arrays:

        def read_text(key: str) -> str | None:
            return str(arrays[key]) if key in arrays else None

        images = int(arrays["images"]) if "images" in arrays else None
        texts = (read_text("convention"), read_text("weights_sha256"))
        return Statistics(np.asarray(arrays["mu"]), np.asarray(arrays["sigma"]), images, *texts)


def _read_basicsr(path: Path) -> Statistics:
    # BasicSR pickled numpy arrays. Here torch.load accepts only tensors, plain values and the listed classes of numpy.
    content: Mapping[str, Any]
    with torch.serialization.safe_globals(_list_numpy_classes()):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError("it contains no dict")
    mean, covariance = (np.asarray(content[key]) for key in ("mean", "cov"))
    return Statistics(mean, covariance, convention=BASICSR)


def _list_numpy_classes() -> list[Any]:
    rebuild = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    types = [type(np.dtype(name)) for name in ("float32", "float64")]
    # In files of numpy 1, the classes have the older name of the module.
    old = [(rebuild, "numpy.core.multiarray._reconstruct"), (scalar, "numpy.core.multiarray.scalar")]
    return [rebuild, scalar, np.ndarray, np.dtype, *types, *old]


def _check_arrays(statistics: Statistics, name: str, features: int) -> None:
    """Raises BadInput if the arrays are not a mean and a covariance of the network's features."""
    mean, covariance = statistics.mean, statistics.covariance
    if mean.ndim != 1 or covariance.shape != (*mean.shape, *mean.shape):
        raise BadInput(
            f"The mean in {name} has the shape {mean.shape}, and the covariance has {covariance.shape}, so they are "
            "not statistics of FID. Make the statistics again."
        )
    if len(mean) != features:
        raise BadInput(
            f"{name} has the statistics of {len(mean)} features, so another network made it. The network of FID has "
            f"{features} features."
        )
    is_real = all(array.dtype.kind == "f" and bool(np.isfinite(array).all()) for array in (mean, covariance))
    if not is_real or not np.allclose(covariance, covariance.T, atol=1e-4) or covariance.diagonal().min() < -1e-6:
        raise BadInput(f"The numbers in {name} are not a mean and a covariance. Make the statistics again.")
