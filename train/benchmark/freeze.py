"""Freeze a set of a dataset as a benchmark. Everybody who has the same photos can make the same benchmark."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from curate.people.leaks.dataset_faces import Rules
from curate.people.leaks.find_leaks import Leaks, find_leaks
from degrade.operations.pixels import shrink
from degrade.sampling import check_seed
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.paths import crop_path
from manifests.runtime.files import lock_folder, remove_temporary_files
from manifests.runtime.progress import Progress
from manifests.runtime.versions import code_version
from train.benchmark.draw_references import CaseFaces
from train.benchmark.freeze_source import FreezeSource, read_source
from train.benchmark.frozen_benchmark import (
    CASES,
    EMBEDDINGS,
    FACES,
    KIND,
    LQ,
    PICTURES,
    SPLITS,
    VERSION,
    CaseLine,
    encode_lines,
    has_embeddings,
    hash_benchmark,
    hash_picture,
)
from train.benchmark.read_images import read_dataset_png
from train.benchmark.short_name import name_images
from train.benchmark.write_benchmark import check_benchmark_folder, read_card, write_benchmark

REFUSED_KINDS = ("identity", "photo", "near_duplicate", "own_reference")  # a leak of one of these kinds stops `freeze`


@dataclass(frozen=True)
class FreezeSummary:
    """Describes the benchmark that `freeze` wrote, or would write in a dry run."""

    folder: str
    benchmark: str  # the hash of the benchmark, a sha256; empty in a dry run
    name: str  # the short name, which results of `evaluate` carry (train/benchmark/short_name.py); empty in a dry run
    lq_set: str
    cases: int
    images_in_set: int
    people: int
    without_wrong_references: int
    cosines: int  # number of leaks of kind cosine, which `likeness leaks` lists
    pictures: bool
    written: int  # number of files that this call wrote


def freeze(
    dataset: Path,
    out: Path,
    lq_set: str | None = None,
    split: str = "test",
    references: int = 4,
    seed: int = 0,
    with_pictures: bool = False,
    with_embeddings: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
) -> FreezeSummary:
    """Writes the benchmark of a frozen set into `out`.

    The benchmark contains the set named `lq_set`. If `lq_set` is None, the benchmark contains the only set of the
    split. The references are the same as in `evaluate` (train/benchmark/draw_references.py). The name of a person is a
    hash of the person's smallest face id. A repeated call writes only the files that are missing or changed, and can
    add pictures to a benchmark without pictures. Embeddings are biometric data, so they are written only if
    `with_embeddings` is true.

    Raises BadInput if the options contradict each other, or if `out` contains other files or another benchmark. Raises
    LedgerBroken if the dataset has leaks, for example a target among its own references. Raises LedgerBroken also if an
    LQ image is not the image that was frozen. If one of these errors is raised, nothing was written.
    """
    if split not in SPLITS:
        raise BadInput(f"--split {split} is not a split: give one of {', '.join(SPLITS)}.")
    if references < 1:
        raise BadInput(f"--max-references {references} is too small: give 1 or more.")
    if with_embeddings and not with_pictures:
        raise BadInput("--with-embeddings needs --with-images: give both options, or leave --with-embeddings out.")
    check_seed(seed)
    dataset, out = Path(dataset), Path(out)
    check_benchmark_folder(out)
    source = read_source(dataset, lq_set, split, references, seed)
    leaks = find_leaks(
        source.faces,
        np.arange(len(source.faces)),
        source.vectors,
        _list_references(source),
        source.policy,
        source.rules,
        limit=1,
        progress=progress,
    )
    _refuse_leaks(leaks, dataset)
    counts = {
        "images_in_set": len(source.degradations),
        "cases": len(source.cases),
        "people": len({case.identity_id for case in source.cases}),
        "without_wrong_references": sum(not case.wrong for case in source.cases),
    }
    if dry_run:
        return _summarize(out, source, counts, leaks, pictures=with_pictures)

    # Make the lines of the benchmark. The name of the benchmark is a hash of these lines.
    picture_of, target_of = _hash_crops(source, progress)
    cases = [_make_case(source, case, picture_of) for case in source.cases]
    faces = [replace(line, picture=picture_of.get(line.face)) for line in source.faces]
    files = {CASES: encode_lines(cases), FACES: encode_lines(faces)}
    first = source.degradations[source.cases[0].face_id]
    card: dict[str, Any] = {
        "kind": KIND,
        "version": VERSION,
        "benchmark": hash_benchmark(files[CASES], files[FACES]),
        "name": name_images((case.face, case.lq, target_of[case.face]) for case in cases),
        "set": {"name": source.set_name, **{key: first[key] for key in ("preset", "seed")}},
        "size": first["size"],
        "engine": source.engine,
        "split": split,
        "policy": source.policy,
        "references": references,
        "seed": seed,
        **counts,
        "faces": dict(sorted(Counter(line.split for line in faces).items())),
        "recognizer": source.recognizer,
        "thresholds": _describe_thresholds(source.rules),
        "leaks": leaks.counts,
        "likeness": code_version(),
        "tools": {"numpy": np.__version__, "opencv": cv2.__version__},
    }
    # If `out` already contains the benchmark, its pictures and embeddings stay.
    earlier = read_card(out)
    if earlier and earlier["benchmark"] != card["benchmark"]:
        raise BadInput(
            f"{out} contains a different benchmark ({earlier['benchmark'][:12]}): give another folder with --out."
        )
    card["pictures"] = with_pictures or bool(earlier.get("pictures"))
    card["embeddings"] = with_embeddings or bool(earlier and has_embeddings(earlier))
    if card["embeddings"]:
        files[EMBEDDINGS] = _encode_embeddings(source, picture_of)
    copies = list(_list_copies(source, cases, picture_of)) if card["pictures"] else []
    with lock_folder(out):
        remove_temporary_files(out)
        written = write_benchmark(out, card, files, copies, progress)
    names = card["benchmark"], card["name"]
    return _summarize(out, source, counts, leaks, card["pictures"], names, written)


def _summarize(
    out: Path,
    source: FreezeSource,
    counts: dict[str, int],
    leaks: Leaks,
    pictures: bool,
    names: tuple[str, str] = ("", ""),
    written: int = 0,
) -> FreezeSummary:
    return FreezeSummary(
        folder=str(out),
        benchmark=names[0],
        name=names[1],
        lq_set=source.set_name,
        **counts,
        cosines=leaks.counts["cosine"],
        pictures=pictures,
        written=written,
    )


def _list_references(source: FreezeSource) -> np.ndarray:
    """Returns a row (position of the target, position of the reference) for each reference and each wrong reference,
    int64 (k, 2). The positions are those in `source.faces`.
    """
    number_of = {line.face: i for i, line in enumerate(source.faces)}
    pairs = [
        (number_of[case.face_id], number_of[ref]) for case in source.cases for ref in (*case.references, *case.wrong)
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _refuse_leaks(leaks: Leaks, dataset: Path) -> None:
    for leak in leaks.examples:
        if leak.kind == "own_reference":
            raise LedgerBroken(
                f"A target is among its own references, so nothing was frozen: face {leak.other[:12]} is a reference "
                f"of face {leak.one[:12]}, and is also {leak.what}. List all such references with `likeness leaks "
                f"{dataset}`."
            )
    if counts := [f"{leaks.counts[kind]} of kind {kind}" for kind in REFUSED_KINDS if leaks.counts[kind]]:
        raise LedgerBroken(
            f"{dataset} has leaks between its splits ({', '.join(counts)}), so nothing was frozen: list the leaks "
            f"with `likeness leaks {dataset}`."
        )


def _hash_crops(source: FreezeSource, progress: Progress) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the names of the pictures of all targets, references and wrong references, by face id.

    Also returns the hash of each target at the size of the set.
    """
    faces = sorted({face for case in source.cases for face in (case.face_id, *case.references, *case.wrong)})
    pictures, targets = {}, {}
    for done, face in enumerate(faces, 1):
        crop = read_dataset_png(crop_path(source.dataset, face))
        pictures[face] = hash_picture(crop)
        if face in source.degradations:
            targets[face] = hash_picture(shrink(crop, source.degradations[face]["size"]))
        progress("hash", done, len(faces))
    return pictures, targets


