"""Tests that no argument and no option shows the secrets of an address, and that addresses are refused early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import likeness as front
from manifests.stores.store_path import parse_path
from tests.doubles.commands.command_tables import ALL, spell
from tests.doubles.json_log import json_log

SECRET = "s3cr3t"
WEB = f"http://u:{SECRET}@h/x?sig={SECRET}"
UNKNOWN = f"ftp://u:{SECRET}@h/x?sig={SECRET}"  # for options that take addresses
# maps an option or argument to a text in which the address follows another word
TEXTS = {"--restored": f"A={WEB}", "RESULT...": f"A={WEB}", "--labels": f"hint:{WEB}", "--faces": f"insightface:{WEB}"}


@pytest.fixture(autouse=True)
def built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(front, "app", COMMAND)
    monkeypatch.chdir(tmp_path)


COMMAND = get_command(front.app)


def call(monkeypatch: pytest.MonkeyPatch, *line: str) -> Any:
    """Runs the command line in this process and returns its exit code."""
    monkeypatch.setattr("sys.argv", ["likeness", *line])
    with pytest.raises(SystemExit) as ended:
        front.main()
    return ended.value.code


def give_address(words: tuple[str, ...], tested: Any) -> list[str]:
    """Returns a command line in which the parameter `tested` has an address, and the other needed ones have not."""
    takes_addresses = getattr(tested.type_descriptor.parameter_info, "parser", None) is parse_path
    address = UNKNOWN if takes_addresses else TEXTS.get(spell(tested), WEB)
    line = list(words)
    for parameter in ALL[words].params:
        if parameter is tested or parameter.required:
            value = address if parameter is tested else "x"
            line += [value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]
    return line


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_no_argument_and_no_option_shows_a_secret_or_makes_a_folder(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tested = [each for each in ALL[words].params if each.param_type_name == "argument" or not each.is_flag]
    for parameter in tested:
        line = give_address(words, parameter)
        code = call(monkeypatch, *line)
        said = "".join(capfd.readouterr())
        assert code in (1, 2) and said, line
        assert SECRET not in said and "Traceback" not in said, said
        assert list(tmp_path.iterdir()) == [], line
        if parameter.type_descriptor.annotation is Path:
            assert " is an address, and " in said or "knows no addresses that begin with ftp://" in said, said
            assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["curate", "x", "--out", "s3://work/d"], "s3://work/d is an address, and --out of this command takes only"),
        (["curate", "s3:/b/x", "--out", "d"], "s3:/b/x has only one slash after the colon. Write s3://b/x"),
        (["curate", "az://c/x", "--out", "d"], "az://c/x cannot be used, because Likeness knows no addresses"),
        (["curate", "x", "--out", "d", f"--sidecar={WEB}"], "http://h/x is an address, and --sidecar"),
        (["curate", "s3://", "--out", "d"], "s3:// names no bucket"),
        (["curate", "x", UNKNOWN, "--nonsense", WEB], "No such option: --nonsense"),
        ([f"http://u:{SECRET} a?b@h/x"], "No such command"),
        (["manifest", "show", "x", f"http://u:{SECRET}@h/x"], "extra argument"),
    ],
)
def test_a_refused_address_is_one_sentence_without_secrets(
    line: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *line) == 2
    said = capfd.readouterr().err
    assert sentence in said and list(tmp_path.iterdir()) == []
    assert SECRET not in said


def test_the_log_shows_no_secret(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with json_log():
        call(monkeypatch, "restore", f"http://u:{SECRET} /@h/x", "--run=r", f"--out={UNKNOWN}", "--log-json")
    said = capfd.readouterr().err
    started, failed, *_ = map(json.loads, said.splitlines())
    assert started["command"] == ["--log-json", "restore", "http://h/x", "--run=r", "--out=ftp://h/x"]
    assert failed["message"].startswith("ftp://h/x is an address, and --out") and SECRET not in said
