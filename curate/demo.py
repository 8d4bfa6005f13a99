"""Makes the photos of `likeness demo`: variations of eight faces from images inside installed packages.

All photos of one person are variations of one image. With these photos, every stage can run offline. The numbers that
the demo prints say nothing about quality on real photos.
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
    "The demo runs every stage on variations of images from installed packages. All photos of a person come from one "
    "image, so the figures say nothing about quality."
)


@dataclass(frozen=True)
class Sitter:
    """A person of the demo, and the image with the person's face."""

    name: str
    package: str  # The package that contains the image.
    file: str  # Path of the image inside the package.
    box: tuple[int, int, int, int]  # The box x0, y0, x1, y1 of the face in pixels, from dlib's detector.
    tilt: float  # Angle between the line through the eyes and the horizontal, in degrees.
    enlarge: float = 1.0  # Scale of the image; chosen so that the filter `too_small` keeps most photos.


_GROUP_PHOTO = "data/images/t1.jpg"
SITTERS = (
    Sitter("a", "insightface", _GROUP_PHOTO, (67, 283, 175, 390), -25.5, 1.5),
    Sitter("b", "insightface", _GROUP_PHOTO, (275, 176, 364, 265), -32.1, 1.5),
    Sitter("c", "insightface", _GROUP_PHOTO, (450, 295, 557, 402), 15.3, 1.5),
    Sitter("d", "insightface", _GROUP_PHOTO, (724, 367, 832, 474), 7.6, 1.5),
    Sitter("e", "insightface", _GROUP_PHOTO, (870, 67, 999, 196), -5.4, 1.5),
    Sitter("f", "insightface", _GROUP_PHOTO, (1118, 283, 1226, 390), -3.8, 1.5),
    Sitter("g", "insightface", "data/images/Tom_Hanks_54745.png", (6, 26, 96, 116), -2.6, 2.0),
    Sitter("h", "skimage", "data/astronaut.png", (175, 76, 265, 166), 3.5, 1.5),
)
VARIATIONS = 16  # number of photos of each person


def write_demo_photos(folder: Path, rng: np.random.Generator, variations: int = VARIATIONS) -> list[Path]:
    """Writes the demo's photos, and files that curation must drop, into `folder`. Returns the paths of all files.

    Two calls with equal states of `rng` write equal bytes. If all files already exist, nothing is written. Raises
    LikenessError if a package or its image is missing.
    """
    names = [f"{sitter.name}-{i:02d}.jpg" for sitter in SITTERS for i in range(variations)]
    paths = [folder / name for name in (*names, *_EXTRA_NAMES)]
    if all(path.is_file() for path in paths):
        return paths
    streams = iter(rng.spawn(len(names)))
    for sitter in SITTERS:
        image = _extend_edges(_read_image(find_packaged_file(sitter.package, sitter.file)))
        for i in range(variations):
            stream = next(streams)
            photo = vary_photo(image, sitter, stream)
            write_atomically(folder / f"{sitter.name}-{i:02d}.jpg", _encode_jpeg(photo, int(stream.integers(70, 96))))
    for name, data in _make_extra_files(folder).items():
        write_atomically(folder / name, data)
    return paths


def find_packaged_file(package: str, file: str) -> Path:
    """Returns the path of a file inside an installed package, and does not import the package.

    Raises LikenessError if the package or the file is missing.
    """
    spec = find_spec(package)
    path = Path((spec.submodule_search_locations or [""])[0], file) if spec else Path(file)
    if not path.is_file():
        raise LikenessError(
            f"The file {file} of the package {package} is missing. Run `make install`, or use your own photos."
        )
    return path


def vary_photo(image: np.ndarray, sitter: Sitter, rng: np.random.Generator) -> np.ndarray:
    """Returns a new photo of a sitter, uint8 RGB (s, s, 3), with a random pose, crop, light and lens.

    `image` is the result of `_extend_edges`. All ranges of random numbers are ours.
    """
    out = int(rng.integers(352, 513))
    points = _choose_source_points(sitter, out, rng)
    photo = cv2.remap(image, points[..., 0], points[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    photo = _change_light(photo.astype(np.float32) / 255, rng)
    if rng.random() < 0.3:
        photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.3, 0.8))
    photo += rng.normal(0, rng.uniform(0, 0.012), photo.shape).astype(np.float32)
    return (np.clip(photo, 0, 1) * 255 + 0.5).astype(np.uint8)


_MARGIN = 128  # pixels added on each side of an image, because a crop may reach over the edge of the image


