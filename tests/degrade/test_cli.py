import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

import manifests.pictures.untrusted_images
from degrade import cli
from degrade.presets import PRESETS
from manifests.errors import BadInput, LedgerMissing
from manifests.pictures.images import decode
from manifests.pictures.png_files import encode_png
from tests.doubles.commands.forked_commands import start_python
from tests.doubles.frozen.lq_sets import toy_dataset, toy_picture
from tests.places import REPOSITORY

app = typer.Typer()
app.command()(cli.degrade)
app.command()(cli.verify)
app.command()(cli.preview)


def call(*words: object) -> str:
    """Runs a command and returns what it printed. Raises its error, because only `likeness.main` prints errors."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_dataset_is_degraded_verified_and_verified_again_after_tampering(tmp_path):
    dataset = toy_dataset(tmp_path / "d")
    assert "Would make 8 images" in call("degrade", dataset, "--size", 32, "--dry-run")
    assert not (dataset / "lq").exists()
    report = json.loads(call("degrade", dataset, "--size", 32, "--workers", 1, "--json"))
    assert report["lq_set"] == "gfpgan-test-32-s0" and report["images_written"] == 8
    assert "(0 new)" in call("degrade", dataset, "--size", 32, "--workers", 1)
    folder = dataset / "lq" / report["lq_set"]
    for where in (dataset, folder):
        assert "8 images verified." in call("verify", where, "--workers", 1)
    victim = sorted(folder.iterdir())[0]
    victim.write_bytes(encode_png(toy_picture(9, 32)))
    result = CliRunner().invoke(app, ["verify", str(folder), "--workers", "1"])
    assert result.exit_code == 1 and victim.stem in result.stdout and "Largest difference" in result.stdout
    result = CliRunner().invoke(app, ["verify", str(dataset), "--workers", "1", "--json"])
    assert result.exit_code == 1 and json.loads(result.stdout)[0]["changed_files"] == [victim.stem]
    said = call("degrade", dataset, "--size", 32, "--workers", 1)
    assert "(1 new; 1 of the new images replaced files that had changed)" in said
    assert "verified." in call("verify", dataset, "--workers", 1)


def test_a_plain_folder_is_degraded_and_verified(tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(encode_png(toy_picture(0)))
    (photos / "b.jpg").write_bytes(b"")
    words = ("degrade", photos, "--preset", "codeformer", "--out", tmp_path / "lq", "--workers", 1)
    assert "Would make 2" in call(*words, "--dry-run") and not (tmp_path / "lq").exists()
    assert "1 image in" in (said := call(*words)) and "skipped b.jpg: is empty" in said
    assert json.loads(call(*words, "--json"))["images"] == 1
    assert "1 image verified." in call("verify", tmp_path / "lq")
    monkeypatch.chdir(tmp_path / "lq")
    assert call("verify", ".").startswith("lq: 1 image verified.")  # the README.md of a set names this command


def test_preview_writes_a_sheet_of_presets_by_seeds(tmp_path):
    face, sheet = tmp_path / "face.png", tmp_path / "sheet.png"
    face.write_bytes(encode_png(toy_picture(0, 128)))
    call("preview", face, "--out", sheet, "--columns", 2, "--dry-run")
    assert not sheet.exists()
    call("preview", face, "--out", sheet, "--columns", 2)
    height, width, _ = decode(sheet.read_bytes()).shape
    first = sheet.read_bytes()
    call("preview", face, "--out", sheet, "--columns", 2)
    assert sheet.read_bytes() == first
    (tmp_path / "mine.toml").write_text('down = [2, 4]\nresize = "area"\n')
    said = call("preview", face, "--out", sheet, "--columns", 5, "--preset", tmp_path / "mine.toml")
    assert "shows 1 preset with 5 seeds each. At 128 px, a preset is 4 times as severe" in said
    assert decode(sheet.read_bytes()).shape == (height // len(PRESETS), width * 2, 3)


def test_a_picture_is_decoded_for_the_preview_in_a_process_of_its_own(tmp_path, monkeypatch):
    (face := tmp_path / "face.png").write_bytes(encode_png(toy_picture(0, 128)))
    monkeypatch.setattr(manifests.pictures.untrusted_images, "_decode", lambda *_: pytest.fail("decoded here"))
    assert "1 preset with 1 seed each" in call(
        "preview", face, "--out", tmp_path / "s.png", "--preset", "gfpgan", "--columns", 1
    )


def test_a_sheet_never_takes_the_place_of_its_picture(tmp_path):
    face = tmp_path / "face.png"
    face.write_bytes(encode_png(toy_picture(0, 128)))
    (tmp_path / "hard.png").hardlink_to(face)
    (tmp_path / "soft.png").symlink_to(face)
    before = face.read_bytes()
    for out in (face, tmp_path / "." / "face.png", tmp_path / "hard.png", tmp_path / "soft.png"):
        for dry in ((), ("--dry-run",)):
            with pytest.raises(BadInput, match="would overwrite"):
                call("preview", face, "--out", out, *dry)
    assert face.read_bytes() == before


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999"])
def test_a_seed_that_cannot_be_kept_is_refused_before_anything_is_written(tmp_path, seed):
    dataset = toy_dataset(tmp_path / "d")
    face = tmp_path / "face.png"
    face.write_bytes(encode_png(toy_picture(0, 128)))
    for words in (("degrade", dataset), ("preview", face, "--out", tmp_path / "x.png")):
        result = CliRunner().invoke(app, [*map(str, words), "--seed", seed])
        assert result.exit_code == 2 and "--seed" in result.output
    assert not (dataset / "lq").exists() and not (tmp_path / "x.png").exists()


def test_what_makes_no_sense_is_one_sentence(tmp_path):
    dataset = toy_dataset(tmp_path / "d", faces=4)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(encode_png(toy_picture(0)))
    for says, words in [
        ("Leave --out out", ("degrade", dataset, "--out", tmp_path / "x")),
        ("Leave --split out", ("degrade", photos, "--split", "test", "--out", tmp_path / "x")),
        ("Name a folder for its LQ images with --out", ("degrade", photos)),
        ("not a folder", ("degrade", tmp_path / "nowhere")),
        ("the presets are", ("degrade", photos, "--out", tmp_path / "x", "--preset", "best")),
        ("the presets are", ("preview", photos / "a.png", "--out", tmp_path / "x.png", "--preset", "best")),
        ("not a folder", ("verify", tmp_path / "nowhere")),
        ("no frozen set yet", ("verify", dataset)),
        ("no set exists yet", ("verify", dataset / "lq" / "a")),
        ("no readable card", ("verify", photos)),
        ("is a frozen set itself", ("verify", dataset / "lq" / "a", "--set", "a")),
        ("has no set a", ("verify", photos, "--set", "a")),
        ("no set exists yet", ("verify", dataset, "--set", "b")),
        ("whose originals are its crops", ("verify", dataset, "--originals", photos)),
        ("cannot be read", ("preview", tmp_path / "nowhere.png", "--out", tmp_path / "x.png")),
        ("is a file", ("preview", photos / "a.png", "--out", photos / "a.png" / "x" / "y.png")),
        ("ends in .png", ("preview", photos / "a.png", "--out", photos)),
        ("end in .png", ("preview", photos / "a.png", "--out", tmp_path / "x.jpg")),
    ]:
        (dataset / "lq" / "a").mkdir(parents=True, exist_ok=True)
        with pytest.raises((BadInput, LedgerMissing), match=says) as caught:
            call(*words)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "photos"]


def processed(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs the real command line in a new process."""
    process = start_python(["-m", "likeness", *map(str, words)], dict(os.environ))
    out, err = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def test_what_is_refused_is_one_line_and_no_progress_bar_and_opencv_is_silent(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "ab":
        (photos / f"{name}.png").write_bytes(encode_png(toy_picture(0)))
    (photos / "cut.png").write_bytes(encode_png(toy_picture(1))[:-300])
    words = ("degrade", photos, "--out", tmp_path / "lq", "--workers", 1)
    made = processed(*words)
    assert made.returncode == 0 and "skipped cut.png: is cut short" in made.stdout and "WARN" not in made.stderr
    refused = processed(*words, "--seed", 1)
    assert refused.returncode == 2 and refused.stdout == ""
    assert refused.stderr.strip().count("\n") == 0 and "another set (its seed differs)" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("dataset", marks=pytest.mark.exhaustive), "folder"])
