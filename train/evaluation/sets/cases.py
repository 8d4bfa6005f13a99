"""Reads the cases of a frozen set. A case is one LQ image with its target, its references and its wrong references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from degrade.operations.pixels import shrink
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.decisions.applied_decisions import check_decisions_applied
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.queries import read_set_sizes
from train.benchmark.crop_geometry import read_geometries
from train.benchmark.draw_references import CaseFaces, draw_references
from train.benchmark.frozen_benchmark import has_embeddings, is_benchmark, load_benchmark, map_pictures_to_faces
from train.benchmark.read_images import read_crops, read_dataset_png, read_embeddings, read_lq


@dataclass(frozen=True)
class Case:
    """Holds one LQ image of a frozen set with its target and its references."""

    face_id: str
    identity_id: str
    lq: np.ndarray  # uint8 (S, S, 3).
    target: np.ndarray | None  # uint8 (S, S, 3), or None if the set has no targets.
    references: tuple[np.ndarray, ...]  # K images of the same person, uint8 (S, S, 3).
    reference_embeddings: np.ndarray  # float32 (K, d): the embeddings of `references`.
    wrong: tuple[np.ndarray, ...] = ()  # Images of another person, uint8 (S, S, 3), or () if no other person has enough
    wrong_embeddings: np.ndarray | None = None  # The embeddings of `wrong`, float32 (number of images, d).
    wrong_identity_id: str | None = None
    # Images of the same person that are poor references, and their embeddings. The images "turned" are those whose yaw
    # differs most from the target's yaw. The images "unlike" are those with the lowest cosines to the target.
    poor: Mapping[str, tuple[tuple[np.ndarray, ...], np.ndarray]] = field(default_factory=dict)
    valid: np.ndarray | None = None  # bool (S, S): the target's pixels that come from its photo; None for all pixels

    @property
    def size(self) -> int:
        """Returns the side of the images that are measured, in pixels."""
        return int(self.lq.shape[0])


@dataclass(frozen=True)
class FrozenSet:
    """Holds the cases of a frozen set."""

    name: str
    images: int  # Number of all LQ images of the set; an image without a usable reference has no case.
    cases: tuple[Case, ...]  # Sorted by face id.
    without_case: tuple[str, ...] = ()  # Face ids of images without a usable reference; empty for a benchmark.
    # The following fields describe an imported benchmark (train/evaluation/sets/imported_set.py).
    is_imported: bool = False
    has_targets: bool = True
    people_known: bool = True  # False if the set does not say who is on each image; each image is then one person.
    problems: Mapping[str, int] = field(default_factory=dict)  # Problem -> number of files with this problem.

    @property
    def most_references(self) -> int:
        """Returns the largest number of references of a case."""
        return max(len(case.references) for case in self.cases)


def read_frozen_set(
    dataset: Path,
    size: int | None,
    lq_set: str | None,
    references: int,
    seed: int,
    with_poor: bool = False,
    most_references: int | None = None,
    keep: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> FrozenSet:
    """Reads the frozen set named `lq_set`, or the only test set whose images have a side of `size` pixels.

    If `size` is None, the images can have any size. The draw of the references does not use the pixels of the target
    (train/benchmark/draw_references.py), because a user who restores a photo has no target. If `with_poor` is true,
    each case also has its poor references. `dataset` or `lq_set` can be the folder of a benchmark. A benchmark lists
    the references of its cases, but no poor references. If a benchmark has no pictures, `dataset` must contain its
    photos.

    A case has up to `references` references, and up to `references` wrong references. With `most_references`, a case
    has up to `most_references` references. The first `references` references and the wrong references of the case stay
    the same.

    `keep` is called with each picture and mask, and the result of `keep` is used in its place.

    Raises BadInput if the set does not exist, is not finished, or has another size. Raises LedgerBroken if an LQ image
    is not the image that was frozen.
    """
    if is_benchmark(dataset):
        return read_benchmark_set(dataset, None, size, references, most_references, keep)
    if lq_set is not None and is_benchmark(Path(lq_set)):
        return read_benchmark_set(Path(lq_set), dataset, size, references, most_references, keep)
    with Ledger.open(dataset) as ledger:
        check_decisions_applied(ledger)
        sizes = read_set_sizes(ledger)
        name = _choose_set(sizes, ledger.dataset, lq_set, size)
        most = max(references, most_references or 0)
        lq_sha256, cases = draw_references(ledger, name, most, seed, wrong_references=references)
        poor = _choose_poor_references(ledger, cases, references) if with_poor else {}
        faces = {ref for case in cases for ref in (*case.references, *case.wrong)}
        reference_faces = sorted(faces.union(*(refs for kinds in poor.values() for refs in kinds.values())))
        embedding = dict(zip(*ledger.read_embeddings(reference_faces), strict=True))
        geometries = read_geometries(ledger, [case.face_id for case in cases])
    if not cases:
        raise BadInput(f"No face of the set {name} has a reference, so nothing can be measured: give another --set.")
    crops = {
        face: keep(shrink(read_dataset_png(crop_path(dataset, face)), sizes[name]))
        for face in {*reference_faces, *(case.face_id for case in cases)}
    }
    return FrozenSet(
        name,
        len(lq_sha256),
        tuple(
            Case(
                case.face_id,
                case.identity_id,
                keep(read_dataset_png(dataset / "lq" / name / f"{case.face_id}.png", lq_sha256[case.face_id])),
                crops[case.face_id],
                tuple(crops[ref] for ref in case.references),
                np.stack([embedding[ref] for ref in case.references]),
                tuple(crops[ref] for ref in case.wrong),
                np.stack([embedding[ref] for ref in case.wrong]) if case.wrong else None,
                case.wrong_identity_id,
                {
                    kind: (tuple(crops[ref] for ref in refs), np.stack([embedding[ref] for ref in refs]))
                    for kind, refs in poor.get(case.face_id, {}).items()
                },
                keep(geometries[case.face_id].find_valid(sizes[name])),
            )
            for case in cases
        ),
        tuple(sorted(lq_sha256.keys() - {case.face_id for case in cases})),
    )


def read_benchmark_set(
    folder: Path,
    photos: Path | None = None,
    size: int | None = None,
    references: int | None = None,
    most_references: int | None = None,
    keep: Callable[[np.ndarray], np.ndarray] = lambda image: image,
) -> FrozenSet:
    """Reads the cases of a benchmark. A case gets its first `references` references, and at most as many wrong
    references.

    With `most_references`, a case has up to `most_references` references, if the benchmark has them. If the benchmark
    has no pictures, `photos` is a dataset of the same photos. The crops are then read from the dataset and compared
    with the frozen hashes of their pixels, and the LQ images are made again. `size` is the side of the restorer's
    images in pixels, or None for any size. `keep` is as in `read_frozen_set`. Raises BadInput if the benchmark does not
    fit these arguments. Raises LedgerBroken if a picture is missing or has different pixels.
    """
    benchmark = load_benchmark(folder)
    card = benchmark.card
    if size is not None and card["size"] != size:
        raise BadInput(
            f"{folder} has images of {card['size']} px, but the restorer works at {size} px: freeze a set of {size} px."
        )
    if references is not None and references > card["references"]:
        raise BadInput(
            f"{folder} was frozen with {card['references']} references for each image, but --max-references is "
            f"{references}: give {card['references']} or less."
        )
    crops, face_of = read_crops(benchmark, photos, keep), map_pictures_to_faces(benchmark)
    own_embeddings = has_embeddings(card)
    if not own_embeddings and photos is None:
        raise BadInput(
            f"{folder} was frozen without embeddings: give a dataset of the same photos as DATASET and the benchmark "
            "with --benchmark, or freeze the benchmark again with --with-embeddings."
        )
    embedding = dict(zip(*read_embeddings(benchmark, None if own_embeddings else photos), strict=True))
    if missing := [face for face in face_of.values() if face not in embedding]:
        raise LedgerBroken(
            f"{photos} has no embedding of face {missing[0][:12]}: give a dataset that contains the photos of {folder}."
        )
    cases = []
    for case in benchmark.cases:
        most = None if references is None else max(references, most_references or 0)
        right, wrong = case.references[:most], case.wrong_references[:references]
        cases.append(
            Case(
                case.face,
                case.person,
                keep(read_lq(benchmark, case, photos)),
                crops[case.picture],
                tuple(crops[ref] for ref in right),
                np.stack([embedding[face_of[ref]] for ref in right]),
                tuple(crops[ref] for ref in wrong),
                np.stack([embedding[face_of[ref]] for ref in wrong]) if wrong else None,
                case.wrong_person,
                valid=keep(case.geometry.find_valid(card["size"])),
            )
        )
    return FrozenSet(card["set"]["name"], card["images_in_set"], tuple(cases))


def _choose_poor_references(ledger: Ledger, cases: Sequence[CaseFaces], count: int) -> dict[str, dict[str, list[str]]]:
    """Returns the poor references of each target, `count` of each kind (see `Case.poor`).

    Poor references are chosen among the faces from which the references were drawn.
    """
    faces = sorted({face for case in cases for face in (case.face_id, *case.pool)})
    embedding = dict(zip(*ledger.read_embeddings(faces), strict=True))
    yaw = dict(ledger.query("SELECT face_id, yaw FROM faces WHERE status = 'ok'").iter_rows())
    poor = {}
    for case in cases:
        target = case.face_id
        turned = sorted(case.pool, key=lambda ref: (-abs(yaw[ref] - yaw[target]), ref))
        unlike = sorted(case.pool, key=lambda ref: (float(embedding[ref] @ embedding[target]), ref))
        poor[target] = {"turned": turned[:count], "unlike": unlike[:count]}
    return poor


def _choose_set(sizes: Mapping[str, int], dataset: Path, name: str | None, size: int | None) -> str:
    """Checks and returns `name`. If `name` is None, returns the only test set whose images have a side of `size`
    pixels."""
    if name is not None:
        if name not in sizes:
            raise BadInput(
                f"The dataset has no frozen set {name}: give one of its sets with --set "
                f"({', '.join(sorted(sizes)) or 'the dataset has no set'})."
            )
        if size is not None and sizes[name] != size:
            raise BadInput(
                f"The set {name} has images of {sizes[name]} px, but the restorer works at {size} px: give a set of "
                f"{size} px with --set."
            )
        return name
    names = sorted(name for name, pixels in sizes.items() if size in (None, pixels) and "-test-" in name)
    if len(names) > 1:
        raise BadInput(
            f"The dataset has {len(names)} test sets that fit: give one of these sets with --set ({', '.join(names)})."
        )
    if not names:
        raise BadInput(
            f"The dataset has no frozen test set{f' of {size} px' if size else ''}: make one with `likeness degrade "
            f"{dataset} --split test --size {size or 512}`."
        )
    return names[0]
