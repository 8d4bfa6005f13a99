"""DATASET -> benchmark: a frozen set with its draws, in a folder that whoever has the same photos can make again."""

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

from degrade.sampling import check_seed
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import crop_path
from manifests.ledger.queries import read_recognizer, read_set_detail
from manifests.ledger.records import Degradation, Model
from manifests.runtime.files import LOCK, find_blocking_file, lock_folder, remove_temporary_files, write_atomically
from manifests.runtime.images import UndecodableImage, decode
from manifests.runtime.progress import Progress
from manifests.runtime.versions import code_version
from train.benchmark.draw_references import CaseFaces, draw_references, name_people
from train.benchmark.frozen_benchmark import (
    CARD,
    CASES,
    EMBEDDINGS,
    FACES,
    KIND,
    LQ,
    PICTURES,
    SPLITS,
    VERSION,
    CaseLine,
    FaceLine,
    encode_lines,
    has_embeddings,
    hash_benchmark,
    hash_picture,
    is_benchmark,
)
from train.benchmark.leaks import Leaks, Rules, find_leaks, read_faces, read_policy, read_rules
from train.evaluation.cases import read_png

HARD = ("identity", "photo", "near_duplicate", "own_reference")  # nothing is frozen over one of these


@dataclass(frozen=True)
class FreezeSummary:
    """A benchmark after `freeze`, or as it would be."""

    folder: str
    benchmark: str  # its sha256; empty where nothing was read (a dry run)
    lq_set: str
    cases: int
    images_in_set: int
    people: int
    without_wrong_references: int
    cosines: int  # faces of two splits that look like one person's: `likeness leaks` lists them
    pictures: bool
    written: int  # files of this call


def freeze(
    dataset: Path,
    into: Path,
    lq_set: str | None = None,
    split: str = "test",
    references: int = 4,
    seed: int = 0,
    with_pictures: bool = False,
    with_embeddings: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
) -> FreezeSummary:
    """Write the benchmark of a frozen set: the named one, or the only one of the split.

    References and wrong references are drawn as `evaluate` draws them (train/evaluation/cases.py), and people are
    named by their
    smallest face, so that no history of the dataset shows. The same command resumes, writes again what is gone or
    changed, and adds pictures to a benchmark without. Embeddings are biometric data, and go with the pictures only
    where `with_embeddings` asks for them. Raises BadInput, with nothing written, for options that make no
    sense and for a folder that holds anything else; LedgerBroken for a dataset that leaks, which includes a target or
    its near-duplicate among its own references, and for a picture that is not what was frozen.
    """
    if split not in SPLITS:
        raise BadInput(f"There is no split {split}; the splits are {', '.join(SPLITS)}.")
    if references < 1:
        raise BadInput("--max-references must be at least 1: a benchmark of this kind shows references.")
    if with_embeddings and not with_pictures:
        raise BadInput("--with-embeddings belongs to --with-images: without pictures nobody has a use for them.")
    check_seed(seed)
    dataset, into = Path(dataset), Path(into)
    _check_folder(into)
    source = _read(dataset, lq_set, split, references, seed)
    leaks = find_leaks(
        source.faces,
        np.arange(len(source.faces)),
        source.vectors,
        _shown(source),
        source.policy,
        source.rules,
        limit=1,
        progress=progress,
    )
    _refuse(leaks, dataset)
    counts = {
        "images_in_set": len(source.degraded),
        "cases": len(source.drawn),
        "people": len({case.identity_id for case in source.drawn}),
        "without_wrong_references": sum(not case.wrong for case in source.drawn),
    }
    if dry_run:
        return _told(into, source, counts, leaks, pictures=with_pictures)

    picture_of = _pictures(source, progress)
    cases = [_case(source, case, picture_of) for case in source.drawn]
    faces = [replace(line, picture=picture_of.get(line.face)) for line in source.faces]
    lines = {CASES: encode_lines(cases), FACES: encode_lines(faces)}
    first = source.degraded[source.drawn[0].face_id]
    card: dict[str, Any] = {
        "kind": KIND,
        "version": VERSION,
        "benchmark": hash_benchmark(lines[CASES], lines[FACES]),
        "set": {"name": source.name, "preset": first.preset, "seed": first.seed},
        "size": first.size,
        "engine": source.engine,
        "split": split,
        "policy": source.policy,
        "references": references,
        "seed": seed,
        **counts,
        "faces": dict(sorted(Counter(line.split for line in faces).items())),
        "recognizer": {"sha256": source.recognizer.sha256, "dim": source.recognizer.dim},
        "thresholds": _thresholds(source.rules),
        "leaks": leaks.counts,
        "likeness": code_version(),
        "tools": {"numpy": np.__version__, "opencv": cv2.__version__},
    }
    there = _card_of(into)
    if there and there["benchmark"] != card["benchmark"]:
        raise BadInput(f"{into} holds another benchmark ({there['benchmark'][:12]}): name another folder for --out.")
    card["pictures"] = with_pictures or bool(there.get("pictures"))
    card["embeddings"] = with_embeddings or bool(there and has_embeddings(there))
    if card["embeddings"]:
        lines[EMBEDDINGS] = _embeddings(source, picture_of)
    copies = list(_copies(source, cases, picture_of)) if card["pictures"] else []
    with lock_folder(into):
        remove_temporary_files(into)
        written = _write(into, card, lines, copies, progress)
    return _told(into, source, counts, leaks, card["pictures"], card["benchmark"], written)


