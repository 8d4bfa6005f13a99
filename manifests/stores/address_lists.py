"""Reads lists of addresses. A list is a text file with the address of one photo or archive on each line."""

from __future__ import annotations

from pathlib import Path

from manifests.errors import BadInput
from manifests.stores.addresses import clean_address
from manifests.stores.store_path import StorePath, is_address

MAX_BYTES = 2**30  # Largest size of a list in bytes (ours). A list of ten million addresses has about 1 GB.
_ENDING = ".txt"


def read_address_list(path: Path) -> list[StorePath] | None:
    """Returns the addresses in a list. Returns None if `path` is not a list.

    The name of a list ends with .txt, and its first line is an address. Empty lines, and lines that begin with #, do
    not count. Raises BadInput if a later line is not an address. Raises BadInput if two addresses differ only in their
    secrets, because the ledger could not distinguish these addresses.
    """
    if path.suffix.lower() != _ENDING or not (isinstance(path, StorePath) or path.is_file()):
        return None
    if path.stat().st_size > MAX_BYTES:
        return None
    lines = enumerate(path.read_bytes().decode("utf-8-sig", "replace").split("\n"), 1)
    addresses: dict[StorePath, tuple[int, str]] = {}
    for number, line in lines:
        text = line.strip(" \t\r")  # other white space can be a part of a name
        if not text or text.startswith("#"):
            continue
        if not is_address(text):
            if not addresses:
                return None
            raise BadInput(f"{path}, line {number} is not an address. Write one address on each line.")
        try:
            address = StorePath(clean_address(text))
        except BadInput as error:
            raise BadInput(f"{path}, line {number}: {error}") from None
        earlier, earlier_text = addresses.setdefault(address, (number, text))
        if earlier_text != text:
            raise BadInput(
                f"{path}: the lines {earlier} and {number} differ only in a password or after the ?. The ledger has no "
                "secrets, so it cannot distinguish these addresses. Keep one of them, or give the files other names."
            )
    return list(addresses)
