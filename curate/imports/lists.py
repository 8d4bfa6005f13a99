"""Published lists of photos, read: who is in them, which are references of which, which split they are in.

`labelled-folder` is a folder a person (CelebRef-HQ, VGGFace2), `refldm` the CSV lists of ReF-LDM with their id-based
split. Nothing is written here, and no picture is opened.
"""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curate.photos.csv_tables import read_csv
from curate.photos.scan import offered
from manifests.errors import BadInput
from manifests.ledger.records import SPLITS, File, ListEntry
from manifests.runtime.text import make_printable
from manifests.runtime.uris import uri_of

FORMATS = ("labelled-folder", "refldm")
LISTS, SPLIT_LISTS, PICTURES = "reference_mapping", "id_based_ffhq_split", "images512x512"
SHOWN = 5  # examples in a notice


@dataclass
class Lists:
    """What lists say of photos, by path; only files that are there."""

    photos: list[Path] = field(default_factory=list)
    labels: dict[Path, str] = field(default_factory=dict)
    splits: dict[Path, str] = field(default_factory=dict)
    references: dict[Path, list[Path]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # named, and not there
    notices: list[str] = field(default_factory=list)


def read_lists(source: Path, kind: str, images: Path | None = None, splits: Path | None = None) -> Lists:
    """The lists of `source` in the format `kind`.

    `images` is the folder that the names of refldm lie below; `splits` one with {train,val,test}_image.txt or
    {train,val,test}.txt. Raises BadInput, with the line, for what contradicts itself or leads out of its folder.
    """
    if kind not in FORMATS:
        raise BadInput(f"--format {kind}: say {' or '.join(FORMATS)}.")
    if not source.exists():
        raise BadInput(f"{source} does not exist: name the folder or the CSV to import.")
    if splits is not None and not splits.is_dir():
        raise BadInput(
            f"--split-lists {splits} is no folder: name one with train_image.txt, val_image.txt, test_image.txt."
        )
    found = _labelled_folder(source, images, splits) if kind == "labelled-folder" else _refldm(source, images, splits)
    if not found.photos:
        raise BadInput(
            f"{source} names no picture that is there"
            + (f"; missing: {_some(found.missing)}. Name the folder of the pictures with --pictures." if found.missing
               else ".")
        )  # fmt: skip
    if found.missing:
        found.notices.append(f"Named and not there: {len(found.missing)} ({_some(found.missing)}).")
    return found


def rows_of(lists: Lists, files: Iterable[File]) -> tuple[list[ListEntry], list[str]]:
    """What the lists say by photo, ordered by it, and what is to be told of photos that lie in several files."""
    photo_of = {file.uri: file.photo_id for file in files if file.photo_id is not None}
    ids = {path: photo_of[uri] for path in lists.photos if (uri := uri_of(path)) in photo_of}
    labels: dict[str, set[str]] = {}
    splits: dict[str, set[str]] = {}
    refs: dict[str, list[str]] = {}
    for path, photo in ids.items():
        for said, told in ((labels, lists.labels), (splits, lists.splits)):
            if path in told:
                said.setdefault(photo, set()).add(told[path])
        if path in lists.references:
            known = (ids[ref] for ref in lists.references[path] if ref in ids)
            refs.setdefault(photo, []).extend(ref for ref in known if ref != photo)
    rows = [
        ListEntry(photo, _one(labels.get(photo)), _one(splits.get(photo)),
              tuple(dict.fromkeys(refs[photo])) if photo in refs else None)
        for photo in sorted(set(ids.values()))
    ]  # fmt: skip
    notices = [
        f"Pictures in several files that are given two {what}, and count as given none: {n}."
        for what, said in (("labels", labels), ("splits", splits))
        if (n := sum(len(values) > 1 for values in said.values()))
    ]
    return rows, notices


def _one(values: set[str] | None) -> str | None:
    return next(iter(values)) if values is not None and len(values) == 1 else None


def _labelled_folder(source: Path, images: Path | None, splits: Path | None) -> Lists:
    """SOURCE/ID/**/picture: the first folder below SOURCE is who it is."""
    if images is not None:
        raise BadInput("--pictures belongs to refldm: a labelled folder holds its pictures itself.")
    if not source.is_dir():
        raise BadInput(f"{source} is a file, and a labelled folder has a folder a person: name that.")
    found, other = Lists(), 0
    for path in offered([source]):
        if isinstance(path, Path) and len(path.relative_to(source).parts) > 1:
            found.photos.append(path)
            found.labels[path] = make_printable(path.relative_to(source).parts[0])
        else:
            other += 1
    if other:
        found.notices.append(f"In nobody's folder, or not to be walked, and left out: {other}.")
    if splits is not None:
        by_name: dict[str, list[Path]] = {}
        for path in found.photos:
            inside = path.relative_to(source)
            for name in {str(inside), inside.parts[0]}:
                by_name.setdefault(name, []).append(path)
        for name, split, where in _split_lines(splits):
            if name not in by_name:
                found.missing.append(name)
            for path in by_name.get(name, []):
                if found.splits.setdefault(path, split) != split:
                    raise BadInput(
                        f"{where}: {name} is in {found.splits[path]} by an earlier line, and in {split} here."
                    )
    return found


def _refldm(source: Path, images: Path | None, splits: Path | None) -> Lists:
    """A folder with reference_mapping/ (and id_based_ffhq_split/), or one CSV."""
    found = Lists()
    if source.is_dir():
        below = source / LISTS if (source / LISTS).is_dir() else source
        tables = sorted(below.glob("*.csv"))
        splits = splits or (source / SPLIT_LISTS if (source / SPLIT_LISTS).is_dir() else None)
        if not tables:
            raise BadInput(f"{source} holds no {LISTS}/*.csv: name the folder of FFHQ-Ref, or one CSV.")
    else:
        tables = [source]
    root = images or _pictures_of(source)
    if not root.is_dir():
        raise BadInput(f"--pictures {root} is no folder: name the one that the lists' names lie below.")
    base = Path(os.path.realpath(root))
    there: dict[str, Path | None] = {}

    def picture(name: str, where: str) -> Path | None:
        if name not in there:
            there[name] = _inside(root, base, name, where)
            if there[name] is None:
                found.missing.append(name)
        return there[name]

    for name, split, where in _split_lines(splits) if splits is not None else ():
        path = picture(name, where)
        if path is not None and found.splits.setdefault(path, split) != split:
            raise BadInput(f"{where}: {name} is in {found.splits[path]} by an earlier line, and in {split} here.")
    first: dict[str, tuple[str, list[str]]] = {}
    twice = bare = with_lq = 0
    for table in tables:
        split_here = next((name for name in SPLITS if table.name.startswith(name)), None)
        for where, target, refs, lq in _csv_lines(table):
            if target in first:
                if first[target][1] != refs:
                    raise BadInput(
                        f"{where}: {target} has other references in {first[target][0]}: keep one of the two."
                    )
                twice += 1
                continue
            first[target] = (where, refs)
            with_lq += lq
            bare += not refs
            path = picture(target, where)
            known = [picture(ref, where) for ref in refs]
            kept = list(dict.fromkeys(one for one in known if one is not None))
            if path is not None and path in kept:
                raise BadInput(f"{where}: {target} is among its own references, under another name.")
            for one in [path, *kept] if split_here else ():
                if one is not None and found.splits.setdefault(one, str(split_here)) != split_here:
                    raise BadInput(
                        f"{where}: {one.name} is in {found.splits[one]} by another list, and this list is of "
                        f"{split_here}: a picture has one split."
                    )
            if path is not None and kept:
                found.references[path] = kept
    found.photos = sorted({path for path in there.values() if path is not None})
    found.labels = _labels_of(found.references)
    if twice:
        found.notices.append(f"Lines that repeat another: {twice}.")
    if bare:
        found.notices.append(f"Lines that name no reference, so no target: {bare}.")
    if with_lq:
        found.notices.append(
            "The column lq_image is not imported: freeze a set of the dataset with `likeness degrade`."
        )
    return found


def _pictures_of(source: Path) -> Path:
    """Where the names of a list lie unless --pictures says: beside its folders, as our own export lays them out."""
    home = source if source.is_dir() else source.parent
    home = home.parent if home.name == LISTS else home
    return home / PICTURES if (home / PICTURES).is_dir() else home


def _inside(root: Path, base: Path, name: str, where: str) -> Path | None:
    """The file below `root`, None where it is missing; `base` is the real path of `root`. Raises BadInput for a name
    that leads out."""
    path = Path(os.path.normpath(root / name))
    if "\0" in name or base not in Path(os.path.realpath(path)).parents:
        raise BadInput(f"{where}: {name!r} leads out of {root}: names lie below the folder of the pictures.")
    return path if path.is_file() else None


def _csv_lines(table: Path) -> Iterator[tuple[str, str, list[str], bool]]:
    """(where, gt_image, ref_image as a list, whether there is an lq_image) of every line."""
    header, lines = read_csv(table, ("gt_image", "ref_image"))
    for number, cells in lines:
        where = f"{table}, line {number}"
        if len(cells) < len(header):
            raise BadInput(f"{where}: {len(cells)} columns where the first line names {len(header)}.")
        row = dict(zip(header, cells, strict=True))
        target = row["gt_image"].strip()
        if not target or target.lower() == "nan":
            raise BadInput(f"{where}: gt_image is empty: name a picture, or take the line out.")
        refs = _list_of(row["ref_image"], where)
        if target in refs:
            raise BadInput(f"{where}: {target} is among its own references: take it out of ref_image.")
        yield where, target, refs, row.get("lq_image", "").strip().lower() not in ("", "nan")


def _list_of(cell: str, where: str) -> list[str]:
    """ref_image, a Python list of names as pandas writes it; read as a literal, never run."""
    wrong = BadInput(f"{where}: ref_image is no list of names such as \"['a.png', 'b.png']\".")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a backslash that escapes nothing
            found = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise wrong from None
    if not isinstance(found, list) or not all(isinstance(name, str) and name.strip() for name in found):
        raise wrong
    return list(dict.fromkeys(found))


def _split_lines(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(name, split, where) of every line of the split lists."""
    read = 0
    for split in SPLITS:
        for path in (folder / f"{split}_image.txt", folder / f"{split}.txt"):
            if not path.is_file():
                continue
            read += 1
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError:
                raise BadInput(f"{path} is not UTF-8 text: write a name a line.") from None
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield line.strip(), split, f"{path}, line {number}"
    if not read:
        raise BadInput(f"{folder} holds no train_image.txt, val_image.txt or test_image.txt (or train.txt ...).")


def _labels_of(references: dict[Path, list[Path]]) -> dict[Path, str]:
    """Pictures that lists join, directly or through others, are one person, numbered in the order of their names."""
    root: dict[Path, Path] = {}

    def find(path: Path) -> Path:
        root.setdefault(path, path)
        while root[path] != path:
            root[path] = root[root[path]]
            path = root[path]
        return path

    for target, refs in references.items():
        for ref in refs:
            first, second = sorted((find(target), find(ref)))
            root[second] = first
    number = {first: place for place, first in enumerate(sorted({find(path) for path in list(root)}))}
    return {path: f"person-{number[find(path)]:05d}" for path in list(root)}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
