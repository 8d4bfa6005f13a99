"""The situation `families`: two couples who are always photographed together, and a family of five.

Each photo shows portraits of the data set `people_crops`, side by side. Each couple has four photos, which show both
people. The family has four photos of all five people, and 22 photos that show one person each. If people of two splits
are in one photo, curation removes faces of this photo from the splits.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from curate.config import CurateConfig
from curate.run.pipeline import curate
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Pair, Split
from manifests.pictures.images import decode

GAP = 30  # The distance between two portraits, in pixels.
COUPLES = ["ab"] * 4 + ["cd"] * 4  # Each text stands for a photo. Each letter stands for a person in the photo.
FAMILY = ["vwxyz"] * 4 + [*"vwxyz"] * 4 + ["v", "w"]
ALBUMS = {"couples": COUPLES, "family": FAMILY, "couples_and_family": COUPLES + FAMILY}


def is_held_out(person: str) -> bool:
    """Returns whether a person is held out of tuning. A fixed hash of the folder's name decides this."""
    return int(hashlib.sha256(person.encode()).hexdigest(), 16) % 2 == 1


def place_side_by_side(portraits: Sequence[np.ndarray]) -> np.ndarray:
    """Returns one photo, RGB uint8, with all `portraits`, which must have the same size."""
    height, width = portraits[0].shape[:2]
    image = np.full((height + 2 * GAP, (width + GAP) * len(portraits) + GAP, 3), 128, np.uint8)
    for place, portrait in enumerate(portraits):
        x = GAP + place * (width + GAP)
        image[GAP : GAP + height, x : x + width] = portrait
    return image


def measure(folder: Path, shared: Path, seed: int) -> dict[str, Any]:
    """Curates three albums of people who are held out of tuning.

    Returns for each album the share of the faces that are in a split, and the numbers of people and of targets in each
    split.
    """
    people = sorted(one for one in (shared / "people_crops").iterdir() if is_held_out(one.name))
    rng = np.random.default_rng(seed)
    chosen = dict(zip("abcdvwxyz", rng.choice(len(people), 9, replace=False).tolist(), strict=True))
    portraits = {letter: rng.permutation(sorted(people[number].iterdir())) for letter, number in chosen.items()}
    figures: dict[str, Any] = {}
    for name, photos in ALBUMS.items():
        (folder / name).mkdir(parents=True)
        used: Counter[str] = Counter()
        for number, shown in enumerate(photos):
            images = [decode(Path(portraits[letter][used[letter]])) for letter in shown]
            used.update(shown)
            Image.fromarray(place_side_by_side(images)).save(folder / name / f"{number:02}.png")
        dataset = folder / f"{name}_dataset"
        spec = f"insightface:{shared / 'weights' / 'insightface_small'}"
        curate([folder / name], dataset, CurateConfig(faces=spec))
        with Ledger.open(dataset) as ledger:
            rows, pairs = ledger.read_rows(Split), ledger.read_rows(Pair)
        kept = [row for row in rows if row.status == "ok"]
        figures[name] = {
            "faces_in_a_split": round(len(kept) / max(len(rows), 1), 4),
            "faces": len(rows),
            "people": dict(
                sorted(Counter(split for _, split in {(row.identity_id, row.split) for row in kept}).items())
            ),
            "targets": dict(sorted(Counter(pair.split for pair in pairs).items())),
        }
    return figures
