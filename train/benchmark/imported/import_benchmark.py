"""Make a benchmark from a test set that others published, without a change to its files."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.runtime.files import lock_folder, remove_temporary_files, sha256_bytes, write_atomically
from manifests.runtime.progress import Progress
from manifests.runtime.versions import code_version
from train.benchmark.frozen_benchmark import CARD, CASES
from train.benchmark.imported.imported_benchmark import (
    IMAGES,
    KIND,
    VERSION,
    ImportedCase,
    SetPicture,
    encode_cases,
    hash_cases,
    is_imported,
)
from train.benchmark.imported.layouts import find_layout
from train.benchmark.imported.match_files import (
    PROBLEMS,
    MatchedCase,
    Matches,
    count_problems,
    describe_problems,
    match_files,
)
from train.benchmark.imported.picture_facts import PictureFacts, read_facts
from train.benchmark.write_benchmark import check_benchmark_folder


@dataclass(frozen=True)
class ImportSummary:
    """Describes the benchmark that `import_benchmark` wrote, or would write in a dry run."""

    folder: str
    benchmark: str  # The hash of the benchmark.
    set: str
    cases: int
    lq_images: int
    people: int | None  # None if the layout does not say who is on each image.
    size: int
    targets: bool
    cases_with_references: int
    problems: dict[str, int]
    images: bool
    written: int  # Number of files that this call wrote.


def import_benchmark(
    folder: Path,
    layout: str,
    out: Path,
    with_images: bool = False,
    dry_run: bool = False,
    workers: int = 1,
    progress: Progress = lambda *_: None,
) -> ImportSummary:
    """Writes the benchmark of a published test set into `out`, with the hashes of all files and every problem.

    `layout` is a key of train.benchmark.imported.layouts.LAYOUTS, or the path of a TOML file. The files of the set do
    not change. With `with_images`, the files that the cases use are copied, byte for byte. `workers` processes read the
    pictures. A repeated call writes only what is missing or changed.

    Raises BadInput if the layout does not fit the folder, if no case is left, or if `out` contains other files.
    """
    folder, out = Path(folder), Path(out)
    name, description = find_layout(layout)
    if not is_imported(out):
        check_benchmark_folder(out)
    if out.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"{out} is inside the folder of the set: give another folder with --out.")
    matches = match_files(folder, description)
    files = sorted({file for case in matches.cases for file in _list_files(case)})
    facts = read_facts(folder, files, workers, progress)
    size = description.size or _find_size(matches, facts)
    cases = _make_cases(matches, facts, size)
    if not cases:
        raise BadInput(
            f"No LQ image of {folder} can be used ({describe_problems(matches.problems)}): give another folder or "
            "layout."
        )
    people = len({case.person for case in cases}) if all(case.person is not None for case in cases) else None
    card: dict[str, Any] = {
        "kind": KIND,
        "version": VERSION,
        "benchmark": hash_cases(cases, size),
        "name": name,
        "layout": {key: value for key, value in dataclasses.asdict(description).items() if key != "read_list"},
        "size": size,
        "cases": len(cases),
        "images_in_set": matches.lq_images,
        "people": people,
        "targets": matches.has_targets,
        "problems": {kind: matches.problems[kind] for kind in PROBLEMS if kind in matches.problems},
        "likeness": code_version(),
    }
    # If `out` already contains the benchmark, its copies of the photos stay.
    earlier = json.loads((out / CARD).read_bytes()) if is_imported(out) else {}
    if earlier and earlier.get("benchmark") != card["benchmark"]:
        raise BadInput(f"{out} contains a different benchmark: give another folder with --out.")
    card["images"] = with_images or bool(earlier.get("images"))
    written = 0
    if not dry_run:
        with lock_folder(out):
            remove_temporary_files(out)
            written = _write(out, card, cases, folder, progress)
    return ImportSummary(
        str(out),
        card["benchmark"],
        name,
        len(cases),
        matches.lq_images,
        people,
        size,
        matches.has_targets,
        sum(bool(case.references) for case in cases),
        count_problems(matches.problems),
        card["images"],
        written,
    )


def _list_files(case: MatchedCase) -> list[str]:
    return [case.lq, *([case.target] if case.target else []), *case.references]


def _find_size(matches: Matches, facts: dict[str, PictureFacts]) -> int:
    """Returns the most frequent side of the targets, or of the LQ images if the set has no targets.

    If two sides are equally frequent, the result is the larger side.
    """
    files = [case.target or case.lq for case in matches.cases]
    sides = Counter(facts[file].height for file in files if file in facts and facts[file].is_square)
    return max(sides, key=lambda side: (sides[side], side), default=0)


def _make_cases(matches: Matches, facts: dict[str, PictureFacts], size: int) -> list[ImportedCase]:
    """Returns the cases whose LQ image and target can be used, and records the problems of all pictures."""
    usable: list[tuple[MatchedCase, tuple[str, ...]]] = []

    def find_problem(file: str) -> str | None:
        if file not in facts:
            return "unreadable"
        return None if facts[file].is_square else "not_square"

    for case in matches.cases:
        own = [case.lq, *([case.target] if case.target else [])]
        if problems := [(problem, file) for file in own if (problem := find_problem(file)) is not None]:
            for problem, file in problems:
                matches.add(problem, file)
            continue
        own_pixels, references = {facts[file].pixels for file in own}, []
        for file in case.references:
            if (problem := find_problem(file)) is not None:
                matches.add(f"{problem}_reference", file)
            elif facts[file].pixels in own_pixels:
                matches.add("own_reference", file)
            else:
                references.append(file)
        if case.references and not references:
            matches.add("no_references", case.lq)
        usable.append((case, tuple(references)))
    first_with_pixels: dict[str, str] = {}
    for case, kept in usable:
        for file in (case.lq, *([case.target] if case.target else []), *kept):
            if facts[file].height != size:
                matches.add("other_size", file)
            if facts[file].is_gray:
                matches.add("gray", file)
        if first_with_pixels.setdefault(facts[case.lq].pixels, case.lq) != case.lq:
            matches.add("same_picture", case.lq)
    wrong = _choose_wrong_references(usable)

    def describe(file: str) -> SetPicture:
        return SetPicture(file, facts[file].sha256)

    return [
        ImportedCase(
            case.name,
            case.person,
            case.columns,
            describe(case.lq),
            describe(case.target) if case.target else None,
            tuple(map(describe, references)),
            wrong[case.person][0] if case.person in wrong else None,
            tuple(map(describe, wrong[case.person][1])) if case.person in wrong else (),
        )
        for case, references in usable
    ]


def _choose_wrong_references(
    usable: Sequence[tuple[MatchedCase, tuple[str, ...]]],
) -> dict[str | None, tuple[str, tuple[str, ...]]]:
    """Returns, for each person, another person and the references of the other person. The choice is ours: the people
    with references form a circle, in the order of the hashes of their names. The other person is the next person of the
    circle. The result is empty if fewer than two people have references.
    """
    references_of: dict[str, tuple[str, ...]] = {}
    for case, references in usable:
        if case.person is not None and references:
            references_of.setdefault(case.person, references)
    circle = sorted(references_of, key=lambda person: sha256_bytes(person.encode()))
    if len(circle) < 2:
        return {}
    return {
        person: (other, references_of[other]) for person, other in zip(circle, [*circle[1:], circle[0]], strict=True)
    }


def _write(out: Path, card: dict[str, Any], cases: Sequence[ImportedCase], folder: Path, progress: Progress) -> int:
    """Writes the files that are missing or different, and returns their number.

    The card is written first with `complete` false and last with `complete` true, so that an unfinished benchmark is
    recognized.
    """
    complete, incomplete = (
        (json.dumps({**card, "complete": state}, indent=1, sort_keys=True) + "\n").encode() for state in (True, False)
    )
    lines, copies = encode_cases(cases), list[SetPicture]()
    if card["images"]:
        every = {picture.file: picture for case in cases for picture in case.list_pictures()}
        copies = [picture for picture in every.values() if not _has_bytes(out / IMAGES / picture.file, picture.sha256)]
    unchanged = not copies and _has_bytes(out / CASES, sha256_bytes(lines))
    if unchanged and _has_bytes(out / CARD, sha256_bytes(complete)):
        return 0
    write_atomically(out / CARD, incomplete)
    for done, picture in enumerate(copies, 1):
        write_atomically(out / IMAGES / picture.file, (folder / picture.file).read_bytes())
        progress("copy", done, len(copies))
    write_atomically(out / CASES, lines)
    write_atomically(out / CARD, complete)
    return len(copies) + 2


def _has_bytes(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_bytes(path.read_bytes()) == sha256
