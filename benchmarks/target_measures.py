"""Measures how well the recorded measures detect dark photos, covered faces, and enlarged photos.

    python benchmarks/target_measures.py DATASET [DATASET ...] --models FOLDER

Each DATASET must have been curated with the face models of FOLDER, an InsightFace pack. The measurement of dark photos
uses every DATASET. The other measurements use only the first DATASET. The script changes copies of accepted faces, and
prints how well each measure separates the changed copies from the unchanged faces (AUC: .5 is chance, 1 is perfect).
The script also considers a filter whose limit drops 5% of the unchanged faces, and prints the share of the copies that
this filter drops.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from album_situations.covered import put_on_glasses, put_on_mask

from curate.detection.worth import measure_worth, read_worth_scale
from curate.faces import measure
from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, crop_for_recognizer
from curate.faces.interface import Detection
from curate.faces.load import load_faces_once
from curate.faces.models.dlib_models import find_landmarks68
from manifests.ledger.ledger import Ledger
from manifests.pictures.images import decode
from manifests.runtime.uris import path_of

DARK, COVERED, ENLARGED = 500, 90, 120  # the largest number of faces of a dataset in each measurement
_FACES = """
SELECT min(uri) AS uri, any_value(f.landmarks5) AS points FROM faces f JOIN files u USING (photo_id)
WHERE f.status = 'ok' AND u.status = 'ok' AND {} GROUP BY f.face_id ORDER BY md5(f.face_id) LIMIT {}"""
_ALONE = "f.photo_id IN (SELECT photo_id FROM faces GROUP BY 1 HAVING count(*) = 1)"

Measures = dict[str, dict[str, list[float]]]  # maps the name of a measure and the kind of a copy to the values


def read_faces(dataset: Path, where: str, limit: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (photo, landmarks5) of accepted faces. The order looks random, but is the same in each call."""
    with Ledger.open(dataset) as ledger:
        rows = ledger.query(_FACES.format(where, limit)).rows()
    return [(decode(path_of(uri)), np.array(points, np.float32).reshape(5, 2)) for uri, points in rows]


def darken(image: np.ndarray, stops: int) -> np.ndarray:
    """Returns the picture with 1 / 2**stops of its light. The picture is in sRGB, so it is converted to linear light
    and back."""
    share = image / 255.0
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) / 2**stops
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


def measure_darkness(datasets: list[Path]) -> None:
    for stops in (0, 1, 2, 3, 4):
        values = [
            measure.measure_dark(darken(image, stops), points)
            for dataset in datasets
            for image, points in read_faces(dataset, "true", DARK)
        ]
        low, middle, high = np.quantile(values, [0.5, 0.9, 0.98])
        print(
            f"dark, {stops} stops less light, {len(values)} faces: median {low:.3f}, 90% {middle:.3f}, 98% {high:.3f}"
        )


def measure_covered(dataset: Path, pack: Path) -> None:
    models, rng, values = load_faces_once(f"insightface:{pack}"), np.random.default_rng(0), _new_measures()
    with Ledger.open(dataset) as ledger:
        scale = read_worth_scale(ledger)
    assert scale is not None and models.embed_raw is not None

    def look(kind: str, image: np.ndarray) -> Detection | None:
        faces = models.detect(image)
        if not faces:
            return None
        face = max(faces, key=lambda one: float(np.prod(one.box[2:] - one.box[:2])))
        chip = crop_for_recognizer(
            align_face(image, face.landmarks5, FFHQ_512, FFHQ_SIZE), models.template, models.size
        )
        vector = models.embed_raw(chip[None])[0]
        norm = float(np.linalg.norm(vector))
        points = find_landmarks68(image, face.box)
        five = np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])
        apart = float(np.hypot(*(five - face.landmarks5).T).mean()) / measure.measure_eye_distance(face.landmarks5)
        values["det_score"][kind].append(face.score)
        values["embedding_norm"][kind].append(norm)
        values["worth"][kind].append(float(measure_worth(vector[None] / norm, np.array([norm]), scale)[0]))
        values["distance to dlib's landmarks"][kind].append(-apart)
        return face

    for image, _ in read_faces(dataset, f"f.inter_ocular_px > 28 AND {_ALONE}", COVERED):
        shrink = min(1.0, 1200 / max(image.shape))
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        if (face := look("face", image)) is not None:
            look("mask", put_on_mask(image, face.landmarks5, rng))
            look("dark glasses", put_on_glasses(image, face.landmarks5, rng))
    _print_measures(values)


