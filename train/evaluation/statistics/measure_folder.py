"""Measures the statistics of a folder of images, with which FID compares restored images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import BadInput
from manifests.pictures.untrusted_images import open_reader
from manifests.runtime.files import sha256_file, write_atomically
from manifests.runtime.progress import Progress
from manifests.runtime.text import make_printable
from train.metrics.fid import inception
from train.metrics.fid.conventions import check_convention
from train.metrics.fid.statistics import measure_statistics, write_statistics
from train.restore.output_paths import list_photos


def list_images(folder: Path, convention: str) -> list[Path]:
    """Returns the files of a folder and its subfolders. Raises BadInput if there are fewer than two files, or if
    `convention` is unknown.
    """
    check_convention(convention)
    if not folder.is_dir():
        raise BadInput(f"{make_printable(folder)} is not a folder. Give a folder of images.")
    if len(files := list_photos(folder)) < 2:
        raise BadInput(f"{make_printable(folder)} has fewer than two images. Give a folder with more images.")
    return files


def write_folder_statistics(
    folder: Path, out: Path, convention: str, weights: Path | None, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Measures all images of a folder, and writes their statistics to the file `out`.

    Returns what was measured: the number of images, the number of gray images, the sizes, the convention, and the
    sha256 of the network's file. Raises BadInput if a file is not an image, or if the weights are missing or wrong.
    """
    files = list_images(folder, convention)
    network, file_of_network = inception.load_inception(weights, convention), inception.find_inception(weights)
    assert file_of_network is not None
    weights_sha256 = sha256_file(file_of_network)
    gray, sizes = 0, dict[tuple[int, int], int]()

    def read_all() -> Iterator[np.ndarray]:
        nonlocal gray
        with open_reader(limited=True) as read:
            for done, file in enumerate(files, 1):
                image = read(file)
                gray += bool((image == image[..., :1]).all())
                sizes[image.shape[:2]] = sizes.get(image.shape[:2], 0) + 1
                yield image
                progress("measure", done, len(files))

    statistics = measure_statistics(read_all(), network)
    content = write_statistics(statistics, convention, weights_sha256)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, content)
    return {
        "file": str(out),
        "images": statistics.images,
        "gray_images": gray,
        "sizes": {f"{width} x {height}": count for (height, width), count in sorted(sizes.items())},
        "convention": convention,
        "weights_sha256": weights_sha256,
    }
