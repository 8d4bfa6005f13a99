"""The situation `search_times`: the time of the search for small and turned faces, compared with one detector run.

The photos show one clear face and have at most 2 megapixels. The photos are timed in their own size, and enlarged to 2,
12, 24 and 42 megapixels. The situation `group_photos` measures the times for photos with many faces. All times include
decoding.

Goals: for photos in their own size, the search takes at most 5% longer than one run of the detector. At 2 megapixels,
it should take at most 10% longer. At 12 megapixels, it should take at most 3 times as long as one run, and at 42
megapixels at most 5 times as long.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from album_situations.group_photos import MEGAPIXELS, is_clear, is_held_out, measure_times

from curate.detection.detect import start_worker
from curate.faces.load import load_faces_once
from manifests.pictures.images import decode

PHOTOS = 40  # The number of photos that are timed in their own size.
PHOTOS_A_SIZE = 8  # The number of enlarged photos of each size.
MAX_PIXELS = 2_000_000  # Photos with more pixels than this are left out.


def measure(folder: Path, shared: Path, seed: int) -> dict[str, Any]:
    """Returns the mean times of `measure_times`, for photos in their own size and for enlarged photos."""
    start_worker()
    models, rng = (
        load_faces_once(f"insightface:{shared / 'weights' / 'insightface_small'}"),
        np.random.default_rng(seed),
    )
    people = sorted(person for person in (shared / "photos").iterdir() if is_held_out(person.name))
    photos = [path for person in people for path in sorted(person.iterdir())]
    clear = list[Path]()
    for number in rng.permutation(len(photos)):
        image = decode(photos[number])
        faces = models.detect(image)
        if image[..., 0].size <= MAX_PIXELS and len(faces) == 1 and is_clear(faces[0], image.shape[1], image.shape[0]):
            clear.append(photos[number])
        if len(clear) == PHOTOS:
            break
    figures: dict[str, Any] = {"photos": len(clear), "as_they_are": _average([measure_times(p, models) for p in clear])}
    for megapixels in MEGAPIXELS:
        enlarged = [_enlarge(path, megapixels, folder) for path in clear[:PHOTOS_A_SIZE]]
        figures[f"{megapixels}_megapixels"] = _average([measure_times(path, models) for path in enlarged])
    return figures


def _enlarge(path: Path, megapixels: float, folder: Path) -> Path:
    """Writes the photo enlarged to `megapixels`, and returns the path of the enlarged photo."""
    image = decode(path)
    scale = (megapixels * 1e6 / image[..., 0].size) ** 0.5
    larger = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    copy = folder / f"{megapixels}_{path.parent.name}_{path.stem}.jpg"
    assert cv2.imwrite(str(copy), larger[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return copy


def _average(times: list[dict[str, float]]) -> dict[str, float]:
    one_look, search = (float(np.mean([time[name] for time in times])) for name in ("one_look", "search"))
    return {"one_look": round(one_look, 1), "search": round(search, 1), "ratio": round(search / one_look, 3)}
