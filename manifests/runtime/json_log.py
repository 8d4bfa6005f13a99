"""Logs for machines: one JSON object a line on standard error, once `--log-json` asked for it; until then nothing.

Every line has `time` (UTC, ISO 8601), `level`, `event` and `pid`; docs/operations.md lists the events and their fields.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, TextIO

_LOGGER = logging.getLogger("likeness")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {"message": record.getMessage()})  # a library's own warning has no fields
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.msg if hasattr(record, "fields") else "warning",
            "pid": record.process,
            **fields,
        }
        return json.dumps(line, default=str).encode("utf-8", "backslashreplace").decode()


def log_as_json(stream: TextIO) -> None:
    """From now on every event of this process is a line on `stream`, and so are Python's warnings."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonLines())
    logging.captureWarnings(True)
    for logger in (_LOGGER, logging.getLogger("py.warnings")):
        logger.handlers, logger.propagate = [handler], False
    _LOGGER.setLevel(logging.INFO)


def is_logging() -> bool:
    """Whether events are written."""
    return bool(_LOGGER.handlers)


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event with its fields, which JSON must have words for or are written as text."""
    if is_logging():
        _LOGGER.log(level, event, extra={"fields": fields})
