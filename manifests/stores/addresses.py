"""Parses addresses in object stores and on web servers, and keeps their secrets out of files and messages.

An address is the text that a user writes, such as `s3://bucket/photos/a.jpg` or `https://host/a.jpg?token=...`. The
user name, the password and the query of a web address may be secret. A clean address does not contain these parts. The
secrets stay in the memory of the process, in `_whole_addresses`.
"""

from __future__ import annotations

import re

from manifests.errors import BadInput

WEB = ("http", "https")
_ADDRESS = re.compile(r"(s3|gs|hf|https?)://", re.IGNORECASE)
# Matches the user name and the password of any address, and the query and the fragment of a web address.
_PASSWORD = re.compile(r"(?<=://)[^/?#\s'\"]*@")
_QUERY = re.compile(r"(https?://[^\s?#'\"<>]*)[?#][^\s'\"<>]*", re.IGNORECASE)
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
    scheme, _, rest = text.strip().partition("://")
    scheme = scheme.lower()
    whole = f"{scheme}://{rest.partition('#')[0] if scheme in WEB else rest}".rstrip("/")
    clean = hide_secrets(whole).rstrip("/")
    if clean != whole and scheme not in WEB:
        raise BadInput(
            f"{clean}: the address of a bucket must not contain a key or a password. Put them where the library of the "
            "store reads them, for example into AWS_PROFILE."
        )
    if scheme in WEB and _HOST.match(clean) is None:
        raise BadInput(
            "An address has no valid host. Percent-encode the special characters of a user name or password."
        )
    if not is_plain(clean):
        raise BadInput(f"{clean} cannot be used. Give an address such as s3://bucket/folder, without // or .. in it.")
    if clean != whole:
        _whole_addresses[clean] = whole
    return clean


def is_plain(address: str) -> bool:
    """Returns whether the address is plain. No two plain addresses have the same path."""
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
    return _QUERY.sub(r"\1", _PASSWORD.sub("", text))
