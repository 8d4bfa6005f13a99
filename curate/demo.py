"""Photos for `likeness demo`: eight faces that come inside installed packages, each varied.

They are variations of one picture a person, made to exercise every stage offline. What comes out is a smoke run: no
figure it prints says anything about quality.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from manifests.errors import LikenessError
from manifests.runtime.files import write_atomically

NOTICE = (
    "These photos are variations of one picture a person, from packages that are installed: "
    "a smoke run of every stage, no benchmark."
)


@dataclass(frozen=True)
class Sitter:
    """One person: where the picture lies, the face in it as dlib's detector boxes it (x0, y0, x1, y1), and the slope of
    the line through its eyes, degrees."""

    name: str
    package: str
    file: str
    box: tuple[int, int, int, int]
    tilt: float
    enlarge: float = 1.0  # small pictures, so that the screen's size rule does not turn all of them away


_GROUP = "data/images/t1.jpg"
SITTERS = (
    Sitter("a", "insightface", _GROUP, (67, 283, 175, 390), -25.5, 1.5),
    Sitter("b", "insightface", _GROUP, (275, 176, 364, 265), -32.1, 1.5),
    Sitter("c", "insightface", _GROUP, (450, 295, 557, 402), 15.3, 1.5),
    Sitter("d", "insightface", _GROUP, (724, 367, 832, 474), 7.6, 1.5),
    Sitter("e", "insightface", _GROUP, (870, 67, 999, 196), -5.4, 1.5),
    Sitter("f", "insightface", _GROUP, (1118, 283, 1226, 390), -3.8, 1.5),
    Sitter("g", "insightface", "data/images/Tom_Hanks_54745.png", (6, 26, 96, 116), -2.6, 2.0),
    Sitter("h", "skimage", "data/astronaut.png", (175, 76, 265, 166), 3.5, 1.5),
)
VARIATIONS = 16


def write_demo_photos(folder: Path, rng: np.random.Generator, variations: int = VARIATIONS) -> list[Path]:
    """Fill `folder` with varied photos, and with files that must be turned away; the same `rng` gives the same bytes.

    Where every file is there already, nothing is written. Raises LikenessError where a package or its picture is
    missing.
    """
    names = [f"{sitter.name}-{i:02d}.jpg" for sitter in SITTERS for i in range(variations)]
    paths = [folder / name for name in (*names, *_EXTRAS)]
    if all(path.is_file() for path in paths):
        return paths
    streams = iter(rng.spawn(len(names)))
    for sitter in SITTERS:
        picture = _with_surroundings(_read(find_packaged_file(sitter.package, sitter.file)))
        for i in range(variations):
            stream = next(streams)
            photo = vary(picture, sitter, stream)
            write_atomically(folder / f"{sitter.name}-{i:02d}.jpg", _jpeg(photo, int(stream.integers(70, 96))))
    for name, data in _extras(folder).items():
        write_atomically(folder / name, data)
    return paths


def find_packaged_file(package: str, file: str) -> Path:
    """A file inside an installed package, found without importing it."""
    spec = find_spec(package)
    path = Path((spec.submodule_search_locations or [""])[0], file) if spec else Path(file)
    if not path.is_file():
        raise LikenessError(f"{package} is installed without {file}: run `make install`, or use photos of your own.")
    return path


def vary(picture: np.ndarray, sitter: Sitter, rng: np.random.Generator) -> np.ndarray:
    """One new photo of a sitter, uint8 (s, s, 3): another pose, crop, light and lens. All ranges are ours.

    `picture` has been through `_with_surroundings`.
    """
    out = int(rng.integers(352, 513))
    points = _where_from(sitter, out, rng)
    photo = cv2.remap(picture, points[..., 0], points[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    photo = _light(photo.astype(np.float32) / 255, rng)
    if rng.random() < 0.3:
        photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.3, 0.8))
    photo += rng.normal(0, rng.uniform(0, 0.012), photo.shape).astype(np.float32)
    return (np.clip(photo, 0, 1) * 255 + 0.5).astype(np.uint8)


_MARGIN = 128  # pixels of soft backdrop around every picture, for crops that reach over its edge


def _with_surroundings(picture: np.ndarray) -> np.ndarray:
    """The picture (h, w, 3) with its edges carried on for _MARGIN pixels on each side, fading into a blur."""
    sides = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN))
    wide = np.pad(picture, (*sides, (0, 0)), mode="edge")
    inside = np.pad(np.ones(picture.shape[:2], np.float32), sides)
    sharp = np.clip(2 * cv2.blur(inside, (9, 9)) - 1, 0, 1)[..., None]
    return (wide * sharp + cv2.GaussianBlur(wide, (0, 0), 20) * (1 - sharp)).astype(np.uint8)


def _where_from(sitter: Sitter, out: int, rng: np.random.Generator) -> np.ndarray:
    """For every pixel of the new photo, where in the picture it comes from: float32 (out, out, 2).

    In units of the face's width, origin at its centre, the head upright: frame, mirror, tilt and perspective first,
    then a turn of the head (the nearer a point, the further it moves), then a smooth change of expression.
    """
    x0, y0, x1, y1 = sitter.box
    width, centre = float(x1 - x0), np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + _MARGIN
    reach = out / (width * sitter.enlarge * rng.uniform(0.9, 1.25))  # how many face widths the photo shows
    axis = (np.arange(out, dtype=np.float32) + 0.5) / out - 0.5
    grid = np.stack(np.meshgrid(axis, axis), axis=-1) * reach + rng.uniform(-0.12, 0.12, 2)
    if rng.random() < 0.5:
        grid[..., 0] *= -1
    grid = _rotated(grid, rng.uniform(-9, 9)) * np.array([rng.uniform(0.9, 1.1), 1.0])
    grid /= 1 + (grid @ rng.uniform(-0.12, 0.12, 2))[..., None]
    nearness = np.exp(-(grid[..., 0] ** 2 / 0.18 + (grid[..., 1] - 0.08) ** 2 / 0.3))
    grid += nearness[..., None] * rng.uniform((-0.1, -0.07), (0.1, 0.07))
    bend = cv2.resize(rng.normal(0, 0.0252, (5, 5, 2)), (out, out), interpolation=cv2.INTER_CUBIC)
    return (_rotated(grid + bend, sitter.tilt) * width + centre).astype(np.float32)


def _rotated(points: np.ndarray, degrees: float) -> np.ndarray:
    """Points (..., 2) turned clockwise in the image."""
    angle = np.deg2rad(degrees)
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _light(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another light on float32 (s, s, 3): from one side, a soft shadow's edge, colour, contrast."""
    axis = np.linspace(-1, 1, len(photo), dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    light = 1 + rng.uniform(-0.55, 0.55) * along
    if rng.random() < 0.6:
        edge = along * rng.choice([-1, 1]) * np.cos(2 * x) + rng.uniform(-0.3, 0.3)
        light *= 1 - rng.uniform(0.2, 0.55) / (1 + np.exp(-edge / rng.uniform(0.02, 0.2)))
    lit = np.clip(photo * light[..., None] * rng.uniform(0.92, 1.08, 3).astype(np.float32), 0, 1)
    lit = lit ** rng.uniform(0.75, 1.35)
    grey = lit.mean(axis=-1, keepdims=True)
    lit = grey + (lit - grey) * rng.uniform(0.3, 1.2)
    return np.asarray(0.5 + (lit - 0.5) * rng.uniform(0.8, 1.15), np.float32)


# what a real folder holds besides portraits, so that the funnel has reasons to show
_EXTRAS = ("everyone.jpg", "a-00-copy.jpg", "a-01-saved-again.jpg", "coffee.png", "truncated.jpg", "letter.jpg")


def _extras(folder: Path) -> dict[str, bytes]:
    again = _read(folder / "a-01.jpg")
    whole = (folder / "b-00.jpg").read_bytes()
    return dict(
        zip(
            _EXTRAS,
            (
                find_packaged_file("insightface", _GROUP).read_bytes(),
                (folder / "a-00.jpg").read_bytes(),
                _jpeg(again, 62),
                find_packaged_file("skimage", "data/coffee.png").read_bytes(),
                whole[: len(whole) // 3],
                b"Dear photograph,\nyou are a letter.\n",
            ),
            strict=True,
        )
    )


def _read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise LikenessError(f"{path} cannot be decoded: run `make install` again.")
    return picture


def _jpeg(photo: np.ndarray, quality: int) -> bytes:
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return bytes(data)
