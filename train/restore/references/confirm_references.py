"""Decides whether references are used for a face that the recognizer does not match with them.

`restore` and `evaluate` decide in the same way. All numbers of this file are ours. We chose ILLEGIBLE_SHARPNESS and
RESTORED_SHARE with 352 faces of people of the split `val`, degraded with the preset `codeformer`. Each face had four
references of the right person, or of another person. docs/train.md says for how many of these faces the references are
used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# the parts of a restorer that use references
REFERENCE_PARTS = {"maps", "embedding", "extended", "identity", "features"}

# A face with a lower sharpness counts as degraded: the recognizer may not recognize the person. We measured published
# photos. All 37 references have a sharpness of .39 or more. Of 23 LQ photos with references, 5 have a sharpness below
# .35. One of the 23 photos was not matched with its references. Its sharpness is .13.
DEGRADED_SHARPNESS = 0.35
# A face with a lower sharpness cannot be recognized, not even after a restoration.
ILLEGIBLE_SHARPNESS = 0.12
# A face with a sharpness from ILLEGIBLE_SHARPNESS to DEGRADED_SHARPNESS is first restored without references. The
# references are then used if their mean cosine to the result is at least this share of `same_person`.
RESTORED_SHARE = 1 / 6


class NotRestoredYet(Exception):
    """A face must be restored without references before its references can be chosen."""


@dataclass(frozen=True)
class Confirmation:
    """Holds the decision. `note` continues the sentence "The face was restored with 2 references"."""

    confirmed: bool
    note: str = ""


def confirm_references(
    embedding: np.ndarray,
    sharpness: float,
    references: np.ndarray,
    same_person: float,
    embed_restored: Callable[[], np.ndarray] | None,
) -> Confirmation:
    """Decides whether references are used for a face.

    `embedding` (d,) and `references` (K, d) are unit embeddings. K is 1 or more. `sharpness` is the sharpness of the
    face, see `curate.faces.measure.measure_sharpness`. `same_person` is the recognizer's threshold for two faces of one
    person. `embed_restored` restores the face without references and returns the unit embedding (d,) of the result, or
    raises NotRestoredYet. `embed_restored` is called only if the cosine and the sharpness of the face are not enough
    for the decision. If the restorer cannot restore without references, `embed_restored` is None, and the embedding of
    the face itself is used instead.
    """
    cosine = float((references @ embedding).mean())
    if cosine >= same_person:
        return Confirmation(True)
    needed = describe_cosine(cosine, same_person)
    if sharpness >= DEGRADED_SHARPNESS:
        return Confirmation(False, describe_mismatch(needed))
    if sharpness < ILLEGIBLE_SHARPNESS:
        note = f", although the face is too degraded to confirm that the references show its person ({needed})"
        return Confirmation(True, note)
    least = RESTORED_SHARE * same_person
    after = cosine if embed_restored is None else float((references @ embed_restored()).mean())
    when = "" if embed_restored is None else " when the face is restored without references"
    needed = describe_cosine(after, least, when)
    if after >= least:
        note = f", although the face is so degraded that it is only a little like the references ({needed})"
        return Confirmation(True, note)
    return Confirmation(False, describe_mismatch(needed))


def describe_cosine(cosine: float, least: float, when: str = "") -> str:
    """Returns a text with the mean cosine of a face to its references, and with the smallest cosine that is needed."""
    return f"mean cosine {cosine:.2f}{when}, at least {least:.2f} needed"


def describe_mismatch(needed: str) -> str:
    """Returns the note of a face whose references are not used. `needed` is the result of `describe_cosine`."""
    return f", because the references do not match the face ({needed})"