def _make_case(source: FreezeSource, case: CaseFaces, picture_of: dict[str, str]) -> CaseLine:
    row = source.degradations[case.face_id]
    line = CaseLine(
        case.face_id,
        case.identity_id,
        picture_of[case.face_id],
        hash_picture(read_dataset_png(source.find_lq_file(case.face_id), row["sha256"])),
        json.loads(row["theta"]),
        tuple(picture_of[ref] for ref in case.references),
        tuple(picture_of[ref] for ref in case.wrong),
        case.wrong_identity_id,
        source.geometries[case.face_id],
    )
    if line.picture in (*line.references, *line.wrong_references):
        raise LedgerBroken(
            f"A target is among its own references, so nothing was frozen: the crop of face {case.face_id[:12]} has "
            "the same pixels as one of its references."
        )
    return line


def _describe_thresholds(rules: Rules) -> dict[str, Any]:
    near_duplicate = asdict(rules)
    own = {name: near_duplicate.pop(name) for name in ("same_person", "false_match_rate")}
    return own | {"near_duplicate": near_duplicate}


def _encode_embeddings(source: FreezeSource, picture_of: dict[str, str]) -> bytes:
    """Returns the contents of embeddings.npy: a row for each picture, in the order of the pictures' names.

    If several faces have the same picture, the row has the embedding of the face with the smallest face id.
    """
    number_of = {line.face: i for i, line in enumerate(source.faces)}
    row_of = {picture: number_of[face] for face, picture in sorted(picture_of.items(), reverse=True)}
    buffer = io.BytesIO()
    np.save(buffer, source.vectors[[row_of[picture] for picture in sorted(row_of)]])
    return buffer.getvalue()


def _list_copies(
    source: FreezeSource, cases: Sequence[CaseLine], picture_of: dict[str, str]
) -> Iterator[tuple[str, str, Path]]:
    """Yields (path in the benchmark, name of the picture, file of the dataset) for each PNG of the benchmark."""
    for face, picture in sorted(picture_of.items()):
        yield f"{PICTURES}/{picture}.png", picture, crop_path(source.dataset, face)
    for case in cases:
        yield f"{LQ}/{case.lq}.png", case.lq, source.find_lq_file(case.face)
