"""Percent-encoded names of files and of members of archives: any bytes in a name have one spelling."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes


def uri_of(path: str | Path) -> str:
    """`file://` and the absolute path, percent-encoded from its raw bytes, so that any name has one spelling.

    `..` is taken out as text and symlinks stay: a row is the name that was offered, not what it leads to.
    """
    return "file://" + quote_from_bytes(os.fsencode(os.path.normpath(Path(path).absolute())), safe="/")


def member_uri(archive: Path, index: int, name: bytes) -> str:
    """The uri of an archive, `#`, the member's place in it from 0, `/` and its name: `file:///a.zip#0/b/c.jpg`.

    A `#` in the name of a file or a member is percent-encoded.
    """
    return f"{uri_of(archive)}#{index}/{quote_from_bytes(name, safe='/')}"


def parse_member_uri(uri: str) -> tuple[Path, int, bytes] | None:
    """The archive, place and name behind a uri made by `member_uri`; None for any other."""
    archive, packed, member = uri.partition("#")
    if not packed:
        return None
    index, _, name = member.partition("/")
    return path_of(archive), int(index), unquote_to_bytes(name)


def path_of(uri: str) -> Path:
    """The path behind a uri made by `uri_of`; of a member's, the archive that holds it."""
    return Path(os.fsdecode(unquote_to_bytes(uri.partition("#")[0].removeprefix("file://"))))


def display_path(uri: str) -> Path:
    """Where people would say a file lies: its path; a member lies in its archive as though that were a folder."""
    member = parse_member_uri(uri)
    return path_of(uri) if member is None else member[0] / os.fsdecode(member[2].lstrip(b"/"))


def is_missing(uri: str) -> bool:
    """Whether the file of a uri is gone; one that cannot be looked at is not."""
    try:
        os.lstat(path_of(uri))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
