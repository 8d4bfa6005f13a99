"""Tests the README and the docs: commands can be parsed, make targets and files exist, no registry host is named."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.commands.command_tables import ALL
from tests.places import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def command_lines() -> Iterator[tuple[str, str]]:
    """Yields every line `likeness ...` in an indented or fenced block, together with its page."""
    for page in PAGES:
        lines = iter(page.read_text(encoding="utf-8").splitlines())
        for line in lines:
            found = re.match(r"^(?: {4}|\$ |)(?:\$ )?(?:\.venv/bin/)?(likeness .+)$", line)
            if found and "..." not in line:
                command = found[1].split("  #")[0].split(" > ")[0]
                # a command may have several lines, because an SQL statement may have several lines
                while command.count('"') % 2:
                    command += "\n" + next(lines)
                yield page.name, command


@pytest.mark.parametrize(("page", "line"), list(command_lines()))
def test_a_command_in_the_docs_parses(page: str, line: str) -> None:
    words = [word for word in shlex.split(line)[1:] if word != "--log-json"]  # every command accepts --log-json
    name = next((known for known in ALL if tuple(words[: len(known)]) == known), None)
    assert name is not None, f"{page}: there is no command in {line!r}"
    context = ALL[name].make_context(" ".join(name), words[len(name) :], resilient_parsing=False)
    context.close()


def test_the_readme_shows_the_main_commands() -> None:
    shown = {line.split()[1] for page, line in command_lines() if page == "README.md"}
    assert {"run", "curate", "degrade", "train", "evaluate", "restore", "report", "verify", "manifest"} <= shown


def test_make_targets_in_the_readme_exist() -> None:
    text, makefile = (REPOSITORY / "README.md").read_text(), (REPOSITORY / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+)\b", text)) & {
        "install",
        "demo",
        "test",
        "lint",
        "bench",
        "clean",
        "format",
    }
    assert {"install", "demo", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_the_docs_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for name in re.findall(r"`((?:benchmarks|manifests|curate|degrade|train|tests)/[\w/]+\.(?:py|sql|json|j2))`", text):
        assert (REPOSITORY / name).exists(), f"{page.name} names {name}"


def test_no_registry_host_is_named() -> None:
    for path in (REPOSITORY / "Makefile", REPOSITORY / "pyproject.toml", REPOSITORY / "constraints.txt", *PAGES):
        assert not re.search(r"index-url|find-links|https?://[\w.]*(pypi|pythonhosted|npmjs)", path.read_text()), path
