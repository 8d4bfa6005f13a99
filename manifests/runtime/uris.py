"""URIs of files and of members of archives, percent-encoded so that a name of any bytes has one spelling."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes


def uri_of(path: str | Path) -> str:
    """Returns `file://` and the absolute path, percent-encoded from its raw bytes.

    `..` is resolved in the text, but symbolic links are not followed: the URI is that of the offered name.
    """
    return "file://" + quote_from_bytes(os.fsencode(os.path.normpath(Path(path).absolute())), safe="/")


def member_uri(archive: Path, index: int, name: bytes) -> str:
    """Returns the URI of the archive, `#`, the member's place in it from 0, `/` and its name.

    An example is `file:///a.zip#0/b/c.jpg`. A `#` in the name of a file or a member is percent-encoded.
    """
    return f"{uri_of(archive)}#{index}/{quote_from_bytes(name, safe='/')}"


def parse_member_uri(uri: str) -> tuple[Path, int, bytes] | None:
    """Returns archive, place and name of the member with this URI, or None for the URI of a file."""
    archive, separator, member = uri.partition("#")
    if not separator:
        return None
    index, _, name = member.partition("/")
    return path_of(archive), int(index), unquote_to_bytes(name)


def path_of(uri: str) -> Path:
    """Returns the path of the file with this URI. For the URI of a member, returns the path of its archive."""
    return Path(os.fsdecode(unquote_to_bytes(uri.partition("#")[0].removeprefix("file://"))))


def display_path(uri: str) -> Path:
    """Returns a path to show to the user. A member has the path of its archive, like a folder, and its own name."""
    member = parse_member_uri(uri)
    return path_of(uri) if member is None else member[0] / os.fsdecode(member[2].lstrip(b"/"))


def is_missing(uri: str) -> bool:
    """Returns whether the file of a URI does not exist. A file that cannot be looked at is not missing."""
    try:
        os.lstat(path_of(uri))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
