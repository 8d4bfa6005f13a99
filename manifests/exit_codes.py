"""Runs a command, and turns each error into one sentence and an exit code.

The exit code is 0 if the command succeeded. The exit code is 1 if the command failed or if a check found a problem. The
exit code is 2 if an input or an option cannot be used. The exit code is 130 if the user interrupted the command with
Ctrl-C, or if the Ray cluster of the command stopped. Ctrl-C sends signal 2, and shells add 128 to the number of a
signal.

The errors of `manifests.errors` and of `curate.faces.errors` have the attribute `exit_code`. The command ends with this
code.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from manifests.runtime.json_log import is_logging, log
from manifests.stores.addresses import hide_secrets

EXIT_CODES = "0 done, 1 a failure or a failed check, 2 unusable input, 130 interrupted"  # for the help
INTERRUPTED = 130


def run_with_exit_code(app: Callable[[], object]) -> None:
    """Runs `app`, the Typer application of the command line.

    Every error becomes one sentence on standard error and an exit code. With LIKENESS_DEBUG=1 in the environment,
    errors keep their traceback.
    """
    start = time.monotonic()
    try:
        app()
    except KeyboardInterrupt:
        _exit_interrupted()
    except SystemExit as ending:
        # Typer catches Ctrl-C itself and exits without a message
        if isinstance(getattr(ending.__context__, "__cause__", None), KeyboardInterrupt):
            _exit_interrupted()
        log("finished", exit_code=ending.code or 0, seconds=round(time.monotonic() - start, 2))
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the program that read the output has ended
        sys.exit(1)
    except Exception as error:
        if os.environ.get("LIKENESS_DEBUG"):
            raise
        if (code := getattr(error, "exit_code", None)) is not None:
            exit_with_message(str(error), code)
        if isinstance(error, OSError):
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            advice = " Make room, then repeat the command. The command resumes its work." if is_full else ""
            exit_with_message(f"{error.filename or 'A file'}: {error.strerror or error}.{advice}", 1)
        exit_with_message(f"Unexpected error: {type(error).__name__}: {error}. Set LIKENESS_DEBUG=1 to see more.", 1)


def exit_with_message(sentence: str, code: int) -> NoReturn:
    """Exits with `code` after printing `sentence` to standard error or writing it to the JSON log.

    Secrets in addresses are removed from the sentence.
    """
    sentence = hide_secrets(sentence)
    if is_logging():
        log("failed", logging.ERROR, message=sentence, exit_code=code)
    else:  # a file name may contain bytes that are not UTF-8
        print(sentence.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
    sys.exit(code)


def _exit_interrupted() -> NoReturn:
    exit_with_message("The command was interrupted. Run the same command again to resume the work.", INTERRUPTED)
