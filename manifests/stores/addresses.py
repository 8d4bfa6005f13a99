"""Parses addresses in object stores and on web servers, and keeps their secrets out of files and messages.

An address is the text that a user writes, such as `s3://bucket/photos/a.jpg` or `https://host/a.jpg?token=...`. The
user name, the password and the query of a web address may be secret. A clean address does not contain these parts. The
secrets stay in the memory of the process, in `_whole_addresses`.
"""

from __future__ import annotations

import re

from manifests.errors import BadInput

WEB = ("http", "https")
BUCKETS = ("s3", "gs", "hf")
SUPPORTED = "s3://, gs://, hf://, https:// or http://"  # for messages
_ADDRESS = re.compile(r"(s3|gs|hf|https?)://", re.IGNORECASE)
# These words before a colon belong to values of our options and to uris in the ledger, such as insightface:/packs/mine.
_OTHER_PREFIXES = "(?:insightface|onnx|osdface|refinefir|instantrestore|hint|window|hmac):"
# Matches the beginning of an address of any scheme, also with one slash. A scheme has two letters or more, because
# C:/ is a drive of Windows.
_START = rf"(?<![a-z0-9+.-])(?!{_OTHER_PREFIXES})[a-z][a-z0-9+.-]+:/{{1,2}}(?!/)"
# Matches a word that is an address, or that has an address after a name, such as --out=s3://bucket or hint:s3://bucket.
_WORD = re.compile(rf"(?:[^/\s'\"]*[=:])??(?P<start>{_START}|[a-z][a-z0-9+.-]+:///?)(?P<rest>.*)", re.I | re.S)
# Matches the user name and the password of any address, and the query and the fragment of an address that is not in a
# bucket. The name of an object in a bucket can contain a question mark.
_PASSWORD = re.compile(rf"({_START})[^/?#\s'\"]*@", re.IGNORECASE)
_QUERY = re.compile(rf"(?!(?:s3|gs|hf|file):)({_START}[^\s?#'\"<>]*)[?#][^\s'\"<>]*", re.IGNORECASE)
# Matches a user name, and a password that contains a slash. A colon can also begin a port. An address that begins with
# s3://arn: has no password.
_WRONG_PASSWORD = re.compile(
    rf"({_START})(?!arn:)[^/?#\s'\":]*:(?!\d+(?:[/?#\s]|$))[^\s'\"]*@(?=[^\s'\"])", re.IGNORECASE
)
# Matches the beginning of a web address. The host is a name, a number or [...], and a port may follow.
_HOST = re.compile(r"https?://(\[[0-9a-f:.]+\]|[^\s/:@]+)(:\d+)?(/|$)", re.IGNORECASE)

# Maps a clean address to the address that the user wrote. Addresses without secrets are not in this dict.
_whole_addresses: dict[str, str] = {}


def starts_like_address(text: str) -> bool:
    """Returns whether a text begins like the address of a file or a folder in a store or on a web server."""
    return _ADDRESS.match(text) is not None


def find_scheme(address: str) -> str:
    """Returns the part of an address before the colon, for example s3."""
    return address.partition(":")[0]


def clean_address(text: str) -> str:
    """Returns the clean form of an address, and remembers its secrets.

    Raises BadInput if the address of a bucket has a password, if the address has no bucket or host, or if it is not
    plain (see `is_plain`), such as s3://a/../b or s3://a//b.
    """
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    # the name of an object in a bucket may end with a space
    whole = f"{scheme}://{rest.strip().partition('#')[0] if scheme in WEB else rest}".rstrip("/")
    clean = _QUERY.sub(r"\1", _PASSWORD.sub(r"\1", whole)).rstrip("/")
    if scheme not in WEB and (hidden := hide_secrets(whole)) != whole:
        raise BadInput(
            f"{hidden}: the address of a bucket must not contain a key or a password. Put them where the library of "
            "the store reads them, for example into AWS_PROFILE."
        )
    if scheme in WEB and _HOST.match(clean) is None:
        raise BadInput(
            "An address has no valid host. Percent-encode the special characters of a user name or password."
        )
    if clean == f"{scheme}:":
        raise BadInput(f"{scheme}:// names no bucket. Give an address such as s3://bucket/folder.")
    if not is_plain(clean):
        raise BadInput(
            f"{clean} cannot be used, because a name between two slashes is empty, or is . or .. in this address. Name "
            "the folder above it."
        )
    if clean != whole:
        _whole_addresses[clean] = whole
    return clean


def is_plain(address: str) -> bool:
    """Returns whether the address is plain: no part of its path is empty, is `.` or `..`, or contains a NUL byte.

    No two plain addresses have the same path.
    """
    parts = address.partition("://")[2].split("/")
    return not any(part in ("", ".", "..") or "\0" in part for part in parts)


def add_secrets(uri: str) -> str:
    """Returns the address that the user wrote. `uri` is the clean address, or the uri of a file in a store.

    Use the result only for a request, or to tell a worker process what to read, because the result contains secrets.
    """
    address, separator, member = uri.partition("#")
    return _whole_addresses.get(address, address) + separator + member


def hide_secrets(text: str) -> str:
    """Returns a text with its addresses, but without their user names, passwords and queries."""
    return _QUERY.sub(r"\1", _WRONG_PASSWORD.sub(r"\1", _PASSWORD.sub(r"\1", text)))


def find_address(word: str) -> tuple[str, str] | None:
    """Returns the address in one word of a command line, with and without its secrets, or None without an address.

    The address can have a scheme that Likeness does not know, such as ftp, and one slash after the colon. The secrets
    may contain any characters, also spaces and slashes. The address is the whole word, or stands after a name and an =
    or a colon, such as --out=s3://bucket.
    """
    match = _WORD.fullmatch(word)
    if match is None:
        return None
    start, rest = match["start"], match["rest"]
    address = start + rest
    if start.partition(":")[0].lower() in BUCKETS or start.endswith(":///"):
        return address, hide_secrets(address)
    place = re.split("[?#]", rest)[0]
    # Cuts the place after the user name and the password, which may contain slashes.
    host = place.partition("/")[0]
    cut = host.rfind("@") + 1 if "@" in host or _is_host(host) else place.rfind("@") + 1
    # A password can also contain a question mark, so the place can begin with a user name.
    return address, start + (place[cut:] if _is_host(place[cut:].partition("/")[0]) else "...")


def _is_host(text: str) -> bool:
    return re.fullmatch(r"(\[[0-9a-f:.]+\]|[^\s:@]*)(:\d+)?", text, re.IGNORECASE) is not None


def hide_in_word(word: str) -> str:
    """Returns one word of a command line without the secrets of its address."""
    found = find_address(word)
    return hide_secrets(word) if found is None else word.removesuffix(found[0]) + found[1]
