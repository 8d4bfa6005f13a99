"""Makes and parses the URIs of files and of archive members. Percent-encoding gives every name exactly one URI."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from manifests.stores.store_path import StorePath, is_address, parse_path, parse_uri


def uri_of(path: str | Path) -> str:
    """Returns the URI of a file, which is `file://` and the absolute path with its raw bytes percent-encoded.

    Each `..` is removed together with the folder before it. Symbolic links are not followed, so the URI has the name
    of a link and not the name of its target. The URI of a file in a store is its address, without secrets.
    """
    path = parse_path(path)
    if isinstance(path, StorePath):
        return path.uri
    return "file://" + quote_from_bytes(os.fsencode(os.path.normpath(path.absolute())), safe="/")


def member_uri(archive: Path, index: int, name: bytes) -> str:
    """Returns the URI of an archive member: archive URI, `#`, number of the member from 0, `/`, name of the member.

    An example is `file:///a.zip#0/b/c.jpg`. A `#` in the name of a file or a member is percent-encoded.
    """
    return f"{uri_of(archive)}#{index}/{quote_from_bytes(name, safe='/')}"


def parse_member_uri(uri: str) -> tuple[Path, int, bytes] | None:
    """Returns (archive, number, name) of the member with this URI. Returns None for the URI of a file."""
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
    """Returns a path to show to the user.

    For a member, the result is the archive's path followed by the member's name.
    """
    member = parse_member_uri(uri)
    return path_of(uri) if member is None else member[0] / os.fsdecode(member[2].lstrip(b"/"))


def normalise_name(name: str | Path) -> str:
    """Returns a normal form of a path or a name, so that names of files can be compared with names in lists.

    The form is NFC, because some systems store `ë` as one character and others as two. Backslashes become slashes.
    """
    return unicodedata.normalize("NFC", str(name)).replace("\\", "/")


def fold_name(name: str | Path) -> str:
    """Returns a form of a name that is the same for two names if a case-insensitive system treats them as one name."""
    return normalise_name(name).casefold()


def is_end_of_path(name: str, path: Path) -> bool:
    """Returns whether `name`, which a user wrote, is the whole `path`, its file name, or its end after a slash."""
    return f"/{normalise_name(path)}".endswith(f"/{normalise_name(name)}")


def is_missing(uri: str) -> bool:
    """Returns whether the file of a URI is missing. If the system denies access to the folder, returns False.

    Also returns False for a file in a store, because a request for each file would take too long. The scan compares the
    files of a store with its list.
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
