"""Find the target and the references of each LQ image of a published set, and count the problems of the set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from degrade.frozen.search_folder import is_image
from manifests.errors import BadInput
from train.benchmark.imported.layouts import Layout
from train.benchmark.imported.pair_lists import ListedCase
from train.benchmark.imported.patterns import (
    get_stem,
    group_by_words,
    list_words,
    match_pattern,
    sort_naturally,
)

# Maps each problem to a phrase in the plural, which describes the files with this problem.
PROBLEMS = {
    # Problems for which an LQ image gets no case:
    "no_target": "LQ images left out, because no target belongs to them",
    "several_targets": "LQ images left out, because several targets have their name",
    "same_name": "LQ images left out, because another LQ image has the same name",
    "missing_lq": "LQ images that a list names and that do not exist",
    "missing_target": "targets that a list names and that do not exist (their LQ images are left out)",
    "unreadable": "LQ images and targets that cannot be read (their cases are left out)",
    "not_square": "LQ images and targets that are not square, so they are no aligned faces (their cases are left out)",
    # Problems of LQ images that have a case:
    "missing_reference": "references that a list names and that do not exist",
    "unreadable_reference": "references not used, because they cannot be read",
    "not_square_reference": "references not used, because they are not square",
    "own_reference": "references not used, because they have the pixels of their own target or LQ image",
    "no_references": "LQ images without references",
    "other_size": "pictures of another size, which are resized when they are read",
    "gray": "gray pictures",
    "same_picture": "LQ images with the pixels of another LQ image",
    # Files that belong to no case:
    "no_lq": "targets without an LQ image",
    "unused": "pictures that the layout does not use",
}


@dataclass(frozen=True)
class MatchedCase:
    """Holds one LQ image with its target and its references, as paths below the folder of the set."""

    name: str
    lq: str
    target: str | None
    references: tuple[str, ...]
    person: str | None  # None if the layout does not say who is on the image.
    columns: dict[str, str]  # Word of the LQ pattern, except stem and person -> its text.


@dataclass
class Matches:
    """Holds the cases of a set, and the files with each problem."""

    cases: list[MatchedCase] = field(default_factory=list)
    lq_images: int = 0  # Number of LQ images that the layout finds or lists.
    has_targets: bool = False
    has_references: bool = False
    problems: dict[str, list[str]] = field(default_factory=dict)
    _added: set[tuple[str, str]] = field(default_factory=set)

    def add(self, problem: str, file: str) -> None:
        """Records that a file has a problem. A file that several cases share is counted once."""
        if (problem, file) not in self._added:
            self._added.add((problem, file))
            self.problems.setdefault(problem, []).append(file)


def list_pictures(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the paths of all pictures and of all other files below a folder, in natural order.

    Pictures are recognized as `likeness degrade` recognizes them. Files and folders whose names begin with a dot are
    left out. Raises BadInput if the folder does not exist or cannot be read.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder: give the folder of a published test set.")

    def fail(error: OSError) -> None:
        raise BadInput(f"{error.filename} cannot be read: {error.strerror}.")

    files = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name).relative_to(folder).as_posix() for name in names if not name.startswith(".")]
    pictures = [file for file in files if is_image(folder / file)]
    return sort_naturally(pictures), sort_naturally(set(files) - set(pictures))


def match_files(folder: Path, layout: Layout) -> Matches:
    """Returns the cases of a published set, sorted by name.

    If the layout has targets, an LQ image becomes a case only if exactly one target belongs to it. `problems` lists
    every file that is left out. Raises BadInput if the layout finds no LQ image, no target or no list.
    """
    pictures, others = list_pictures(folder)
    matches = _match_lists(folder, layout, pictures, others) if layout.lists else _match_patterns(layout, pictures)
    if not matches.cases:
        raise BadInput(
            f"No LQ image of {folder} can be used ({describe_problems(matches.problems)}): give another folder or "
            "layout."
        )
    names = Counter(case.name for case in matches.cases)
    for case in matches.cases:
        if names[case.name] > 1:
            matches.add("same_name", case.lq)
    matches.cases = sorted((case for case in matches.cases if names[case.name] == 1), key=lambda case: case.name)
    if not matches.cases:
        raise BadInput(
            f"In {folder}, every name belongs to several LQ images, for example {matches.problems['same_name'][0]}: "
            "describe the names in a .toml layout with the key name (docs/benchmarks.md)."
        )
    used = {file for case in matches.cases for file in (case.lq, case.target, *case.references)}
    known = used.union(*matches.problems.values())
    for file in pictures:
        if file not in known:
            matches.add("unused", file)
    if matches.has_references:
        for case in matches.cases:
            if not case.references:
                matches.add("no_references", case.lq)
    return matches


def count_problems(problems: dict[str, list[str]]) -> dict[str, int]:
    """Returns the number of files for each problem, in the order of PROBLEMS."""
    return {kind: len(problems[kind]) for kind in PROBLEMS if kind in problems}


def describe_problems(problems: dict[str, list[str]]) -> str:
    """Returns the problems of a set with their counts, for example "gray pictures: 3"."""
    return "; ".join(f"{PROBLEMS[kind]}: {count}" for kind, count in count_problems(problems).items())


def _match_lists(folder: Path, layout: Layout, pictures: list[str], others: list[str]) -> Matches:
    assert layout.read_list is not None
    lists = [file for file, _ in match_pattern(layout.lists, others)]
    if not lists:
        raise BadInput(
            f"{folder} has no list {layout.lists}: give the folder that contains the list of the set, or describe your "
            "files in a .toml layout (docs/benchmarks.md)."
        )
    listed = list(
        dict.fromkeys(one for file in lists for one in layout.read_list(folder, file, pictures, layout.lq_folder))
    )
    matches, known = Matches(lq_images=len(listed)), set(pictures)
    matches.has_targets = any(one.targets for one in listed)
    matches.has_references = any(one.references for one in listed)
    for one in listed:
        if (case := _check_listed(one, known, matches)) is not None:
            matches.cases.append(case)
    return matches


def _check_listed(one: ListedCase, known: set[str], matches: Matches) -> MatchedCase | None:
    """Returns the case of a line, or None if its LQ image or its target cannot be used."""
    if one.lq not in known:
        matches.add("missing_lq", one.lq)
        return None
    if len(one.targets) > 1:
        matches.add("several_targets", one.lq)
        return None
    if any(target not in known for target in one.targets):
        matches.add("missing_target", one.targets[0])
        return None
    for reference in one.references:
        if reference not in known:
            matches.add("missing_reference", reference)
    references = tuple(reference for reference in one.references if reference in known)
    target = one.targets[0] if one.targets else None
    return MatchedCase(get_stem(one.lq), one.lq, target, references, one.person, {})


def _match_patterns(layout: Layout, pictures: list[str]) -> Matches:
    found = _match_first(layout.lq, pictures)
    if not found:
        raise BadInput(
            f"No picture matches the pattern of the LQ images, {' or '.join(layout.lq)}: give the folder that contains "
            "these files, or describe your files in a .toml layout (docs/benchmarks.md)."
        )
    matches = Matches(lq_images=len(found), has_targets=bool(layout.target), has_references=bool(layout.references))
    targets = group_by_words(layout.target, pictures) if layout.target else {}
    references = group_by_words(layout.references, pictures) if layout.references else {}
    if layout.target and not targets:
        raise BadInput(
            f"No picture matches the pattern of the targets, {layout.target}: put the targets into the folder of the "
            "set, or describe the set without targets in a .toml layout (docs/benchmarks.md)."
        )
    with_target = set[str]()
    for file, texts in found:
        words = {"stem": get_stem(file), **texts}
        own = [one for one in targets.get(tuple(words[word] for word in list_words(layout.target)), []) if one != file]
        with_target.update(own)
        if layout.target and len(own) != 1:
            matches.add("several_targets" if own else "no_target", file)
            continue
        refs = references.get(tuple(words[word] for word in list_words(layout.references)), [])
        refs = [ref for ref in refs if ref not in (file, *own)]
        name = layout.name
        for word in list_words(layout.name):
            name = name.replace(f"{{{word}}}", words[word])
        columns = {word: text for word, text in texts.items() if word not in ("stem", "person")}
        target = own[0] if own else None
        matches.cases.append(MatchedCase(name, file, target, tuple(refs), texts.get("person"), columns))
    lq_files = {file for file, _ in found}
    for file in _join(targets.values()):
        if file not in with_target and file not in lq_files:
            matches.add("no_lq", file)
    return matches


def _match_first(patterns: Iterable[str], pictures: list[str]) -> list[tuple[str, dict[str, str]]]:
    """Uses only the first pattern that any file matches.

    Returns the files that match this pattern, and for each file the text of each word of the pattern.
    """
    return next((found for pattern in patterns if (found := match_pattern(pattern, pictures))), [])


def _join(groups: Iterable[list[str]]) -> list[str]:
    return [file for group in groups for file in group]