def _told(
    into: Path,
    source: _Source,
    counts: dict[str, int],
    leaks: Leaks,
    pictures: bool,
    benchmark: str = "",
    written: int = 0,
) -> FreezeSummary:
    return FreezeSummary(
        str(into),
        benchmark,
        source.name,
        **counts,
        cosines=leaks.counts["cosine"],
        pictures=pictures,
        written=written,
    )


@dataclass(frozen=True)
class _Source:
    """What a benchmark is made of, as the ledger has it, with people named by their smallest face."""

    dataset: Path
    name: str  # of the frozen set
    degraded: dict[str, Degradation]  # by face id
    drawn: list[CaseFaces]
    faces: list[FaceLine]
    vectors: np.ndarray  # float32 (n, d), rows aligned with `faces`
    rules: Rules
    policy: str
    recognizer: Model
    engine: str


def _read(dataset: Path, lq_set: str | None, split: str, references: int, seed: int) -> _Source:
    with Ledger.open(dataset) as ledger:
        name = _choose(ledger, lq_set, split)
        people = name_people(ledger)
        _, drawn = draw_references(ledger, name, references, seed, by_face=True)
        if not drawn:
            raise BadInput(f"No face of the set {name} has a reference: nothing can be frozen.")
        detail = read_set_detail(ledger, name) or {}
        faces = read_faces(ledger)
        return _Source(
            dataset,
            name,
            {row.face_id: row for row in ledger.read_rows(Degradation, "lq_set = ?", name)},
            drawn,
            [replace(line, person=people.get(line.person, line.person)) for line in faces],
            ledger.read_embeddings([line.face for line in faces])[1],
            read_rules(ledger),
            read_policy(ledger),
            read_recognizer(ledger),
            detail.get("engine", "exact"),
        )


def _choose(ledger: Ledger, wanted: str | None, split: str) -> str:
    """The frozen set that is wanted, or the only one of the split."""
    rows = ledger.query(
        """SELECT lq_set, list(DISTINCT split ORDER BY split) FROM degradations JOIN splits USING (face_id)
           WHERE status = 'ok' GROUP BY lq_set ORDER BY lq_set"""
    )
    sets: dict[str, list[str]] = dict(rows.iter_rows())
    if wanted is not None and wanted not in sets:
        raise BadInput(f"There is no frozen set {wanted}; there are: {', '.join(sets) or 'none'}.")
    if wanted is not None and sets[wanted] != [split]:
        raise BadInput(f"The set {wanted} holds faces of {' and '.join(sets[wanted])}, --split says {split}.")
    fitting = [name for name, splits in sets.items() if splits == [split]] if wanted is None else [wanted]
    if not fitting:
        raise BadInput(
            f"{ledger.dataset} has no frozen set of {split}: make one with `likeness degrade {ledger.dataset} --split "
            f"{split}`."
        )
    if len(fitting) > 1:
        raise BadInput(f"{len(fitting)} frozen sets are of {split}: say with --set which, {', '.join(fitting)}.")
    return fitting[0]


def _shown(source: _Source) -> np.ndarray:
    """int64 (k, 2): every target with every reference of its, right or wrong, as numbers of faces."""
    number = {line.face: i for i, line in enumerate(source.faces)}
    pairs = [(number[c.face_id], number[ref]) for c in source.drawn for ref in (*c.references, *c.wrong)]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _refuse(leaks: Leaks, dataset: Path) -> None:
    for leak in leaks.examples:
        if leak.kind == "own_reference":
            raise LedgerBroken(
                f"GT in reference, so nothing was frozen: face {leak.other[:12]} is {leak.what}, {leak.one[:12]}, and "
                f"one of its references. `likeness leaks {dataset}` lists all such."
            )
    if hard := [f"{leaks.counts[kind]} {kind}" for kind in HARD if leaks.counts[kind]]:
        raise LedgerBroken(
            f"{dataset} leaks between its splits ({', '.join(hard)}), so nothing was frozen: `likeness leaks "
            f"{dataset}` lists what."
        )


