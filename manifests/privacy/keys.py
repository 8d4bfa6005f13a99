"""The dataset's own secret: ids and marks made under it mean nothing to whoever has not got DATASET/secret.key.

The key is a file of its own and no row of the ledger: whoever is given the ledger, or may ask it anything, could
otherwise try every photo they have against its marks. Marks are HMAC-SHA256 (RFC 2104) of a kind and a value.
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
KEY_BYTES = 32  # of a key, as many as SHA-256 gives (ours)
HIDDEN_PREFIX = "hmac:"  # begins a uri that was replaced by its mark


def create_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def compute_mark(key: bytes, kind: str, value: str | bytes) -> str:
    """64 hex digits that stand for a photo's sha256 (`photo`), an embedding (`face`), a uri (`uri`) or a person."""
    data = os.fsencode(value)
    return hmac.new(key, kind.encode() + b"\0" + data, "sha256").hexdigest()


def hide_uri(key: bytes, uri: str) -> str:
    """What stands in `files.uri` for a file that is kept out: its name may name a person."""
    return HIDDEN_PREFIX + compute_mark(key, "uri", uri)


def ensure_key(ledger: Ledger) -> bytes:
    """The key of a ledger that is open for writing; made, with a note by which it is known again, where there is none.

    Raises LedgerError where the key is gone, broken or another dataset's: who is kept out could not be known any more.
    """
    noted = bool(ledger.read_detail(KEY_STAGE))
    path = ledger.dataset / KEY_NAME
    if not noted and not path.exists():
        _write(path, create_key())
    key = read_key(ledger)
    if not noted:
        ledger.record(KEY_STAGE, "all", {}, detail={"check": _check(key)})
    return key


def read_key(ledger: Ledger) -> bytes:
    """The key as it lies there; a new one that is kept nowhere where the dataset has none yet.

    Raises LedgerError as `ensure_key`.
    """
    path, noted = ledger.dataset / KEY_NAME, ledger.read_detail(KEY_STAGE).get("check")
    if noted is None and not path.exists():
        return create_key()
    try:
        text = path.read_text(encoding="ascii").removesuffix("\n")
    except (OSError, ValueError):
        text = ""
    if not re.fullmatch(rf"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
        raise LedgerError(
            f"{path} is missing or broken, and without it nobody knows who must be kept out: put it back from where "
            "the dataset was copied."
        )
    key = bytes.fromhex(text)
    if noted is not None and noted != _check(key):
        raise LedgerError(f"{path} is the key of another dataset: put the one back that was made with this ledger.")
    return key


def _check(key: bytes) -> str:
    return compute_mark(key, "check", "")


def _write(path: Path, key: bytes) -> None:
    """Readable by its owner alone, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
