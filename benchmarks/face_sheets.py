"""Draws rows of faces with captions, and begins a new picture when a picture is full. The faces are not resized."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 0.3  # The margin (ours) that the pictures show around a face's box, as a share of the side of the box.
# The width of a picture, its largest height, the space between faces, and the height of a caption, in pixels (ours).
WIDTH, HEIGHT, GAP, CAPTION = 2080, 2200, 8, 18


def cut_region(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Returns the part of a photo, uint8 (H, W, 3), around the box (4,) of a face, without resizing."""
    margin = MARGIN * np.array([box[2] - box[0], box[3] - box[1]])
    x0, y0 = np.maximum(np.floor(box[:2] - margin), 0).astype(int)
    x1, y1 = np.ceil(box[2:] + margin).astype(int)
    return image[y0:y1, x0:x1]


def draw_tile(images: Sequence[np.ndarray], caption: str) -> Image.Image:
    """Returns a tile: the images of a face, uint8 (h, w, 3) with the same h, side by side above a caption."""
    font = ImageFont.load_default(size=12)
    width = max(sum(image.shape[1] + 2 for image in images), int(font.getlength(caption)) + 2)
    tile = Image.new("RGB", (width, images[0].shape[0] + CAPTION), "white")
    x = 0
    for image in images:
        tile.paste(Image.fromarray(np.ascontiguousarray(image)), (x, 0))
        x += image.shape[1] + 2
    ImageDraw.Draw(tile).text((0, tile.height - CAPTION + 2), caption, "black", font)
    return tile


def write_sheets(tiles: Sequence[Image.Image], folder: Path, name: str) -> list[Path]:
    """Places the tiles in rows, from the smallest to the tallest, and writes FOLDER/NAME-1.png and so on."""
    pages: list[list[tuple[int, int, Image.Image]]] = [[]]
    x = y = row = 0
    for tile in sorted(tiles, key=lambda tile: tile.height):
        if x and x + tile.width > WIDTH:
            x, y, row = 0, y + row + GAP, 0
        if y and y + tile.height > HEIGHT:
            pages.append([])
            x = y = row = 0
        pages[-1].append((x, y, tile))
        x, row = x + tile.width + GAP, max(row, tile.height)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, page in enumerate((page for page in pages if page), 1):
        size = (max(x + tile.width for x, _, tile in page), max(y + tile.height for _, y, tile in page))
        sheet = Image.new("RGB", size, "white")
        for x, y, tile in page:
            sheet.paste(tile, (x, y))
        paths.append(folder / f"{name}-{number}.png")
        sheet.save(paths[-1])
    return paths