def test_the_command_killed_with_four_workers_ends_as_one_worker_never_killed(tmp_path, kind):
    if kind == "dataset":
        sources = [toy_dataset(tmp_path / name, faces=200) for name in ("killed", "whole")]
        lqs = [source / "lq" / "gfpgan-test-64-s0" for source in sources]
        words = [(source, "--size", 64) for source in sources]
    else:
        photos = tmp_path / "photos"
        photos.mkdir()
        for number in range(150):
            (photos / f"{number}.png").write_bytes(encode_png(toy_picture(number, 64)))
        lqs = [tmp_path / name for name in ("killed", "whole")]
        words = [(photos, "--out", lq) for lq in lqs]
    command = ["-m", "likeness", "degrade", *map(str, words[0]), "--workers", "4", "--json"]
    running = start_python(command, dict(os.environ))
    while len(list(lqs[0].glob("*.png"))) < 20 and running.poll() is None:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert 20 <= len(list(lqs[0].glob("*.png"))) < 150 and not (lqs[0] / "theta.jsonl").exists()
    assert processed("degrade", *words[0], "--workers", 4).returncode == 0
    assert processed("degrade", *words[1], "--workers", 1).returncode == 0
    killed, whole = ({path.name: path.read_bytes() for path in lq.iterdir()} for lq in lqs)
    assert killed == whole and len(whole) == 153


def test_every_command_explains_itself_with_an_example():
    for name in ("degrade", "verify", "preview"):
        assert f"likeness {name}" in " ".join(call(name, "--help").split())


def test_importing_the_commands_loads_nothing_heavy():
    heavy = ("cv2", "numpy", "duckdb", "polars", "torch", "PIL", "rich.progress")
    code = f"import sys, degrade.cli; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert run.stdout.strip() == "[]"
