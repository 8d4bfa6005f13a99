"""The cases of a frozen set: what a restorer is shown, what it is compared to, and that it was not trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from degrade.operations.pixels import shrink
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.queries import read_set_sizes
from manifests.runtime.files import sha256_bytes
from manifests.runtime.png_files import decode_own_png
from train.benchmark.draw_references import CaseFaces, draw_references
from train.benchmark.frozen_benchmark import (
    faces_by_picture,
    has_embeddings,
    is_benchmark,
    load_benchmark,
    read_crops,
    read_embeddings,
    read_lq,
)


@dataclass(frozen=True)
class Case:
    """One image of a frozen set with what it is compared to and what the restorer may see."""

    face_id: str
    identity_id: str
    lq: np.ndarray  # uint8 (S, S, 3)
    target: np.ndarray  # uint8 (S, S, 3)
    references: tuple[np.ndarray, ...]  # uint8 (S, S, 3)
    reference_embeddings: np.ndarray  # float32 (K, d)
    wrong: tuple[np.ndarray, ...] = ()  # uint8 (S, S, 3), K of another person; none where nobody has as many photos
    wrong_embeddings: np.ndarray | None = None  # float32 (K, d)
    wrong_identity_id: str | None = None
    # as many of the person's photos, chosen to be of little help: "turned", those whose yaw differs most from the
    # target's; "unlike", those with the lowest cosine to it
    others: Mapping[str, tuple[tuple[np.ndarray, ...], np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class FrozenSet:
    """A frozen set as it is measured."""

    name: str
    images: int  # in the set; those whose person has no other usable photo have no case
    cases: tuple[Case, ...]  # ordered by face id


def read_frozen_set(
    dataset: Path, size: int | None, lq_set: str | None, references: int, seed: int, harder: bool = False
) -> FrozenSet:
    """The frozen set of that name, or the one test set of the restorer's size; of any, where `size` is None.

    References are drawn from all usable photos of the same person on the side that a restorer may see, by a stable
    hash of (seed, face): never by likeness to the target, which nobody has when restoring. Wrong references are as
    many photos of another person of the set, see _draw_wrong. A benchmark, whose draws are made, stands in for the
    dataset, or for the set where it holds no pictures and takes them from the dataset. `harder` fills `others` of each
    case, which a benchmark's have not. Raises BadInput for a set that
    is not there, not finished or of another size, LedgerBroken for an image that is not the frozen one.
    """
    if is_benchmark(dataset):
        return read_benchmark_set(dataset, None, size, references)
    if lq_set is not None and is_benchmark(Path(lq_set)):
        return read_benchmark_set(Path(lq_set), dataset, size, references)
    with Ledger.open(dataset) as ledger:
        name = _choose_set(ledger, lq_set, size)
        frozen, chosen = draw_references(ledger, name, references, seed)
        others = _harder(ledger, chosen, references) if harder else {}
        drawn = {ref for case in chosen for ref in (*case.references, *case.wrong)}
        wanted = sorted(drawn.union(*(faces for kinds in others.values() for faces in kinds.values())))
        vector = dict(zip(*ledger.read_embeddings(wanted), strict=True))
        name_size = size or read_set_sizes(ledger)[name]
    if not chosen:
        raise BadInput(f"No face of the set {name} has a reference: nothing can be measured.")
    shown = {*wanted, *(case.face_id for case in chosen)}
    crops = {face: shrink(read_png(crop_path(dataset, face)), name_size) for face in shown}
    cases = tuple(
        Case(
            case.face_id,
            case.identity_id,
            read_png(dataset / "lq" / name / f"{case.face_id}.png", frozen[case.face_id]),
            crops[case.face_id],
            tuple(crops[ref] for ref in case.references),
            np.stack([vector[ref] for ref in case.references]),
            tuple(crops[ref] for ref in case.wrong),
            np.stack([vector[ref] for ref in case.wrong]) if case.wrong else None,
            case.wrong_identity_id,
            {
                kind: (tuple(crops[ref] for ref in faces), np.stack([vector[ref] for ref in faces]))
                for kind, faces in others.get(case.face_id, {}).items()
            },
        )
        for case in chosen
    )
    return FrozenSet(name, len(frozen), cases)


def read_benchmark_set(
    folder: Path, photos: Path | None = None, size: int | None = None, references: int | None = None
) -> FrozenSet:
    """A benchmark of `likeness freeze` as it is measured, with the first `references` of each target's references.

    Without pictures of its own, `photos` names a dataset of the same photos; crops are found there by face and compared
    with the pixels that were frozen, LQ pictures made again. `size` is what a restorer works at. Raises BadInput for
    what does not fit, LedgerBroken for a picture that is missing or another one.
    """
    found = load_benchmark(folder)
    card = found.card
    if size is not None and card["size"] != size:
        raise BadInput(f"{folder} has {card['size']} px images, the restorer works at {size} px.")
    if references is not None and references > card["references"]:
        raise BadInput(f"{folder} was frozen with {card['references']} references an image: ask for no more of them.")
    crops, face = read_crops(found, photos), faces_by_picture(found)
    own = has_embeddings(card)
    if not own and photos is None:
        raise BadInput(
            f"{folder} was frozen without embeddings: name a dataset of the same photos first and the "
            "benchmark with --benchmark, or freeze it again with --with-embeddings."
        )
    vector = dict(zip(*read_embeddings(found, None if own else photos), strict=True))
    if missing := [one for one in face.values() if one not in vector]:
        raise LedgerBroken(f"{photos} has no embedding of face {missing[0][:12]}: it must hold the photos of {folder}.")
    cases = []
    for case in found.cases:
        right, wrong = case.references[:references], case.wrong_references[:references]
        cases.append(
            Case(
                case.face,
                case.person,
                read_lq(found, case, photos),
                crops[case.picture],
                tuple(crops[ref] for ref in right),
                np.stack([vector[face[ref]] for ref in right]),
                tuple(crops[ref] for ref in wrong),
                np.stack([vector[face[ref]] for ref in wrong]) if wrong else None,
                case.wrong_person,
            )
        )
    return FrozenSet(card["set"]["name"], card["images_in_set"], tuple(cases))


def _harder(ledger: Ledger, chosen: Sequence[CaseFaces], count: int) -> dict[str, dict[str, list[str]]]:
    """Of each case's pool the `count` faces of another pose, and those least alike, by face."""
    faces = sorted({face for case in chosen for face in (case.face_id, *case.pool)})
    vector = dict(zip(*ledger.read_embeddings(faces), strict=True))
    yaw = dict(ledger.query("SELECT face_id, yaw FROM faces WHERE status = 'ok'").iter_rows())
    found = {}
    for case in chosen:
        target = case.face_id
        turned = sorted(case.pool, key=lambda ref: (-abs(yaw[ref] - yaw[target]), ref))
        unlike = sorted(case.pool, key=lambda ref: (float(vector[ref] @ vector[target]), ref))
        found[target] = {"turned": turned[:count], "unlike": unlike[:count]}
    return found


