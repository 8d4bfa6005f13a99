"""Switches the JSON log on for a part of a test."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

from manifests.runtime.json_log import log_as_json


@contextlib.contextmanager
def json_log() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Yields a function that returns all lines of the log so far. Afterwards, the loggers are as before.

    pytest can add a handler while the log is on. If this handler were left, the log would stay on in later tests.
    """
    stream = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("likeness", "py.warnings")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    log_as_json(stream)
    try:
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    finally:
        logging.captureWarnings(False)
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
