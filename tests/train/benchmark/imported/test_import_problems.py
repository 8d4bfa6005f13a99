"""Tests that problems of a published set are counted by kind, and that bad input gives an error of one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from manifests.errors import BadInput, LedgerBroken
from train.benchmark.imported.import_benchmark import ImportSummary, import_benchmark
from train.benchmark.imported.imported_benchmark import load_imported, read_pictures, resize_square

TOML = 'lq = "lq/{person}_{n}.*"\ntarget = "gt/{person}_{n}.*"\nreferences = "refs/{person}/*"\n'


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def noise(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Makes a set of three people, each with one LQ image, one target and two references."""
    for number, person in enumerate("abc"):
        for place, seed in (("lq/{}_1.png", 0), ("gt/{}_1.png", 1), ("refs/{}/0.png", 2), ("refs/{}/1.png", 3)):
            save(tmp_path / "set" / place.format(person), noise(10 * number + seed))
    (tmp_path / "set.toml").write_text(TOML)
    return tmp_path / "set"


def imported(folder: Path, **options: bool) -> ImportSummary:
    return import_benchmark(folder, f"{folder}.toml", folder.parent / "out", **options)


def names(folder: Path) -> list[str]:
    return [case.name for case in load_imported(folder.parent / "out").cases]


def problems(folder: Path) -> dict[str, list[str]]:
    return json.loads((folder.parent / "out" / "card.json").read_text())["problems"]


def test_a_whole_set_has_no_problem(folder: Path) -> None:
    summary = imported(folder)
    assert summary.problems == {} and summary.cases == summary.people == 3 and names(folder) == ["a_1", "b_1", "c_1"]


def test_a_missing_half_is_counted_and_named(folder: Path) -> None:
    (folder / "gt/a_1.png").unlink()
    (folder / "lq/b_1.png").unlink()
    assert imported(folder).lq_images == 2
    assert problems(folder) == {"no_target": ["lq/a_1.png"], "no_lq": ["gt/b_1.png"], "unused": [
        "refs/a/0.png", "refs/a/1.png", "refs/b/0.png", "refs/b/1.png"]}  # fmt: skip
    assert names(folder) == ["c_1"]


def test_a_picture_without_an_ending_and_a_picture_of_another_format_are_counted(folder: Path) -> None:
    (folder / "gt/extra").write_bytes((folder / "gt/a_1.png").read_bytes())
    (folder / "gt/b_2.avif").write_bytes(b"damaged")
    (folder / "gt/list.txt").write_text("a_1.png")
    imported(folder)
    assert problems(folder) == {"no_lq": ["gt/b_2.avif"], "unused": ["gt/extra"]}


def test_a_name_that_matches_twice_is_used_for_no_case(folder: Path) -> None:
    save(folder / "gt/a_1.jpg", noise(50))
    save(folder / "lq/b_1.bmp", noise(51))
    imported(folder)
    assert problems(folder)["several_targets"] == ["lq/a_1.png"]
    assert problems(folder)["same_name"] == ["lq/b_1.bmp", "lq/b_1.png"] and names(folder) == ["c_1"]


def test_gray_small_and_large_pictures_stay_and_are_counted(folder: Path) -> None:
    save(folder / "lq/a_1.png", np.repeat(noise(60)[:, :, :1], 3, 2))
    save(folder / "lq/b_1.png", noise(61, 16, 16))
    save(folder / "refs/b/0.png", noise(62, 64, 64))
    summary = imported(folder)
    assert summary.problems == {"other_size": 2, "gray": 1} and summary.cases == 3 and summary.size == 32
    assert problems(folder)["gray"] == ["lq/a_1.png"]
    benchmark = load_imported(folder.parent / "out")
    pictures = read_pictures(benchmark, [one for case in benchmark.cases for one in case.list_pictures()], folder)
    assert {image.shape for image in pictures.values()} == {(32, 32, 3)}


def test_pictures_that_are_broken_or_not_square_are_left_out_and_counted(folder: Path) -> None:
    save(folder / "lq/a_1.png", noise(70, 32, 40))
    (folder / "gt/b_1.png").write_bytes(b"no picture")
    (folder / "refs/c/0.png").write_bytes(b"")
    save(folder / "refs/c/1.png", noise(71, 40, 32))
    imported(folder)
    assert names(folder) == ["c_1"]
    assert problems(folder)["not_square"] == ["lq/a_1.png"] and problems(folder)["unreadable"] == ["gt/b_1.png"]
    assert problems(folder)["unreadable_reference"] == ["refs/c/0.png"]
    assert problems(folder)["not_square_reference"] == ["refs/c/1.png"]
    assert problems(folder)["no_references"] == ["lq/c_1.png"]


def test_a_target_among_its_own_references_is_not_used(folder: Path) -> None:
    # The file has the same pixels as the target, but other bytes.
    save(folder / "refs/a/0.bmp", cv2.imread(str(folder / "gt/a_1.png")))
    imported(folder)
    case = load_imported(folder.parent / "out").cases[0]
    assert problems(folder) == {"own_reference": ["refs/a/0.bmp"]}
    assert [one.file for one in case.references] == ["refs/a/0.png", "refs/a/1.png"]


def test_one_picture_under_two_names_is_counted(folder: Path) -> None:
    (folder / "lq/b_1.png").write_bytes((folder / "lq/a_1.png").read_bytes())
    assert imported(folder).cases == 3 and problems(folder) == {"same_picture": ["lq/b_1.png"]}