def _choose_set(ledger: Ledger, wanted: str | None, size: int | None) -> str:
    sets = read_set_sizes(ledger)
    if wanted is not None:
        if wanted not in sets:
            raise BadInput(f"There is no frozen set {wanted}; there are: {', '.join(sorted(sets)) or 'none'}.")
        if size is not None and sets[wanted] != size:
            raise BadInput(f"The set {wanted} has {sets[wanted]} px images, the restorer works at {size} px.")
        return wanted
    fitting = sorted(name for name, pixels in sets.items() if size in (None, pixels) and "-test-" in name)
    if len(fitting) != 1:
        told = f"{len(fitting)} fit: {', '.join(fitting)}; say which with --set." if fitting else (
            f"make one with `likeness degrade {ledger.dataset} --split test --size {size or 512}`."
        )  # fmt: skip
        raise BadInput(f"A frozen test set{f' of {size} px' if size else ''} is needed; {told}")
    return fitting[0]


def read_png(path: Path, sha256: str | None = None) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a PNG of the dataset; with `sha256`, of exactly that file."""
    try:
        data = path.read_bytes()
        pixels = decode_own_png(data)
    except (OSError, cv2.error):
        data, pixels = b"", None
    if pixels is None or (sha256 is not None and sha256_bytes(data) != sha256):
        raise LedgerBroken(f"{path} is missing, broken or changed: run `likeness manifest check` on the dataset.")
    return pixels