def _pictures(source: _Source, progress: Progress) -> dict[str, str]:
    """face -> picture of every face that a case shows."""
    shown = sorted({face for c in source.drawn for face in (c.face_id, *c.references, *c.wrong)})
    found = {}
    for done, face in enumerate(shown, 1):
        found[face] = hash_picture(read_png(crop_path(source.dataset, face)))
        progress("hash", done, len(shown))
    return found


def _lq_file(source: _Source, face: str) -> Path:
    return source.dataset / "lq" / source.name / f"{face}.png"


def _case(source: _Source, drawn: CaseFaces, picture_of: dict[str, str]) -> CaseLine:
    row = source.degraded[drawn.face_id]
    made = CaseLine(
        drawn.face_id,
        drawn.identity_id,
        picture_of[drawn.face_id],
        hash_picture(read_png(_lq_file(source, drawn.face_id), row.sha256)),
        json.loads(row.theta),
        tuple(picture_of[ref] for ref in drawn.references),
        tuple(picture_of[ref] for ref in drawn.wrong),
        drawn.wrong_identity_id,
    )
    if made.picture in (*made.references, *made.wrong_references):
        raise LedgerBroken(
            f"GT in reference, so nothing was frozen: the crop of face {drawn.face_id[:12]} is, pixel by pixel, one of "
            "its references."
        )
    return made


def _thresholds(rules: Rules) -> dict[str, Any]:
    near = asdict(rules)
    return {name: near.pop(name) for name in ("same_person", "false_match_rate")} | {"near_duplicate": near}


def _embeddings(source: _Source, picture_of: dict[str, str]) -> bytes:
    """embeddings.npy: a row a picture, in the order of their names; of the smallest face where several share one."""
    number = {line.face: i for i, line in enumerate(source.faces)}
    shown = {picture: number[face] for face, picture in sorted(picture_of.items(), reverse=True)}
    sink = io.BytesIO()
    np.save(sink, source.vectors[[shown[picture] for picture in sorted(shown)]])
    return sink.getvalue()


def _copies(source: _Source, cases: Sequence[CaseLine], picture_of: dict[str, str]) -> Iterator[tuple[str, str, Path]]:
    """(name below the benchmark, picture, file of the dataset) of every PNG that goes with it."""
    for face, picture in sorted(picture_of.items()):
        yield f"{PICTURES}/{picture}.png", picture, crop_path(source.dataset, face)
    for case in cases:
        yield f"{LQ}/{case.lq}.png", case.lq, _lq_file(source, case.face)


def _check_folder(into: Path) -> None:
    if (file := find_blocking_file(into)) is not None:
        raise BadInput(f"{file} is a file and a benchmark is a folder: name another one for --out.")
    if into.is_dir() and not is_benchmark(into):
        others = sorted(path.name for path in into.iterdir() if path.suffix != ".tmp" and path.name != LOCK)
        if others:
            raise BadInput(f"{into} holds {others[0]} and is no benchmark: name a new folder for --out.")


def _card_of(into: Path) -> dict[str, Any]:
    """The card that lies there, {} where there is none."""
    if not is_benchmark(into):
        return {}
    card: dict[str, Any] = json.loads((into / CARD).read_bytes())
    if not isinstance(card.get("benchmark"), str):
        raise BadInput(f"{into / CARD} is the card of no benchmark of this version: name another folder for --out.")
    return card


def _write(
    into: Path, card: dict[str, Any], lines: dict[str, bytes], copies: list[tuple[str, str, Path]], progress: Progress
) -> int:
    """Write what is not there yet, the card first as that of an unfinished benchmark and last as it is; answers how
    many files it wrote."""
    whole, begun = (
        (json.dumps({**card, "complete": complete}, indent=2, sort_keys=True) + "\n").encode()
        for complete in (True, False)
    )
    lacking = [name for name, data in lines.items() if _bytes(into / name) != data]
    absent = [copy for copy in copies if not _holds(into / copy[0], copy[1])]
    if not lacking and not absent and _bytes(into / CARD) == whole:
        return 0
    write_atomically(into / CARD, begun)
    for done, (name, _, source) in enumerate(absent, 1):
        write_atomically(into / name, source.read_bytes())
        progress("copy", done, len(absent))
    for name in lacking:
        write_atomically(into / name, lines[name])
    write_atomically(into / CARD, whole)
    return len(absent) + len(lacking) + 1


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _holds(path: Path, picture: str) -> bool:
    try:
        return hash_picture(decode(path)) == picture
    except (OSError, UndecodableImage):
        return False
