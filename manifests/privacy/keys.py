"""The secret key of a dataset, and the marks that are computed with it.

A mark is the HMAC-SHA256 (RFC 2104) of a kind and a value under the key in DATASET/secret.key. Without the key, a mark
tells nothing about the value. The key is a file and not a row of the ledger. Whoever could query the key could compute
the marks of their own photos, and compare these with the marks in the ledger.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from pathlib import Path

from manifests.errors import LedgerError
from manifests.ledger.ledger import Ledger

KEY_NAME = "secret.key"
KEY_STAGE = "key"
KEY_BYTES = 32  # the length of a SHA-256 digest (ours)
HIDDEN_PREFIX = "hmac:"  # a uri that begins with this is the mark of a uri


def create_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def compute_mark(key: bytes, kind: str, value: str | bytes) -> str:
    """Returns 64 hex digits, the HMAC of a value under `key`.

    `kind` names the kind of value: `photo` for a photo's sha256, `face` for the bytes of an embedding, `uri` for a
    uri, `person` for the face id from which a person's id is made, and `check` for the empty string.
    """
    data = os.fsencode(value)
    return hmac.new(key, kind.encode() + b"\0" + data, "sha256").hexdigest()


def hide_uri(key: bytes, uri: str) -> str:
    """Returns the text that replaces the uri of a kept-out file in the ledger. A file name may name a person."""
    return HIDDEN_PREFIX + compute_mark(key, "uri", uri)


def ensure_key(ledger: Ledger) -> bytes:
    """Returns the key of a dataset, and creates the key if the dataset has none. The ledger must be open for writing.

    A mark of the new key is recorded in the ledger, so that another dataset's key is recognized as wrong.
    Raises LedgerError if the key file is missing, broken, or another dataset's.
    """
    has_check = bool(ledger.read_detail(KEY_STAGE))
    path = ledger.dataset / KEY_NAME
    if not has_check and not path.exists():
        _write(path, create_key())
    key = read_key(ledger)
    if not has_check:
        ledger.record(KEY_STAGE, "all", {}, detail={"check": _compute_check(key)})
    return key


def read_key(ledger: Ledger) -> bytes:
    """Returns the key in the dataset's key file. If the dataset never had a key, returns a new one that is not saved.

    Raises LedgerError if the key file is missing, broken, or another dataset's. Without the right key, Likeness cannot
    recognize the people and photos that are kept out.
    """
    path, check = ledger.dataset / KEY_NAME, ledger.read_detail(KEY_STAGE).get("check")
    if check is None and not path.exists():
        return create_key()
    try:
        text = path.read_text(encoding="ascii").removesuffix("\n")
    except (OSError, ValueError):
        text = ""
    if not re.fullmatch(rf"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
        raise LedgerError(
            f"{path} is missing or broken. Likeness needs this key to recognize the people and photos that are kept "
            "out. Copy the file from a backup of the dataset."
        )
    key = bytes.fromhex(text)
    if check is not None and check != _compute_check(key):
        raise LedgerError(
            f"{path} is the key of another dataset. Put back the key file that was made with this ledger."
        )
    return key


def _compute_check(key: bytes) -> str:
    return compute_mark(key, "check", "")


def _write(path: Path, key: bytes) -> None:
    """Write the key to a file that only its owner can read. The file appears complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