def measure_enlarged(dataset: Path) -> None:
    values = _new_measures()

    def look(kind: str, image: np.ndarray, points: np.ndarray) -> None:
        values["detail"][kind].append(measure.measure_detail(image, points))
        values["sharpness"][kind].append(measure.measure_sharpness(align_face(image, points, FFHQ_512, FFHQ_SIZE)))
        values["noise"][kind].append(measure.measure_noise(measure.compute_luma(image)))
        values["power near the end of the spectrum"][kind].append(measure_spectrum(image, points))

    for image, points in read_faces(dataset, "f.upsample < 1.6", ENLARGED):
        reach = 3 * measure.measure_eye_distance(points)
        start = np.floor(points.mean(0) - reach).clip(0).astype(int)
        stop = np.ceil(points.mean(0) + reach).astype(int)
        image, points = image[start[1] : stop[1], start[0] : stop[0]], points - start
        height, width = image.shape[:2]
        look("face", image, points)
        for scale in (2, 4):
            small = cv2.resize(image, (width // scale, height // scale), interpolation=cv2.INTER_AREA)
            for name, method in (("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)):
                large = cv2.resize(small, (width, height), interpolation=method)
                look(f"{name} x{scale}", large, points)
                jpeg = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
                look(f"{name} x{scale}, JPEG 85", np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)), points)
    _print_measures(values)


def measure_spectrum(image: np.ndarray, points: np.ndarray) -> float:
    """Returns log10 of (the power from .30 to .48 cycles per pixel / the power from .12 to .22 cycles per pixel)."""
    centre, reach = points.mean(0), measure.measure_eye_distance(points)
    (x0, y0), (x1, y1) = np.floor(centre - reach).clip(0).astype(int), np.ceil(centre + reach).clip(0).astype(int)
    luma = measure.compute_luma(np.ascontiguousarray(image[y0:y1, x0:x1]))
    height, width = luma.shape
    power = np.abs(np.fft.fft2((luma - luma.mean()) * np.outer(np.hanning(height), np.hanning(width)))) ** 2
    rows, columns = np.abs(np.fft.fftfreq(height))[:, None], np.abs(np.fft.fftfreq(width))[None]
    frequency = np.maximum(rows, columns)
    near_end, middle = (
        power[(frequency > low) & (frequency < high)].mean() for low, high in ((0.3, 0.48), (0.12, 0.22))
    )
    return float(np.log10((near_end + 1e-3) / (middle + 1e-3)))


def _new_measures() -> Measures:
    return defaultdict(lambda: defaultdict(list))


def _print_measures(values: Measures) -> None:
    """Prints the AUC of each measure.

    An AUC of 1 means that all changed copies have lower values than the unchanged faces.
    """
    for name, of_kind in values.items():
        faces = np.array(of_kind["face"])
        limit = np.quantile(faces, 0.05)
        for kind, found in of_kind.items():
            if kind != "face":
                copies = np.array(found)
                pairs = faces[:, None] - copies[None]
                auc = float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
                print(
                    f"{name}, {kind}, {len(copies)} copies: AUC {auc:.2f}, "
                    f"{100 * (copies < limit).mean():.0f}% would be dropped"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path, nargs="+")
    parser.add_argument("--models", type=Path, required=True)
    arguments = parser.parse_args()
    measure_darkness(arguments.datasets)
    measure_covered(arguments.datasets[0], arguments.models)
    measure_enlarged(arguments.datasets[0])


if __name__ == "__main__":
    main()
