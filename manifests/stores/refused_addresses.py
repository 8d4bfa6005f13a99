"""Refuses the addresses that an argument or an option of the command line cannot take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from manifests.stores.addresses import BUCKETS, SUPPORTED, WEB, find_address
from manifests.stores.store_path import StorePath


def refuse_address(name: str, value: Any, takes_addresses: bool) -> None:
    """Raises BadInput if `value` is an address that the argument or option `name` cannot take.

    The message does not contain the secrets of the address. A StorePath is an address that Likeness can read. A value
    that is neither a text nor a path is never refused.
    """
    if isinstance(value, StorePath) or not isinstance(value, (str, Path)):
        return
    found = find_address(str(value))
    if found is None:
        return
    shown = found[1]
    scheme, _, place = shown.partition(":")
    whole = f"{scheme}://{place.lstrip('/')}"  # a Path has only one slash after the colon
    if not takes_addresses:
        kind = "only local paths" if isinstance(value, Path) else "no addresses"
        raise BadInput(
            f"{whole} is an address, and {name} of this command takes {kind}. docs/object_stores.md lists the commands "
            "that take addresses."
        )
    if scheme.lower() in (*BUCKETS, *WEB):
        raise BadInput(f"{shown} has only one slash after the colon. Write {whole} for an address.")
    raise BadInput(
        f"{whole} cannot be used, because Likeness knows no addresses that begin with {scheme}://. Name a local path, "
        f"or an address that begins with {SUPPORTED}."
    )
