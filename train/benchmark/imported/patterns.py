"""Match the paths of files with patterns such as `gt/{person}/{stem}.*`.

A pattern is the path of a file below the folder of a set, with "/" between folders. `*` stands for any text without
"/", `**/` for any number of folders, also none, and `{word}` for a text without "/" that gets the name `word`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from manifests.errors import BadInput

_PART = re.compile(r"\*\*/|\*|\{(\w+)\}")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Returns the regular expression of a pattern. Raises BadInput if a brace of the pattern is wrong."""
    text, seen, end = "", set[str](), 0
    for part in _PART.finditer(pattern):
        text += _escape(pattern, end, part.start())
        word, end = part[1], part.end()
        if part[0] == "**/":
            text += "(?:.*/)?"
        elif part[0] == "*":
            text += "[^/]*"
        elif word in seen:
            text += f"(?P={word})"
        elif word[0].isdigit():
            raise BadInput(f"The pattern {pattern} has the word {{{word}}}: begin a word with a letter.")
        else:
            text += f"(?P<{word}>[^/]+)"
            seen.add(word)
    return re.compile(text + _escape(pattern, end, len(pattern)))


def _escape(pattern: str, start: int, end: int) -> str:
    text = pattern[start:end]
    if "{" in text or "}" in text:
        raise BadInput(f"The pattern {pattern} has a brace without a word: write {{stem}}, {{person}} or another word.")
    return re.escape(text)


def list_words(pattern: str) -> list[str]:
    """Returns the different words of a pattern, in the order in which they first appear."""
    return list(dict.fromkeys(part[1] for part in _PART.finditer(pattern) if part[1]))


def match_pattern(pattern: str, files: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Returns each file that matches a pattern, with the text of each word, in the order of `files`."""
    expression = compile_pattern(pattern)
    return [(file, match.groupdict()) for file in files if (match := expression.fullmatch(file))]


def group_by_words(pattern: str, files: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
    """Returns the files that match a pattern, grouped by the texts of the pattern's words. A key has these texts in the
    order of `list_words`."""
    words, groups = list_words(pattern), dict[tuple[str, ...], list[str]]()
    for file, texts in match_pattern(pattern, files):
        groups.setdefault(tuple(texts[word] for word in words), []).append(file)
    return groups


def sort_naturally(files: Iterable[str]) -> list[str]:
    """Returns paths in the order in which a reader counts: 2.png is before 10.png."""
    return sorted(files, key=lambda file: (_split_numbers(file), file))


def _split_numbers(text: str) -> Sequence[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", text)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def get_stem(file: str) -> str:
    """Returns the name of a file without its folders and its last suffix."""
    return PurePosixPath(file).stem
