"""Decides which files and folders are left out because of their names: bins, system folders, `--exclude`, `--include`.

Names are compared after Unicode normalisation (NFC) and without regard to case.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from pathlib import Path

from manifests.errors import BadInput
from manifests.runtime.text import make_printable
from manifests.runtime.uris import normalise_name

TRASH, SYSTEM_FOLDER, EXCLUDED, NOT_INCLUDED = "trash", "system_folder", "excluded", "not_included"
LEFT_OUT = (TRASH, SYSTEM_FOLDER, EXCLUDED, NOT_INCLUDED)

# A file or folder whose name matches a pattern of _NAMES is not read. The comments name the programs that make such
# files and folders.
_NAMES = {
    TRASH: (
        ".trashed-*",  # Deleted photos of Android.
        *(".trash", ".trash-*", ".trashes"),  # Folders of freedesktop.org and macOS.
        # Folders of Windows, Synology, QNAP, Samba and digiKam.
        *("$recycle.bin", "#recycle", "@recycle", ".recycle", ".dtrash"),
    ),
    SYSTEM_FOLDER: (
        *("@eadir", ".@__thumb", ".thumbnails"),  # Thumbnails of Synology, QNAP, Android and freedesktop.org.
        *("__macosx", ".appledouble", ".spotlight-v100", ".fseventsd"),  # Folders of macOS.
        "system volume information",  # A folder of Windows.
    ),
}
_LEFT_OUT_NAME = {reason: re.compile("|".join(map(translate, patterns))) for reason, patterns in _NAMES.items()}


@dataclass(frozen=True)
class NameRules:
    """The patterns of `--exclude` and `--include`.

    A pattern without a slash is compared with the name of the file and of each folder above the file. A pattern with a
    slash is compared with the path of the file and with the path of each folder above the file. These paths begin below
    the folder that the user named. `*` matches any characters, including slashes. A file is left out if a pattern of
    `exclude` matches. If `include` has patterns, a file that matches none of them is also left out.
    """

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    def find_reason(self, place: str, is_file: bool) -> str | None:
        """Returns the reason why a file or folder is left out, or None.

        `place` is the path below the folder that the user named, with slashes. `include` has no effect on folders.
        """
        parts = _normalise(place).split("/")
        for reason, names in _LEFT_OUT_NAME.items():
            if any(names.match(part) for part in parts):
                return reason
        if any(_matches(pattern, parts) for pattern in self.exclude):
            return EXCLUDED
        if is_file and self.include and not any(_matches(pattern, parts) for pattern in self.include):
            return NOT_INCLUDED
        return None


NO_RULES = NameRules()


def check_patterns(option: str, patterns: Sequence[str]) -> None:
    """Raises BadInput if a pattern is a whole path, which would match nothing."""
    for pattern in patterns:
        if Path(pattern).is_absolute() or not _normalise(pattern):
            raise BadInput(
                f"{option} {make_printable(pattern)} matches nothing. Give a name such as '*_edited.jpg', or a path "
                "below the folder of photos such as 2019/party."
            )


def describe_unused_patterns(rules: NameRules, places: Collection[str]) -> list[str]:
    """Returns a notice for each pattern of `--exclude` that left out no file and no folder.

    `places` are the paths of all excluded files and folders.
    """
    all_parts = [_normalise(place).split("/") for place in places]
    return [
        f"--exclude {make_printable(pattern)} matches no file and no folder."
        for pattern in rules.exclude
        if not any(_matches(pattern, parts) for parts in all_parts)
    ]


def find_place(path: Path, named: Collection[str]) -> str:
    """Returns the path of a file below the folder that the user named, with slashes.

    `named` contains the paths that the user named. If the user named the file itself, the result is the name of the
    file.
    """
    if str(path) in named:
        return path.name
    for folder in path.parents:
        if str(folder) in named:
            return path.relative_to(folder).as_posix()
    return path.name


def _matches(pattern: str, parts: Sequence[str]) -> bool:
    pattern = _normalise(pattern)
    if "/" not in pattern:
        return any(fnmatchcase(part, pattern) for part in parts)
    return any(fnmatchcase("/".join(parts[:count]), pattern) for count in range(1, len(parts) + 1))


def _normalise(text: str) -> str:
    return normalise_name(text).removeprefix("./").removeprefix("**/").strip("/").casefold()
