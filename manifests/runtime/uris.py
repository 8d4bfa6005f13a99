"""Makes and parses the URIs of files and of archive members. The percent-encoding gives each name exactly one URI."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from manifests.stores.store_path import StorePath, is_address, parse_path, parse_uri


def uri_of(path: str | Path) -> str:
    """Returns the URI of a file: `file://` and the absolute path, whose raw bytes are percent-encoded.

    Each `..` is removed together with the folder before it. The URI of a symbolic link has the path of the link, and
    not the path of its target. The URI of a file in a store is its address, without secrets.
    """
    path = parse_path(path)
    if isinstance(path, StorePath):
        return path.uri
    return "file://" + quote_from_bytes(os.fsencode(os.path.normpath(path.absolute())), safe="/")


def member_uri(archive: Path, index: int, name: bytes) -> str:
    """Returns the URI of an archive member. An example is `file:///a.zip#0/b/c.jpg`.

    The parts are the URI of the archive, `#`, the number of the member from 0, `/`, and the name of the member. A `#`
    in a name is percent-encoded.
    """
    return f"{uri_of(archive)}#{index}/{quote_from_bytes(name, safe='/')}"


def parse_member_uri(uri: str) -> tuple[Path, int, bytes] | None:
    """Returns the archive, the number and the name of the member with this URI. Returns None for the URI of a file."""
    archive, separator, member = uri.partition("#")
    if not separator:
        return None
    index, _, name = member.partition("/")
    return path_of(archive), int(index), unquote_to_bytes(name)


def path_of(uri: str) -> Path:
    """Returns the path of the file with this URI. For the URI of a member, returns the path of its archive."""
    if is_address(uri):
        return parse_uri(uri.partition("#")[0])
    return Path(os.fsdecode(unquote_to_bytes(uri.partition("#")[0].removeprefix("file://"))))


def display_path(uri: str) -> Path:
    """Returns the path that messages show for a URI.

    For a member, the result is the path of the archive, followed by the name of the member.
    """
    member = parse_member_uri(uri)
    return path_of(uri) if member is None else member[0] / os.fsdecode(member[2].lstrip(b"/"))


def normalise_name(name: str | Path) -> str:
    """Returns a normal form of a path or a name, with which names of files and names in lists can be compared.

    The form is NFC, because some systems store `ë` as one character, and other systems as two. Backslashes become
    slashes.
    """
    return unicodedata.normalize("NFC", str(name)).replace("\\", "/")


def fold_name(name: str | Path) -> str:
    """Returns a form of a name. Two names with the same form are one name on a case-insensitive system."""
    return normalise_name(name).casefold()


def is_end_of_path(name: str, path: Path) -> bool:
    """Returns whether the user means `path` by `name`: `name` is the whole path, or its end after a slash."""
    return f"/{normalise_name(path)}".endswith(f"/{normalise_name(name)}")


def is_missing(uri: str) -> bool:
    """Returns True if the file of a URI is known to be missing.

    Returns False if the system denies access to the folder. Also returns False for a file in a store, because a request
    for each file would take too long. The scan finds the missing files of a store: they are not in the list of files
    that the store sends.
    """
    if is_address(uri):
        return False
    try:
        os.lstat(path_of(uri))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
