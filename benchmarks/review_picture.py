"""Makes the picture of the README that shows `likeness review`: the page of a person, with two selected faces.

    python benchmarks/review_picture.py docs/review.png

The faces are variations of the portrait of the astronaut Eileen Collins (NASA, public domain) in scikit-image, as
`likeness demo` makes them. The demo's other faces come from the package insightface, whose licence covers the code but
not the images. This picture therefore leaves these faces out. The script needs Playwright (the extra `dev`), and
Chromium of the system.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import sync_playwright
from record_result import record_result

from curate.demo import SITTERS, write_demo_photos
from degrade.sampling import make_generator

WIDTH, HEIGHT = 1280, 640  # The size of the picture in pixels.
COLOURS = 160  # The number of colours of the picture (ours); more colours make the file larger.
MOST_BYTES = 200_000
SELECTED = 2  # the number of faces that the picture shows as selected
NAME = "Eileen Collins"
LIKENESS = [sys.executable, "-m", "likeness"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the PNG file to write, such as docs/review.png")
    parser.add_argument("--seed", type=int, default=0, help="seed of the variations")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        photos, dataset = Path(scratch, "photos"), Path(scratch, "astronaut")
        write_astronaut_photos(photos, options.seed)
        subprocess.run([*LIKENESS, "curate", photos, "--out", dataset, "--faces", "dlib"], check=True)
        picture = picture_review(dataset)
    size = write_small_png(options.out, picture)
    record_result("review_picture", {"picture": str(options.out), "bytes": size}, keep=False)


def write_astronaut_photos(folder: Path, seed: int) -> None:
    """Writes the demo's photos of the astronaut into `folder`, and one near-duplicate."""
    sitter = next(one for one in SITTERS if one.file.endswith("astronaut.png"))
    with tempfile.TemporaryDirectory() as scratch:
        write_demo_photos(Path(scratch), make_generator("astronaut", seed), variations=24)
        folder.mkdir()
        for path in sorted(Path(scratch).glob(f"{sitter.name}-*.jpg")):
            shutil.copy(path, folder / path.name.replace(f"{sitter.name}-", "astronaut-"))
    photo = cv2.imread(str(folder / "astronaut-03.jpg"))
    cv2.imwrite(str(folder / "astronaut-03-saved-again.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, 60])


def picture_review(dataset: Path) -> np.ndarray:
    """Starts `likeness review`, names the only person, selects faces, and returns the page as uint8 BGR (h, w, 3)."""
    server = subprocess.Popen([*LIKENESS, "review", dataset, "--no-browser"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        link = next(line.split()[1] for line in server.stdout if line.startswith("Open http"))
        with sync_playwright() as playwright:
            path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
            page.goto(link)
            page.locator(".cell img").first.click()
            page.wait_for_url("**/person/*")
            page.locator(".cell img").first.wait_for()
            page.keyboard.press("n")
            page.locator("#ask-input").fill(NAME)
            page.keyboard.press("Enter")
            page.locator(f"#name:text('{NAME}')").wait_for()
            page.locator("#apply").click()
            page.locator("#unapplied").wait_for(state="hidden")
            for index in range(SELECTED):
                page.locator(f'.cell[data-index="{index}"] .pick').click()
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur()")
            page.locator("#message").wait_for(state="hidden")
            page.wait_for_load_state("networkidle")
            data = page.screenshot()
            browser.close()
    finally:
        server.terminate()
        server.wait()
    picture: np.ndarray = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return picture


def write_small_png(path: Path, picture: np.ndarray) -> int:
    """Writes uint8 BGR (h, w, 3) as a PNG with COLOURS colours. Returns the size of the file in bytes."""
    from PIL import Image

    image = Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if size > MOST_BYTES:
        print(f"{path} has {size:,} bytes, which is more than {MOST_BYTES:,}. Lower COLOURS.", file=sys.stderr)
    return size


if __name__ == "__main__":
    main()
