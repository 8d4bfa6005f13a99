"""Tests that each option and argument is in docs/commands.md once, and that the page agrees with Typer's commands."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import pytest

from manifests.runtime.flags import ARGUMENTS, FLAGS, RESULTS
from tests.doubles.commands.command_tables import ALL, build_tables, list_arguments, render_table, spell
from tests.places import REPOSITORY

REPEAT = " May be repeated."
PARAMETERS = [
    pytest.param(parameter, id=f"{' '.join(words)} {spell(parameter)}")
    for words, command in ALL.items()
    for parameter in command.params
    if parameter.name != "help"  # Typer adds --help itself
]


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_a_word_has_one_meaning_in_every_command(parameter: Any) -> None:
    word = spell(parameter)
    is_option = parameter.param_type_name == "option"
    metavar, meaning = FLAGS[word] if is_option else (word, ARGUMENTS[word])
    assert parameter.metavar in (RESULTS if word == "--out" else (metavar,))
    sentence = parameter.help.removesuffix(REPEAT)
    assert re.fullmatch(re.escape(meaning) + r"([,;:]? \S.*)?\.", sentence)
    if is_option:
        assert parameter.help.endswith(REPEAT) == parameter.multiple
        assert (parameter.metavar == "") == parameter.is_flag


def test_a_word_has_one_type_in_every_command() -> None:
    types: dict[str, set[str]] = defaultdict(set)
    for parameter in (parameter.values[0] for parameter in PARAMETERS):
        types[spell(parameter)].add(re.sub(r"list\[(.*)\]", r"\1", parameter.bare_type()))
    assert {word: kinds for word, kinds in types.items() if len(kinds) > 1} == {}


def test_no_word_of_the_table_is_unused() -> None:
    parameters = [parameter.values[0] for parameter in PARAMETERS]
    assert {spell(parameter) for parameter in parameters} == set(FLAGS) | set(ARGUMENTS)
    assert {parameter.metavar for parameter in parameters if spell(parameter) == "--out"} == set(RESULTS)


def test_a_dataset_or_photos_are_the_first_argument() -> None:
    for words, command in ALL.items():
        first = (list_arguments(command) or [""])[0]
        assert (
            first.startswith("DATASET")
            or first in {"PHOTOS...", "IMAGE", "IMAGES", "SOURCE", "PUBLISHED", "RESULT..."}
            or words[0] in {"demo", "doctor", "export"}
        )


@pytest.mark.parametrize("heading", build_tables())
def test_the_page_of_commands_has_the_tables(heading: str) -> None:
    page = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
    table = render_table(build_tables()[heading])
    assert f"## {heading}\n\n{table}\n" in page, (
        "print the tables with: python -m tests.doubles.commands.command_tables"
    )
