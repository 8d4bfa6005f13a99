"""The errors of object stores and web servers: their reasons, and their texts for the user."""

from __future__ import annotations

import errno
from typing import Any

from manifests.stores.addresses import WEB, find_scheme

FILE_CHANGED = "file_changed"  # Somebody changed the file while it was read, or after it was listed.
TRUNCATED = "transfer_truncated"  # The store sent fewer bytes than the file has.
MISSING = "file_vanished"
DENIED = "access_denied"
UNREADABLE = "unreadable_file"
MEANINGS = {
    FILE_CHANGED: "the file changed while it was read",
    TRUNCATED: "the store sent only a part of the file",
    MISSING: "there is no such file or folder at this address",
    DENIED: "the store denies the access; check the credentials of this machine",
    UNREADABLE: "the store does not answer as it should",
}
_NO_BUCKET = "there is no such bucket in the store; check the name of the bucket"
# The codes of S3 for credentials that it does not know, or whose signature is wrong.
_WRONG_CREDENTIALS = ("SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "AuthFailure")
# The names of the errors of all libraries for a server that cannot be reached.
_UNREACHED = {"ConnectionError", "ClientConnectorError", "ConnectTimeoutError", "ConnectTimeout", "ConnectError"}
_DENIED_STATUS = (401, 403)
_MISSING_STATUS = (404, 410)
# The codes of the HTTP errors timeout, too early and too many requests, for which it helps to wait
_REPEATED_STATUS = (408, 425, 429)
_PARTIAL = ("ClientPayloadError", "IncompleteReadError", "IncompleteRead", "ResponseStreamingError", "EOFError")


class StoreError(OSError):
    """A store did not read, list or write a file. The row of the file gets the reason `reason`.

    `meaning` is the text of the error. Without `meaning`, the error has the text of MEANINGS.
    """

    def __init__(self, address: str, reason: str, meaning: str = "") -> None:
        super().__init__(errno.EIO, meaning or MEANINGS[reason], address)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_error, (type(self), self.errno, self.strerror, self.filename, self.reason)


class StoreFileMissing(StoreError, FileNotFoundError):
    """There is no such file or folder in the store."""


def _restore_error(kind: type[StoreError], number: int, text: str, name: str, reason: str) -> StoreError:
    error = kind.__new__(kind, number, text, name)
    OSError.__init__(error, number, text, name)
    error.reason = reason
    return error


def explain_error(error: Exception) -> tuple[str, bool]:
    """Returns the reason why a request failed, and whether a repetition would be useless."""
    if isinstance(error, StoreError):
        return error.reason, error.reason != TRUNCATED
    status = _find_status(error)
    # fsspec also raises FileNotFoundError if a web server does not answer
    is_unanswered = type(error.__cause__).__module__.startswith("aiohttp") or isinstance(error.__cause__, TimeoutError)
    is_missing = isinstance(error, FileNotFoundError) and status is None and not is_unanswered
    if is_missing or status in _MISSING_STATUS:
        return MISSING, True
    is_forbidden = str(error).startswith("Forbidden: ")  # gcsfs has no class for the status 403
    is_denied = isinstance(error, PermissionError) or "Credentials" in type(error).__name__ or is_forbidden
    if is_denied or status in _DENIED_STATUS:
        return DENIED, True
    names = {type(each).__name__ for each in (error, error.__cause__, error.__context__) if each is not None}
    if names & set(_PARTIAL):
        return TRUNCATED, False
    return UNREADABLE, status is not None and 400 <= status < 500 and status not in _REPEATED_STATUS


def describe_error(address: str, reason: str, error: Exception) -> str:
    """Returns the text for the user about a request that failed, or "" if the text of MEANINGS for `reason` is enough.

    The texts of the libraries' errors may contain the address with its secrets, so only names of classes and codes are
    used.
    """
    if isinstance(error, StoreError):
        return str(error.strerror)
    is_web = find_scheme(address) in WEB
    server = "web server" if is_web else "store"
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    if reason == MISSING:
        is_bucket = find_scheme(address) in ("s3", "gs") and "/" not in address.partition("://")[2]
        return _NO_BUCKET if code == "NoSuchBucket" or is_bucket else ""
    if reason == DENIED and is_web:
        return "the web server denies the access; check the user name, the password or the signature in the address"
    if reason == DENIED and (code in _WRONG_CREDENTIALS or "Credentials" in type(error).__name__):
        why = code or type(error).__name__
        return f"the store denies the access, because the credentials of this machine are wrong or missing ({why})"
    if reason == DENIED and (operation := getattr(error.__cause__, "operation_name", None)):
        return (
            "the store denies the access; check the credentials of this machine, and whether they allow the request "
            f"{operation}"
        )
    if reason == UNREADABLE:
        causes = [each for each in (error, error.__cause__, error.__context__) if each is not None]
        if any(kind.__name__ in _UNREACHED for each in causes for kind in type(each).__mro__):
            setting = " and AWS_ENDPOINT_URL" if find_scheme(address) == "s3" else ""
            return f"the {server} cannot be reached; check the address{setting}, the network, and that the server runs"
        return f"the {server} does not answer as it should ({type(error).__name__})"
    return ""


def _find_status(error: Exception) -> int | None:
    """Returns the HTTP status in an error or in its cause, or None without a status."""
    for each in (error, error.__cause__, error.__context__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return int(response["ResponseMetadata"]["HTTPStatusCode"])
        status = getattr(each, "status", None) or getattr(response, "status_code", None) or getattr(each, "code", None)
        if isinstance(status, int):
            return status
    return None