def test_a_list_can_name_files_that_do_not_exist(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    save(folder / "LQ/a.png", noise(1))
    save(folder / "refs/x/0.png", noise(2))
    lines = ["./LQ/a.png\t./refs/x\t./l", "./LQ/gone.png\t./refs/x\t./l", "./LQ/a.png\t./refs/gone\t./l"]
    (folder / "TestLists.txt").write_text("\n".join(lines[:2]))
    summary = import_benchmark(folder, "asffnet", tmp_path / "out")
    assert summary.cases == 1 and summary.lq_images == 2 and summary.problems == {"missing_lq": 1}
    (folder / "TestLists.txt").write_text(lines[2])
    assert import_benchmark(folder, "asffnet", tmp_path / "other").problems == {
        "missing_reference": 1, "no_references": 1, "unused": 1}  # fmt: skip
    save(folder / "LQ/b.png", noise(3))
    (folder / "TestLists.txt").write_text(lines[2] + "\n" + lines[2].replace("a.png", "b.png"))
    counts = import_benchmark(folder, "asffnet", tmp_path / "both").problems
    assert counts["missing_reference"] == 1 and counts["no_references"] == 2  # one missing folder, needed by two images
    (folder / "TestLists.txt").write_text("a\tb\tc\td")
    with pytest.raises(BadInput, match=r"Line 1 of .* has 4 columns"):
        import_benchmark(folder, "asffnet", tmp_path / "third")


def test_the_hash_depends_on_the_content_and_not_on_the_folders(folder: Path) -> None:
    first = imported(folder).benchmark
    for place in ("lq", "gt", "refs"):
        (folder / place).rename(folder / f"my-{place}")
    (folder.parent / "moved.toml").write_text(TOML.replace('= "', '= "my-'))
    moved = import_benchmark(folder, str(folder.parent / "moved.toml"), folder.parent / "moved")
    assert moved.benchmark == first
    save(folder / "my-refs/a/1.png", noise(99))
    changed = import_benchmark(folder, str(folder.parent / "moved.toml"), folder.parent / "changed")
    assert changed.benchmark != first


def test_photos_are_copied_only_if_asked_and_the_same_command_resumes(folder: Path) -> None:
    out = folder.parent / "out"
    assert imported(folder, dry_run=True).written == 0 and not out.exists()
    assert imported(folder).written == 2 and not (out / "images").exists()
    assert imported(folder).written == 0
    assert imported(folder, with_images=True).written == 14
    assert (out / "images/refs/a/0.png").read_bytes() == (folder / "refs/a/0.png").read_bytes()
    (out / "images/refs/a/0.png").unlink()
    assert imported(folder).written == 3  # copies of an earlier call are not removed


def test_changed_files_are_refused(folder: Path) -> None:
    imported(folder)
    out = folder.parent / "out"
    benchmark = load_imported(out)
    with pytest.raises(BadInput, match="contains no copies of the photos"):
        read_pictures(benchmark, [benchmark.cases[0].lq], None)
    save(folder / "lq/a_1.png", noise(90))
    with pytest.raises(LedgerBroken, match="has changed since"):
        read_pictures(benchmark, [benchmark.cases[0].lq], folder)
    with pytest.raises(BadInput, match="contains a different benchmark"):
        imported(folder)
    lines = (out / "cases.jsonl").read_text()
    (out / "cases.jsonl").write_text(lines.replace('"a_1"', '"z_1"'))
    with pytest.raises(BadInput, match="was changed"):
        load_imported(out)
    for old, new in (("lq/a_1.png", "../a_1.png"), ('"a_1"', '"../a_1"')):  # paths that lead out of the folder
        (out / "cases.jsonl").write_text(lines.replace(old, new))
        with pytest.raises(BadInput, match="lines that a benchmark cannot contain"):
            load_imported(out)


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("dmdnett", "There is no layout dmdnett"),
        ("dmdnet", "has no list"),
        ("celeba-test", "No picture matches the pattern of the LQ images"),
        ("gone.toml", "cannot be read"),
    ],
)
def test_a_layout_that_does_not_fit_gets_one_sentence(layout: str, sentence: str, folder: Path) -> None:
    with pytest.raises(BadInput, match=sentence):
        import_benchmark(folder, layout, folder.parent / "out")
    assert not (folder.parent / "out").exists()


def test_folders_that_cannot_be_used_get_one_sentence(folder: Path) -> None:
    (folder.parent / "gone.toml").write_text(TOML)
    with pytest.raises(BadInput, match="is not a folder"):
        imported(folder.parent / "gone")
    with pytest.raises(BadInput, match="is inside the folder of the set"):
        import_benchmark(folder, f"{folder}.toml", folder / "out")
    save(folder.parent / "out/other.png", noise(1))
    with pytest.raises(BadInput, match=r"is not a benchmark, and it contains other\.png"):
        imported(folder)
    for path in folder.rglob("gt/*"):
        path.unlink()
    with pytest.raises(BadInput, match="No picture matches the pattern of the targets"):
        import_benchmark(folder, f"{folder}.toml", folder.parent / "new")


def test_a_square_is_shrunk_by_areas_and_enlarged_by_cubic_interpolation() -> None:
    image = noise(5)
    assert np.array_equal(resize_square(image, 16), cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA))
    assert np.array_equal(resize_square(image, 64), cv2.resize(image, (64, 64), interpolation=cv2.INTER_CUBIC))
    assert resize_square(image, 32) is image
