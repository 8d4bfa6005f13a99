"""Every command of the command line, by the words that call it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from click.testing import Result
from typer.main import get_command
from typer.testing import CliRunner

import curate.cli
import likeness as front


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""

    def walk(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        inside = getattr(command, "commands", None)
        if inside is None:
            yield words, command
        else:
            for name, child in inside.items():
                yield from walk((*words, name), child)

    yield from walk((), get_command(front.app))


ALL = dict(commands())


def call_curate(*arguments: object) -> Result:
    """Run `likeness curate` in this process."""
    app = typer.Typer()
    app.command()(curate.cli.curate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
