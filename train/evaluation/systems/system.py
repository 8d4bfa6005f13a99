"""List the systems of an evaluation. A system is one way to treat each case, such as a restoration without references.

A counterfactual system gives the restorer wrong references, or changes the right references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from train.evaluation.sets.cases import Case
from train.evaluation.sets.embedder import Embed
from train.restore.references.reference_photos import References

# A Gaussian blurs the references of the system "blurred". Its standard deviation is this fraction (ours) of the side of
# the image: 4 px for a side of 128 px, and 15 px for a side of 512 px.
BLUR = 0.03
REFERENCE_COUNTS = (0, 1, 2, 4, 8)  # the numbers of references on the curve


@dataclass(frozen=True)
class System:
    """Describes one way to treat each case. `key` names the system in JSON, and `name` names it in tables."""

    key: str
    name: str
    references: int = 0  # The largest number of references.
    # "right": the references of the case. "wrong": references of another person. "turned" and "unlike": the poor
    # references of the case.
    source: str = "right"
    change: str = ""  # "shuffled" (in reverse order), "repeated" (copies of the first reference) or "blurred".
    restores: bool = True  # False for the system that is the LQ image itself.
    # True: the references are used without the check of `restore`
    # (train/restore/references/confirm_references.py)
    trust: bool = False


def list_systems(references: int, counts: Sequence[int] = ()) -> tuple[System, ...]:
    """Returns the usual systems: the LQ image, restorations with right references, and one with wrong references.

    The numbers of right references are 0, `references`, and each number in `counts` that lies between these two.
    """
    between = sorted({count for count in counts if 0 < count < references})
    return (
        System("lq", "LQ input", restores=False),
        System("0", "restored, no reference"),
        *(System(str(count), f"restored, {count} reference{'s' * (count > 1)}", count) for count in between),
        System(str(references), "restored", references),
        System(f"wrong{references}", "restored, wrong references", references, source="wrong"),
    )


def list_counterfactual_systems(references: int) -> tuple[System, ...]:
    """Returns the systems of the curve over the number of references, and the counterfactual systems.

    The ledger has no ages, so the references with the lowest cosines stand for photos of another age.
    """
    curve = [
        System(str(count), f"{count} reference{'s' * (count != 1)}" if count else "restored, no reference", count)
        for count in sorted({*REFERENCE_COUNTS, references})
    ]
    counterfactual = (
        System(f"shuffled{references}", "reordered references", references, change="shuffled"),
        System(f"repeated{references}", "one reference, repeated", references, change="repeated"),
        System(f"blurred{references}", "blurred references", references, change="blurred"),
        System(f"turned{references}", "references of another pose", references, source="turned"),
        System(f"unlike{references}", "references least alike", references, source="unlike"),
        System(f"wrong{references}", "wrong references", references, source="wrong"),
        System(f"trusted{references}", "references, not checked", references, trust=True),
        System(f"trusted_wrong{references}", "wrong references, not checked", references, source="wrong", trust=True),
    )
    return (System("lq", "LQ input", restores=False), *curve, *counterfactual)


def list_differences(references: int) -> tuple[tuple[str, str, str], ...]:
    """Returns the pairs of systems that are compared, as (name of the difference, first key, second key).

    The differences show whether references change a result, and whether the person on the references matters.
    """
    right, wrong = str(references), f"wrong{references}"
    return (
        ("right - none", right, "0"),
        ("right - wrong", right, wrong),
        ("wrong - none", wrong, "0"),
        ("none - LQ", "0", "lq"),
    )


def list_counterfactual_differences(references: int) -> tuple[tuple[str, str, str], ...]:
    """Returns the pairs of `list_differences` and adds more pairs, as (name of the difference, first key, second key).

    The added pairs compare right references with each kind of changed references. Two more pairs compare right and
    wrong references with no references. These references are used without the check of `restore`.
    """
    kinds = ("shuffled", "repeated", "blurred", "turned", "unlike")
    return (
        *list_differences(references),
        *((f"right - {kind}", str(references), f"{kind}{references}") for kind in kinds),
        ("right - none, not checked", f"trusted{references}", "0"),
        ("wrong - none, not checked", f"trusted_wrong{references}", "0"),
    )


def choose_photos(case: Case, system: System) -> tuple[tuple[np.ndarray, ...], np.ndarray] | None:
    """Returns the photos of a case from which a system makes its references, and the embeddings of the photos.

    Returns None if the case has no references of the system's kind. A system with n references gets the first n
    references of the case. On the curve over the number of references, each point therefore keeps the references of the
    point before, and adds references.
    """
    if system.source == "wrong":
        crops, embeddings = case.wrong, case.wrong_embeddings
    elif system.source == "right":
        crops, embeddings = case.references, case.reference_embeddings
    else:
        crops, embeddings = case.poor.get(system.source, ((), None))
    if embeddings is None or (not crops and (system.references or system.source != "right")):
        return None
    return crops[: system.references], embeddings[: system.references]


def select_references(case: Case, system: System, embed: Embed) -> References | None:
    """Returns the references that a system gives the restorer for a case, or None if `choose_photos` returns None.

    The embeddings of blurred references are computed after the blur.
    """
    photos = choose_photos(case, system)
    if photos is None:
        return None
    crops, embeddings = photos
    order = list(range(len(crops)))
    if system.change == "shuffled":
        order = order[::-1]
    elif system.change == "repeated":
        order = [0] * len(crops)
    images, vectors = [crops[i] for i in order], embeddings[order]
    if system.change == "blurred" and images:
        images = [cv2.GaussianBlur(image, (0, 0), BLUR * image.shape[0]) for image in images]
        vectors = embed(images)
    size = case.lq.shape[0]
    stacked = np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8)
    return References(stacked, np.asarray(vectors, np.float32))
