"""Tests the command `likeness` itself: it starts fast, imports little, and has a help text for every command."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import likeness as front
from tests.doubles.commands.command_tables import ALL
from tests.places import REPOSITORY, Run

HEAVY = (
    "torch",
    "duckdb",
    "polars",
    "cv2",
    "faiss",
    "numpy",
    "insightface",
    "onnxruntime",
    "dlib",
    "diffusers",
    "ray",
    "rich",
)
WRITES = {
    "run",
    "demo",
    "curate",
    "decide",
    "degrade",
    "preview",
    "train",
    "restore",
    "evaluate",
    "freeze",
    "import-benchmark",
    "report",
    "export",
    "import",
}


def test_importing_the_front_door_loads_nothing_heavy() -> None:
    code = f"import sys, likeness; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert [name for name in ast.literal_eval(found.stdout) if name != "rich"] == []


def test_the_front_door_imports_stages_only_inside_functions() -> None:
    tree = ast.parse((REPOSITORY / "likeness.py").read_text())
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    top |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    ours = {name for name in top if name.split(".")[0] in {"curate", "degrade", "train", "manifests"}}
    light = {
        "manifests.exit_codes",
        "manifests.ledger.paths",
        "manifests.stores.store_path",
        "manifests.stores.addresses",
    }
    light |= {"manifests.runtime.flags", "manifests.runtime.json_log", "manifests.runtime.text"}
    assert {name for name in ours if not name.endswith("cli")} == light


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_helps_with_an_example(words: tuple[str, ...]) -> None:
    command = ALL[words]
    assert f"Example: likeness {' '.join(words)}" in (command.help or ""), "help without a runnable example"
    names = {option for parameter in command.params for option in parameter.opts}
    assert all(parameter.help for parameter in command.params if parameter.name != "help"), "an option without help"
    if words[-1] in WRITES:
        assert "--dry-run" in names


@pytest.mark.slow
def test_help_is_printed_for_every_command(command: Run) -> None:
    for words in [(), ("manifest",), *ALL]:
        found = command(*words, "--help")
        assert found.returncode == 0 and "Usage" in found.stdout and not found.stderr, words


def test_an_error_is_one_sentence_and_an_exit_code(command: Run, tmp_path: Path) -> None:
    found = command("manifest", "show", tmp_path / "nothing")
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1 and "likeness curate" in found.stderr
    assert "Traceback" not in found.stderr


def test_version_and_unknown_options(command: Run) -> None:
    assert command("--version").stdout.strip().count(".") == 2
    wrong = command("curate", "--no-such-option", "x")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr


def test_an_unexpected_error_is_one_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(front, "app", broken)
    monkeypatch.delenv("LIKENESS_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        front.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said and said.count("\n") == 1


@pytest.mark.parametrize("wrong", [("--images", "0"), ("--images", "-5"), ("--seed", "-1"), ("--seed", str(2**63))])
def test_numbers_that_make_no_sense_are_refused_before_anything_is_done(
    command: Run, tmp_path: Path, wrong: tuple[str, str]
) -> None:
    found = command("run", tmp_path, "--out", tmp_path / "dataset", *wrong)
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert not (tmp_path / "dataset").exists()


def test_an_interrupt_that_typer_caught_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def slow() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(front, "app", app)
    monkeypatch.setattr(sys, "argv", ["likeness"])
    with pytest.raises(SystemExit) as ended:
        front.main()
    interrupted = "The command was interrupted. Run the same command again to resume the work.\n"
    assert ended.value.code == 130 and capsys.readouterr().err == interrupted


def test_a_run_folder_among_photos_and_a_bad_split_are_refused_before_curating(command: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"")
    words = ("run", tmp_path / "photos", "--out", tmp_path / "dataset")
    for more, said in (
        (("--run", tmp_path / "photos"), "not a training run"),
        (("--split-by", "foo"), "--split-by foo"),
    ):
        for dry in ((), ("--dry-run",)):
            found = command(*words, *more, *dry)
            assert found.returncode == 2 and said in found.stderr and "Traceback" not in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"] and len(list((tmp_path / "photos").iterdir())) == 1


def test_dry_runs_print_json_where_they_are_asked_to_and_the_demo_needs_no_photos(command: Run, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    found = command("run", tmp_path, "--out", tmp_path / "d", "--dry-run", "--json")
    assert ast.literal_eval(found.stdout)["run"] == str(tmp_path / "d" / "run")
    found = command("demo", "--out", tmp_path / "d", "--dry-run")
    assert found.returncode == 0 and "The command would curate 1 path into" in found.stdout
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("empty", [("--out", ""), ("--out=",)])
def test_an_empty_path_is_not_the_current_directory(command: Run, tmp_path: Path, empty: tuple[str, ...]) -> None:
    found = command("curate", tmp_path, *empty)
    assert found.returncode == 2 and found.stderr == "An argument is empty. Name a path or a value.\n"


@pytest.mark.parametrize(("why", "code"), [("SIGTERM", 130), ("SIGINT", 130)])
def test_a_signal_during_training_ends_the_whole_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, why: str, code: int
) -> None:
    def nothing(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(images=1, folder=str(tmp_path), notices=(), pairs={"train": 1, "test": 1})

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("went on after the signal")

    monkeypatch.setattr("curate.run.pipeline.curate", nothing)
    monkeypatch.setattr("curate.cli.describe_summary", lambda *_: "")
    monkeypatch.setattr("degrade.cli.describe_poor_targets", lambda _: "")
    monkeypatch.setattr("degrade.frozen.dataset_sets.plan_set", nothing)
    monkeypatch.setattr("degrade.frozen.dataset_sets.make_set", nothing)
    monkeypatch.setattr("train.fit.cli.run_training", lambda *_, **__: SimpleNamespace(reason=why))
    monkeypatch.setattr("train.evaluation.evaluate.evaluate", never)
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(typer.Exit) as ended:
        front.run([tmp_path], tmp_path / "dataset")
    assert ended.value.exit_code == code
