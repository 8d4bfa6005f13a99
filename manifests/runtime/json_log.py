"""Writes the JSON log. With `--log-json`, each event is a line on standard error that contains one JSON object.

Every line has the fields `time` (UTC, ISO 8601), `level`, `event` and `pid`. The page docs/operations.md lists the
events and their fields.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, TextIO

from manifests.stores.addresses import hide_secrets

_LOGGER = logging.getLogger("likeness")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {"message": record.getMessage()})  # a warning of a library has no fields
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.msg if hasattr(record, "fields") else "warning",
            "pid": record.process,
            **fields,
        }
        return json.dumps(_hide(line), default=str).encode("utf-8", "backslashreplace").decode()


def _hide(value: Any) -> Any:
    """Returns a value whose texts contain no secrets of addresses."""
    if isinstance(value, str):
        return hide_secrets(value)
    if isinstance(value, dict):
        return {key: _hide(each) for key, each in value.items()}
    return [_hide(each) for each in value] if isinstance(value, (list, tuple)) else value


def log_as_json(stream: TextIO) -> None:
    """From now on, write each event of this process and each Python warning as a line to `stream`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonLines())
    logging.captureWarnings(True)
    for logger in (_LOGGER, logging.getLogger("py.warnings")):
        logger.handlers, logger.propagate = [handler], False
    _LOGGER.setLevel(logging.INFO)


def is_logging() -> bool:
    """Returns whether this process writes the JSON log, which is true after a call of `log_as_json`."""
    return bool(_LOGGER.handlers)


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event with its fields to the JSON log. A value that is not a JSON type is written as text."""
    if is_logging():
        _LOGGER.log(level, event, extra={"fields": fields})
