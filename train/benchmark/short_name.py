"""Gives a frozen set a short name that depends only on its images, and makes the names of result files."""

from __future__ import annotations

import re
from collections.abc import Iterable

from manifests.runtime.files import sha256_bytes

# The number of hexadecimal digits of a name (ours). With a probability of 99.8%, a million different sets have a
# million different names.
DIGITS = 12


def name_images(images: Iterable[tuple[str, ...]]) -> str:
    """Returns the short name of a set, for example `b-3f9a1c20d4e5`.

    `images` has a tuple for each image: its face id, and the names of its pictures (`hash_picture`). The order of the
    images does not matter. Everybody who has the same images gets the same name.
    """
    lines = sorted(" ".join(one) for one in images)
    return "b-" + sha256_bytes("\n".join(lines).encode())[:DIGITS]


def name_result_file(stem: str, lq_set: str, short_name: str, judge: str | None, steps: int) -> str:
    """Returns the name of a result file without its suffix, for example `evaluation-gfpgan-test-256-s0-3f9a1c`.

    The name is `stem`, the name of the set, the first six digits of its short name, then `-<steps>-steps` if `steps` is
    above 1, and `-judge` if `judge` is not None. In one folder, a result does not overwrite a result of another set or
    of another number of steps, and a result with a judge does not overwrite a result without a judge. A result with
    another judge or other metrics is overwritten.
    """
    readable = re.sub("[^a-z0-9]+", "-", lq_set.lower()).strip("-")
    settings = ("" if steps == 1 else f"-{steps}-steps") + ("" if judge is None else "-judge")
    return f"{stem}-{readable}-{short_name.removeprefix('b-')[:6]}{settings}"
