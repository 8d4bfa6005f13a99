"""Lists the commands of Typer, and builds the tables that docs/commands.md must contain.

`python -m tests.doubles.commands.command_tables` prints the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from click.testing import Result
from typer.main import get_command
from typer.testing import CliRunner

import curate.cli
import likeness as front
from manifests.runtime.flags import ARGUMENTS, FLAGS, RESULTS


def walk(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields (words that call a command, command) for every command."""
    inside = getattr(command, "commands", None)
    if inside is None:
        yield words, command
    else:
        for name, child in inside.items():
            yield from walk((*words, name), child)


ALL = dict(walk((), get_command(front.app)))


def spell(parameter: Any) -> str:
    """Returns the name of an option as it stands in FLAGS, or the metavar of an argument."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    return "/".join([*parameter.opts, *parameter.secondary_opts])


def list_arguments(command: Any) -> list[str]:
    """Returns the metavars of a command's arguments."""
    return [spell(parameter) for parameter in command.params if parameter.param_type_name == "argument"]


def list_users(word: str) -> str:
    """Returns the commands that have the option or argument `word`, separated by commas."""
    users = [words for words, command in ALL.items() if word in map(spell, command.params)]
    # `manifest export` keeps its first word, because `export` is another command.
    return ", ".join(" ".join(words) if words[-1:] in ALL else words[-1] for words in users)


def build_tables() -> dict[str, list[list[str]]]:
    """Maps the heading of each table of docs/commands.md to the rows of the table. The first row has the titles."""
    return {
        "Commands": [
            ["command", "arguments", "what it does"],
            *(
                [f"`{' '.join(words)}`", " ".join(list_arguments(command)), command.help.splitlines()[0].rstrip(".")]
                for words, command in ALL.items()
            ),
        ],
        "Arguments": [
            ["argument", "meaning", "commands"],
            *([f"`{word}`", meaning, list_users(word)] for word, meaning in ARGUMENTS.items()),
        ],
        "Options": [
            ["option", "value", "meaning", "commands"],
            *(
                [f"`{word}`", ", ".join(RESULTS) if word == "--out" else metavar, meaning, list_users(word)]
                for word, (metavar, meaning) in FLAGS.items()
            ),
        ],
    }


def render_table(rows: list[list[str]]) -> str:
    """Returns the rows as a Markdown table."""
    title, *others = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    lines = [title, "|".join(["---"] * len(rows[0])), *others]
    return "\n".join(f"| {line} |" if index != 1 else f"|{line}|" for index, line in enumerate(lines))


def call_curate(*arguments: object) -> Result:
    """Runs `likeness curate` in this process."""
    app = typer.Typer()
    app.command()(curate.cli.curate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


if __name__ == "__main__":
    for heading, rows in build_tables().items():
        print(f"## {heading}\n\n{render_table(rows)}\n")
