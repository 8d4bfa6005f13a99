"""Reads published lists of photos. The lists name the person, the references and the split of each photo.

The format `labelled-folder` has one folder for each person, as in CelebRef-HQ and VGGFace2. The format `refldm` has the
CSV lists of ReF-LDM, and text files with a split by identity. This module writes nothing and opens no picture.
"""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curate.photos.csv_tables import read_csv
from curate.photos.walk import walk_files
from manifests.errors import BadInput
from manifests.ledger.records import SPLITS, File, ListEntry
from manifests.runtime.text import format_count, make_printable
from manifests.runtime.uris import normalise_name, uri_of

FORMATS = ("labelled-folder", "refldm")
LISTS, SPLIT_LISTS, PICTURES = "reference_mapping", "id_based_ffhq_split", "images512x512"  # Folders of ReF-LDM.
EXAMPLES = 5  # Largest number of examples in a notice.


@dataclass
class Lists:
    """The content of published lists.

    Each key of a dictionary is the path of a photo. Every path is an existing file.
    """

    photos: list[Path] = field(default_factory=list)
    labels: dict[Path, str] = field(default_factory=dict)
    splits: dict[Path, str] = field(default_factory=dict)
    references: dict[Path, list[Path]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # names in the lists for which no file exists
    notices: list[str] = field(default_factory=list)


def read_lists(source: Path, kind: str, images: Path | None = None, splits: Path | None = None) -> Lists:
    """Returns the lists of `source` in the format `kind`, one of FORMATS.

    The names in refldm lists are relative to the folder `images`. `splits` is a folder with {train,val,test}_image.txt
    or {train,val,test}.txt. Raises BadInput if lists contradict each other, or if a name is a path outside the folder
    of pictures. The error names the line of the list.
    """
    if kind not in FORMATS:
        raise BadInput(f"--format {kind} is unknown. Give {' or '.join(FORMATS)}.")
    if not source.exists():
        raise BadInput(f"{source} does not exist. Name the folder or the CSV to import.")
    if splits is not None and not splits.is_dir():
        raise BadInput(
            f"--split-lists {splits} is not a folder. Name a folder with train_image.txt, val_image.txt and "
            "test_image.txt."
        )
    read_format = _read_labelled_folder if kind == "labelled-folder" else _read_refldm
    lists = read_format(source, images, splits)
    if not lists.photos:
        raise BadInput(
            f"{source} names no picture that exists."
            + (f" Missing pictures: {_join(lists.missing)}. Name the folder of the pictures with --originals."
               if lists.missing else "")
        )  # fmt: skip
    if lists.missing:
        lists.notices.append(
            f"The lists name {format_count(len(lists.missing), 'picture')} without a file: {_join(lists.missing)}."
        )
    return lists


def match_lists(lists: Lists, files: Iterable[File]) -> tuple[list[ListEntry], list[str]]:
    """Returns one entry for each photo of the lists, sorted by photo, and notices.

    A notice counts the photos for which the lists have several labels or several splits.
    """
    photo_of = {file.uri: file.photo_id for file in files if file.photo_id is not None}
    photo_at = {path: photo_of[uri] for path in lists.photos if (uri := uri_of(path)) in photo_of}
    labels: dict[str, set[str]] = {}
    splits: dict[str, set[str]] = {}
    refs: dict[str, list[str]] = {}
    for path, photo in photo_at.items():
        for by_photo, by_path in ((labels, lists.labels), (splits, lists.splits)):
            if path in by_path:
                by_photo.setdefault(photo, set()).add(by_path[path])
        if path in lists.references:
            ref_photos = (photo_at[ref] for ref in lists.references[path] if ref in photo_at)
            refs.setdefault(photo, []).extend(ref for ref in ref_photos if ref != photo)
    rows = [
        ListEntry(photo, _pick_only(labels.get(photo)), _pick_only(splits.get(photo)),
              tuple(dict.fromkeys(refs[photo])) if photo in refs else None)
        for photo in sorted(set(photo_at.values()))
    ]  # fmt: skip
    notices = [
        f"{format_count(n, 'picture')} {'gets' if n == 1 else 'get'} no {what[:-1]}, because the lists name different "
        f"{what} for different copies."
        for what, by_photo in (("labels", labels), ("splits", splits))
        if (n := sum(len(values) > 1 for values in by_photo.values()))
    ]
    return rows, notices


def _pick_only(values: set[str] | None) -> str | None:
    return next(iter(values)) if values is not None and len(values) == 1 else None


# --- labelled-folder ---


def _read_labelled_folder(source: Path, images: Path | None, splits: Path | None) -> Lists:
    """Returns the lists of a labelled folder. For a picture SOURCE/ID/**/NAME, the person is ID."""
    if images is not None:
        raise BadInput("A labelled folder contains its pictures. Leave --originals out, or give --format refldm.")
    if not source.is_dir():
        raise BadInput(f"{source} is a file. Name a folder that has one folder for each person.")
    lists, ignored = Lists(), 0
    for path in walk_files([source]):
        if isinstance(path, Path) and len(path.relative_to(source).parts) > 1:
            lists.photos.append(path)
            lists.labels[path] = make_printable(path.relative_to(source).parts[0])
        else:
            ignored += 1
    if ignored:
        lists.notices.append(
            f"{format_count(ignored, 'file')} {'is' if ignored == 1 else 'are'} left out, because "
            f"{'it is' if ignored == 1 else 'they are'} in no person's folder or cannot be read."
        )
    if splits is not None:
        by_name: dict[str, list[Path]] = {}  # path of a picture or of a person's folder, below SOURCE -> pictures
        for path in lists.photos:
            below = path.relative_to(source)
            for name in {normalise_name(below), normalise_name(below.parts[0])}:
                by_name.setdefault(name, []).append(path)
        for name, split, where in _read_split_lists(splits):
            if normalise_name(name) not in by_name:
                lists.missing.append(name)
            for path in by_name.get(normalise_name(name), []):
                _set_split(lists, path, split, f"{where}: {name}", "an earlier line")
    return lists


# --- refldm ---


def _read_refldm(source: Path, images: Path | None, splits: Path | None) -> Lists:
    """Returns the lists of one CSV file, or of a folder with reference_mapping/.

    The folder with reference_mapping/ may also contain id_based_ffhq_split/.
    """
    tables, splits = _find_refldm_tables(source, splits)
    root = images or _find_pictures(source)
    if not root.is_dir():
        raise BadInput(
            f"--originals {root} is not a folder. Name the folder to which the names in the lists are relative."
        )
    lists = Lists()
    pictures = _Pictures(root, lists.missing)
    for name, split, where in _read_split_lists(splits) if splits is not None else ():
        path = pictures.find(name, where)
        if path is not None:
            _set_split(lists, path, split, f"{where}: {name}", "an earlier line")
    # target -> the place of the first line that names this target, and the references in this line
    first: dict[str, tuple[str, list[str]]] = {}
    repeated_lines = lines_without_references = lines_with_lq = 0
    for table in tables:
        split_of_table = next((name for name in SPLITS if table.name.startswith(name)), None)
        for where, target, refs, has_lq in _read_pair_csv(table):
            if target in first:
                if first[target][1] != refs:
                    raise BadInput(
                        f"{where}: the references of {target} differ from the references in {first[target][0]}. Keep "
                        "one of the two lines."
                    )
                repeated_lines += 1
                continue
            first[target] = (where, refs)
            lines_with_lq += has_lq
            lines_without_references += not refs
            path = pictures.find(target, where)
            ref_files = [pictures.find(ref, where) for ref in refs]
            ref_paths = list(dict.fromkeys(ref for ref in ref_files if ref is not None))
            if path is not None and path in ref_paths:
                raise BadInput(
                    f"{where}: {target} is also one of its own references, under another name. Remove this name."
                )
            for picture in [path, *ref_paths] if split_of_table else ():
                if picture is not None:
                    _set_split(lists, picture, str(split_of_table), f"{where}: {picture.name}", "another list")
            if path is not None and ref_paths:
                lists.references[path] = ref_paths
    lists.photos = pictures.list_existing()
    lists.labels = _label_groups(lists.references)
    if repeated_lines:
        lists.notices.append(
            f"{format_count(repeated_lines, 'line')} {'repeats' if repeated_lines == 1 else 'repeat'} an earlier line."
        )
    if lines_without_references:
        lists.notices.append(
            f"{format_count(lines_without_references, 'line')} {'names' if lines_without_references == 1 else 'name'} "
            "no reference. A photo without a reference does not become a target."
        )
    if lines_with_lq:
        lists.notices.append(
            "The column lq_image is not imported. Make a low-quality set of the dataset with `likeness degrade`."
        )
    return lists


def _find_refldm_tables(source: Path, splits: Path | None) -> tuple[list[Path], Path | None]:
    """Returns the CSV lists of `source`, and the folder of the split lists.

    The folder of the split lists is `splits`. If `splits` is None, the folder is id_based_ffhq_split in `source`, or
    None if `source` has no such folder.
    """
    if not source.is_dir():
        return [source], splits
    folder = source / LISTS if (source / LISTS).is_dir() else source
    tables = sorted(folder.glob("*.csv"))
    if not tables:
        raise BadInput(f"{source} has no {LISTS}/*.csv. Name the folder of FFHQ-Ref, or one CSV.")
    return tables, splits or (source / SPLIT_LISTS if (source / SPLIT_LISTS).is_dir() else None)


def _find_pictures(source: Path) -> Path:
    """Returns the folder that contains the pictures of the lists. This folder is used if --originals is not given.

    An export of Likeness has the pictures in the folder images512x512 beside the lists. If the folder images512x512
    does not exist, returns the folder of the lists.
    """
    home = source if source.is_dir() else source.parent
    home = home.parent if home.name == LISTS else home
    return home / PICTURES if (home / PICTURES).is_dir() else home


class _Pictures:
    """Finds the files that the names in lists refer to. All names are relative to one folder."""

    def __init__(self, root: Path, missing: list[str]) -> None:
        """Names are relative to the folder `root`. Names without a file are added to the list `missing`."""
        self._root = root
        self._real_root = Path(os.path.realpath(root))
        self._missing = missing
        self._paths: dict[str, Path | None] = {}
        self._by_name: dict[str, Path] | None = None  # normalised name -> file; filled at the first use

    def find(self, name: str, where: str) -> Path | None:
        """Returns the file of a name, or None if the file does not exist.

        Raises BadInput if the name is a path outside the folder.
        """
        if name not in self._paths:
            path = Path(os.path.normpath(self._root / name))
            if "\0" in name or self._real_root not in Path(os.path.realpath(path)).parents:
                raise BadInput(
                    f"{where}: {name!r} leads out of the folder {self._root}. Name only pictures inside the folder."
                )
            self._paths[name] = path if path.is_file() else self._find_normalised(name)
            if self._paths[name] is None:
                self._missing.append(name)
        return self._paths[name]

    def _find_normalised(self, name: str) -> Path | None:
        """Returns the file whose name differs from `name` only in Unicode normalisation or in the kind of slash, or
        None.
        """
        if self._by_name is None:
            paths = [path for path in walk_files([self._root]) if isinstance(path, Path)]
            self._by_name = {normalise_name(path.relative_to(self._root)): path for path in paths}
        return self._by_name.get(os.path.normpath(normalise_name(name)))

    def list_existing(self) -> list[Path]:
        """Returns every file that `find` has returned, sorted."""
        return sorted({path for path in self._paths.values() if path is not None})


def _set_split(lists: Lists, path: Path, split: str, where_and_name: str, earlier: str) -> None:
    """Adds the split of a picture to the lists. Raises BadInput if the picture already has another split."""
    if (other := lists.splits.setdefault(path, split)) != split:
        raise BadInput(
            f"{where_and_name} is in {split}, but {earlier} puts it into {other}. Keep this picture in one split."
        )


def _read_pair_csv(table: Path) -> Iterator[tuple[str, str, list[str], bool]]:
    """Yields for each line: `file, line number`, gt_image, names in ref_image, and whether lq_image has a value."""
    header, lines = read_csv(table, ("gt_image", "ref_image"))
    for number, cells in lines:
        where = f"{table}, line {number}"
        if len(cells) < len(header):
            raise BadInput(
                f"{where}: the line has {format_count(len(cells), 'column')}, but the first line names {len(header)}. "
                "Give every line the same number of columns."
            )
        row = dict(zip(header, cells, strict=True))
        target = row["gt_image"].strip()
        if not target or target.lower() == "nan":
            raise BadInput(f"{where}: gt_image is empty. Name a picture, or remove the line.")
        refs = _parse_names(row["ref_image"], where)
        if target in refs:
            raise BadInput(f"{where}: {target} is one of its own references. Remove this name from ref_image.")
        yield where, target, refs, row.get("lq_image", "").strip().lower() not in ("", "nan")


def _parse_names(cell: str, where: str) -> list[str]:
    """Returns the names in a cell of the column ref_image.

    The cell contains a Python list as text. The text of the cell is never run as code.
    """
    error = BadInput(f"{where}: ref_image must be a list of names such as \"['a.png', 'b.png']\".")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns about a backslash that does not start an escape sequence
            names = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise error from None
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise error
    return list(dict.fromkeys(names))


def _read_split_lists(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yields for each line of the split lists: the name, the split, and the file and the number of the line."""
    files_read = 0
    for split in SPLITS:
        for path in (folder / f"{split}_image.txt", folder / f"{split}.txt"):
            if not path.is_file():
                continue
            files_read += 1
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError:
                raise BadInput(f"{path} is not UTF-8 text. Write one name on each line, in UTF-8.") from None
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield line.strip(), split, f"{path}, line {number}"
    if not files_read:
        raise BadInput(
            f"{folder} has no train_image.txt, val_image.txt or test_image.txt. Name the folder of the split lists."
        )


def _label_groups(references: dict[Path, list[Path]]) -> dict[Path, str]:
    """Returns picture -> label. A target and its references get one label.

    Pictures that are connected through other targets and references also get one label. The labels are numbered in the
    order of their first paths.
    """
    parent: dict[Path, Path] = {}

    def find_root(path: Path) -> Path:
        parent.setdefault(path, path)
        while parent[path] != path:
            parent[path] = parent[parent[path]]
            path = parent[path]
        return path

    for target, refs in references.items():
        for ref in refs:
            first, second = sorted((find_root(target), find_root(ref)))
            parent[second] = first
    number = {root: place for place, root in enumerate(sorted({find_root(path) for path in list(parent)}))}
    return {path: f"person-{number[find_root(path)]:05d}" for path in list(parent)}


def _join(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else "")
