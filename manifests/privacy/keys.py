"""Creates and reads the secret key of a dataset, and computes marks with the key.

A mark is the HMAC-SHA256 (RFC 2104) of a kind and a value under the key in DATASET/secret.key. Without the key, nobody
can learn the value from a mark. The ledger does not contain the key. Otherwise, a reader of the ledger who has a photo
could compute the photo's mark, and find out whether the ledger has this mark.
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
KEY_BYTES = 32  # Length of the key in bytes: that of a SHA-256 digest (ours).
HIDDEN_PREFIX = "hmac:"  # The mark that replaces a uri begins with this text.


def create_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def compute_mark(key: bytes, kind: str, value: str | bytes) -> str:
    """Returns the mark of a value as 64 hex digits. The mark is an HMAC under `key`.

    `kind` is the kind of the value. The kind is `photo` for a photo's sha256, `face` for the bytes of an embedding,
    `uri` for a uri, and `person` for the face id from which a person's id is made. The kind `check` with an empty value
    gives the mark that recognizes a wrong key.
    """
    data = os.fsencode(value)
    return hmac.new(key, kind.encode() + b"\0" + data, "sha256").hexdigest()


def hide_uri(key: bytes, uri: str) -> str:
    """Returns the text that replaces the uri of a kept-out file in the ledger. A uri may contain a person's name."""
    return HIDDEN_PREFIX + compute_mark(key, "uri", uri)


def ensure_key(ledger: Ledger) -> bytes:
    """Returns the key of a dataset. Creates a key if the dataset has no key. The ledger must be open for writing.

    For a new key, the ledger records a mark, with which `read_key` recognizes a wrong key. Raises LedgerError if the
    key file is missing or broken, or if it belongs to another dataset.
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
    """Returns the key in the dataset's key file. If the dataset never had a key, returns a new key without saving it.

    Raises LedgerError if the key file is missing or broken, or if it belongs to another dataset, because only the right
    key recognizes the people and photos that must stay out.
    """
    path, check = ledger.dataset / KEY_NAME, ledger.read_detail(KEY_STAGE).get("check")
    if check is None and not path.exists():
        return create_key()
    key = read_key_file(ledger.dataset)
    if key is None:
        raise LedgerError(
            f"{path} is missing or broken. Likeness needs this key to recognize the people and photos that must "
            "stay out. Copy the file from a backup of the dataset."
        )
    if check is not None and check != _compute_check(key):
        raise LedgerError(f"{path} is the key of another dataset. Restore the key file that was made with this ledger.")
    return key


def read_key_file(dataset: Path) -> bytes | None:
    """Returns the key in the folder `dataset`, or None if the file of the key is missing or broken."""
    try:
        text = (dataset / KEY_NAME).read_text(encoding="ascii").removesuffix("\n")
    except (OSError, ValueError):
        return None
    return bytes.fromhex(text) if re.fullmatch(rf"[0-9a-f]{{{2 * KEY_BYTES}}}", text) else None


def _compute_check(key: bytes) -> str:
    return compute_mark(key, "check", "")


def _write(path: Path, key: bytes) -> None:
    """Write the key to a file that only its owner can read. The file is never visible in a half-written state."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