def _extend_edges(image: np.ndarray) -> np.ndarray:
    """Returns the image (h, w, 3), extended by _MARGIN pixels on each side.

    The new pixels repeat the edge and are blurred.
    """
    sides = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN))
    wide = np.pad(image, (*sides, (0, 0)), mode="edge")
    inside = np.pad(np.ones(image.shape[:2], np.float32), sides)
    sharp = np.clip(2 * cv2.blur(inside, (9, 9)) - 1, 0, 1)[..., None]
    return (wide * sharp + cv2.GaussianBlur(wide, (0, 0), 20) * (1 - sharp)).astype(np.uint8)


def _choose_source_points(sitter: Sitter, out: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a point of the image for each pixel of the new photo, float32 (out, out, 2), in pixels.

    The new photo is `out` pixels wide and high. The function chooses a frame, mirrors and tilts it, and changes the
    perspective. Then the function turns the head and changes the expression smoothly.
    """
    # The grid of points, float (out, out, 2). The unit of the grid is the face's width, the origin is the face's
    # centre, and the head is upright.
    x0, y0, x1, y1 = sitter.box
    width, centre = float(x1 - x0), np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + _MARGIN
    reach = out / (width * sitter.enlarge * rng.uniform(0.9, 1.25))  # side of the new photo, in face widths
    axis = (np.arange(out, dtype=np.float32) + 0.5) / out - 0.5
    grid = np.stack(np.meshgrid(axis, axis), axis=-1) * reach + rng.uniform(-0.12, 0.12, 2)
    if rng.random() < 0.5:
        grid[..., 0] *= -1
    grid = _rotate(grid, rng.uniform(-9, 9)) * np.array([rng.uniform(0.9, 1.1), 1.0])
    grid /= 1 + (grid @ rng.uniform(-0.12, 0.12, 2))[..., None]
    # Turn the head. Points near the camera move farther than other points.
    nearness = np.exp(-(grid[..., 0] ** 2 / 0.18 + (grid[..., 1] - 0.08) ** 2 / 0.3))
    grid += nearness[..., None] * rng.uniform((-0.1, -0.07), (0.1, 0.07))
    bend = cv2.resize(rng.normal(0, 0.0252, (5, 5, 2)), (out, out), interpolation=cv2.INTER_CUBIC)
    return (_rotate(grid + bend, sitter.tilt) * width + centre).astype(np.float32)


def _rotate(points: np.ndarray, degrees: float) -> np.ndarray:
    """Returns the points (..., 2), rotated clockwise in the image."""
    angle = np.deg2rad(degrees)
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _change_light(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the photo, float32 (s, s, 3), with a random side light, shadow, colour balance and contrast."""
    axis = np.linspace(-1, 1, len(photo), dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    light = 1 + rng.uniform(-0.55, 0.55) * along
    if rng.random() < 0.6:
        edge = along * rng.choice([-1, 1]) * np.cos(2 * x) + rng.uniform(-0.3, 0.3)
        light *= 1 - rng.uniform(0.2, 0.55) / (1 + np.exp(-edge / rng.uniform(0.02, 0.2)))
    photo = np.clip(photo * light[..., None] * rng.uniform(0.92, 1.08, 3).astype(np.float32), 0, 1)
    photo = photo ** rng.uniform(0.75, 1.35)
    grey = photo.mean(axis=-1, keepdims=True)
    photo = grey + (photo - grey) * rng.uniform(0.3, 1.2)
    return np.asarray(0.5 + (photo - 0.5) * rng.uniform(0.8, 1.15), np.float32)


# Besides the variations, the demo writes six files: a group photo, two copies, an image without a face, a broken image,
# and a text file. The six files show reasons why curation drops files and faces.
_EXTRA_NAMES = ("everyone.jpg", "a-00-copy.jpg", "a-01-saved-again.jpg", "coffee.png", "truncated.jpg", "letter.jpg")


def _make_extra_files(folder: Path) -> dict[str, bytes]:
    """Returns the extra files (name -> bytes). The photos of the sitters must be in `folder` already."""
    again = _read_image(folder / "a-01.jpg")
    whole = (folder / "b-00.jpg").read_bytes()
    return dict(
        zip(
            _EXTRA_NAMES,
            (
                find_packaged_file("insightface", _GROUP_PHOTO).read_bytes(),
                (folder / "a-00.jpg").read_bytes(),
                _encode_jpeg(again, 62),
                find_packaged_file("skimage", "data/coffee.png").read_bytes(),
                whole[: len(whole) // 3],
                b"Dear photograph,\nyou are a letter.\n",
            ),
            strict=True,
        )
    )


def _read_image(path: Path) -> np.ndarray:
    """Returns an image as uint8 RGB (h, w, 3). Raises LikenessError if the image cannot be decoded."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise LikenessError(f"{path} cannot be decoded. Run `make install` again.")
    return image


def _encode_jpeg(photo: np.ndarray, quality: int) -> bytes:
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return bytes(data)
