"""What a restorer is shown of a person, rightly or wrongly: the rows of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from train.data.tensors import to_tensor
from train.evaluation.cases import Case
from train.restore.reference_photos import References

BLUR = 0.03  # deviation of the Gaussian on blurred references, share of the side: 4 px at 128, 15 at 512 (ours)
REFERENCE_COUNTS = (0, 1, 2, 4, 8)  # numbers of references

# photos (S, S, 3) uint8 in the FFHQ template -> float32 (K, d) unit rows of the recognizer that the restorer knows
Embed = Callable[[Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class System:
    """A row of the evaluation's table; `key` is its name in JSON."""

    key: str
    name: str
    references: int = 0  # at most
    # whose: "right"; "wrong", another person's; of the person's photos the "turned" ones, whose yaw differs most from
    # the target's, or the "unlike" ones, whose embeddings do
    of: str = "right"
    altered: str = ""  # "shuffled": in the opposite order; "repeated": the first alone, as often; "blurred"
    restored: bool = True  # False: the LQ input itself


def list_systems(references: int, counts: Sequence[int] = ()) -> tuple[System, ...]:
    """The rows with up to `references` references, and with each number in `counts` that lies between."""
    between = sorted({count for count in counts if 0 < count < references})
    return (
        System("lq", "LQ input", restored=False),
        System("0", "restored, no reference"),
        *(System(str(count), f"restored, {count} reference{'s' * (count > 1)}", count) for count in between),
        System(str(references), "restored", references),
        System(f"wrong{references}", "restored, wrong references", references, of="wrong"),
    )


def list_counterfactual_systems(references: int) -> tuple[System, ...]:
    """The curve over K, with `references` among them, and as many shown in every way that is not as it should be.

    Nobody's age is in a ledger: the photos least alike by embedding stand for another age.
    """
    curve = [
        System(str(count), f"{count} reference{'s' * (count != 1)}" if count else "restored, no reference", count)
        for count in sorted({*REFERENCE_COUNTS, references})
    ]
    told = (
        System(f"shuffled{references}", "the same, in another order", references, altered="shuffled"),
        System(f"repeated{references}", "one reference, repeated", references, altered="repeated"),
        System(f"blurred{references}", "blurred references", references, altered="blurred"),
        System(f"turned{references}", "references of another pose", references, of="turned"),
        System(f"unlike{references}", "references least alike", references, of="unlike"),
        System(f"wrong{references}", "wrong references", references, of="wrong"),
    )
    return (System("lq", "LQ input", restored=False), *curve, *told)


def list_differences(references: int) -> tuple[tuple[str, str, str], ...]:
    """The differences that say whether references help, and whether it matters whose they are: name, key, key."""
    full, wrong = str(references), f"wrong{references}"
    return ("right - none", full, "0"), ("right - wrong", full, wrong), ("none - LQ", "0", "lq")


def list_counterfactual_differences(references: int) -> tuple[tuple[str, str, str], ...]:
    """Those, and what each departure from the right references costs."""
    ways = ("shuffled", "repeated", "blurred", "turned", "unlike")
    return (*list_differences(references), *((f"right - {way}", str(references), f"{way}{references}") for way in ways))


def select_references(case: Case, system: System, embed: Embed) -> References | None:
    """The references that `system` is shown for `case`; None where there are none of the kind.

    Fewer are the first of more, so that a curve over their number adds photos and exchanges none. Blurred ones are
    embedded as they are seen.
    """
    if system.of == "wrong":
        crops, embeddings = case.wrong, case.wrong_embeddings
    elif system.of == "right":
        crops, embeddings = case.references, case.reference_embeddings
    else:
        crops, embeddings = case.others.get(system.of, ((), None))
    if not crops or embeddings is None:
        return None
    count = min(system.references, len(crops))
    chosen = list(range(count))
    if system.altered == "shuffled":
        chosen = chosen[::-1]
    elif system.altered == "repeated" and count:
        chosen = [0] * count
    pictures, vectors = [crops[place] for place in chosen], embeddings[chosen]
    if system.altered == "blurred" and count:
        pictures = [cv2.GaussianBlur(picture, (0, 0), BLUR * picture.shape[0]) for picture in pictures]
        vectors = embed(pictures)
    size = case.lq.shape[0]
    stacked = torch.stack([to_tensor(picture) for picture in pictures]) if pictures else torch.zeros(0, 3, size, size)
    return References(stacked, torch.from_numpy(np.asarray(vectors, np.float32)))
