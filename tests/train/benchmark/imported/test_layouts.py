"""Tests each layout on a small set that has the shape of the published set."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from manifests.errors import BadInput
from train.benchmark.imported.import_benchmark import ImportSummary, import_benchmark
from train.benchmark.imported.imported_benchmark import ImportedCase, load_imported
from train.benchmark.imported.layouts import LAYOUTS

SIDE = 32


def draw(number: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)


def write(folder: Path, *names: str, first: int = 0, side: int = SIDE) -> None:
    """Writes one picture for each name. All pictures differ."""
    for number, name in enumerate(names, first):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), draw(number, side))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_dmdnet(folder: Path) -> None:
    base = "TestExamples/TestSpecificRestoration"
    write(folder, f"{base}/SynLQ/00005_17.png", f"{base}/SynLQ/00022_14.png")
    write(folder, *(f"{base}/RefsImg/00005/{n}.png" for n in (0, 10, 2)), first=10)
    write(folder, *(f"{base}/RefsImg/00022/{n}.png" for n in (1, 4)), first=20)
    lines = [
        f"./{base}/SynLQ/{lq}.png\t./{base}/RefsImg/{lq[:5]}\t./{base}/RefsLandmark/{lq[:5]}"
        for lq in ("00005_17", "00022_14")
    ]
    write_text(folder / base / "SpecificLists.txt", "\n".join(lines))
    write_text(folder / base / "RefsLandmark/00005/0.png.txt", "1 2\n")


def make_dmdnet_generic(folder: Path) -> None:
    base = "TestExamples/TestGenericRestoration"
    write(folder, f"{base}/RealLQs/0001.png", f"{base}/RealLQs/0002.png")
    write_text(folder / base / "GenericLists.txt", "".join(f"./{base}/RealLQs/000{n}.png\n" for n in (1, 2)))


def make_asffnet(folder: Path) -> None:
    write(folder, "TestExamples/LQCrop/i1.png", "TestExamples/LQCrop/i2.png")
    write(folder, "TestExamples/HQReferences/Obama/o1.png", "TestExamples/HQReferences/Obama/o2.png", first=10)
    ends = "./TestExamples/HQReferences/Obama\t./TestExamples/HQReferences_Landmarks/Obama"
    write_text(
        folder / "TestExamples/TestLists.txt", "\n".join(f"./TestExamples/LQCrop/i{n}.png\t{ends}" for n in (1, 2))
    )


def make_refldm(folder: Path) -> None:
    names = [f"{n:05d}" for n in (7, 8, 9, 12, 13)]
    write(folder, *(f"images1024x1024/{name}.png" for name in names), side=2 * SIDE)
    for first, degradation in ((20, "severe_degrad"), (30, "moderate_degrad")):
        write(folder, *(f"FFHQ-Ref/test_images/{degradation}/{n}.png" for n in ("00007", "00012")), first=first)
    rows = "00007.png,\"['00008.png', '00009.png']\"\n00012.png,\"['00013.png']\"\n"
    write_text(folder / "FFHQ-Ref/reference_mapping/test_references.csv", f"gt_image,ref_image\n{rows}")


def make_instantrestore(folder: Path) -> None:
    for number, person in enumerate(("anna", "bert")):
        write(folder / person, "degraded.png", "gt.png", "conditioning/0.png", "conditioning/1.png", first=10 * number)


def make_celeba_daefr(folder: Path) -> None:
    write(
        folder,
        *(f"{place}/0000000{n}.png" for place in ("self_celeba_512_v2", "celeba_512_validation") for n in (0, 1)),
    )


def make_celeba(folder: Path) -> None:
    write(
        folder,
        *(f"{place}/0000000{n}.png" for place in ("celeba_512_validation_lq", "celeba_512_validation") for n in (0, 1)),
    )


def make_ntire(folder: Path) -> None:
    write(folder, *(f"test/{subset}/{subset}_{n}.png" for subset in ("CelebA", "LFW-Test") for n in (1, 2)))


# Maps a layout to a function that makes a set, and to what is expected: the number of cases, the number of people,
# whether there are targets, and the number of cases with references.
SETS = {
    "dmdnet": (make_dmdnet, 2, 2, False, 2),
    "dmdnet-generic": (make_dmdnet_generic, 2, None, False, 0),
    "asffnet": (make_asffnet, 2, 1, False, 2),
    "ffhq-ref-severe": (make_refldm, 2, 2, True, 2),
    "ffhq-ref-moderate": (make_refldm, 2, 2, True, 2),
    "instantrestore": (make_instantrestore, 2, 2, True, 2),
    "celeba-test-daefr": (make_celeba_daefr, 2, None, True, 0),
    "celeba-test": (make_celeba, 2, None, True, 0),
    "lfw-test": (
        lambda folder: write(folder, "lfw_cropped_faces/Amy_0001_00.png", "lfw_cropped_faces/Ben_0001_00.png"),
        2,
        None,
        False,
        0,
    ),
    "wider-test": (lambda folder: write(folder, "Wider-Test/0001.png", "Wider-Test/0002.jpg"), 2, None, False, 0),
    "webphoto-test": (lambda folder: write(folder, "WebPhoto-Test/a.png", "WebPhoto-Test/b.png"), 2, None, False, 0),
    "celebchild-test": (
        lambda folder: write(folder, "CelebChild-Test/Child/a.png", "CelebChild-Test/Adult/b.png"),
        2,
        None,
        False,
        0,
    ),
    "ntire": (make_ntire, 4, None, False, 0),
    "folder": (lambda folder: write(folder, "any/1.png", "2.jpg"), 2, None, False, 0),
}


def read_cases(summary: ImportSummary) -> dict[str, ImportedCase]:
    return {case.name: case for case in load_imported(Path(summary.folder)).cases}


def test_every_layout_has_a_set_in_its_shape() -> None:
    assert SETS.keys() == LAYOUTS.keys()
    assert all(layout.origin and layout.licence for layout in LAYOUTS.values())


@pytest.mark.parametrize("name", SETS)
def test_a_set_in_the_shape_of_a_layout_is_imported_as_it_is(name: str, tmp_path: Path) -> None:
    make, cases, people, targets, with_references = SETS[name]
    make(tmp_path / "set")
    before = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()}
    summary = import_benchmark(tmp_path / "set", name, tmp_path / "out")
    assert (summary.cases, summary.lq_images) == (cases, cases)
    assert (summary.people, summary.targets, summary.cases_with_references) == (people, targets, with_references)
    assert {path: path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["card.json", "cases.jsonl"]
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["layout"]["origin"] == LAYOUTS[name].origin and card["complete"]
    assert set(summary.problems) <= {"unused", "other_size"}


def test_the_references_of_dmdnet_are_in_natural_order_and_others_show_another_person(tmp_path: Path) -> None:
    make_dmdnet(tmp_path / "set")
    cases = read_cases(import_benchmark(tmp_path / "set", "dmdnet", tmp_path / "out"))
    case = cases["00005_17"]
    assert case.person == "00005" and [Path(one.file).name for one in case.references] == ["0.png", "2.png", "10.png"]
    assert case.wrong_person == "00022" and case.wrong_references == cases["00022_14"].references


def test_the_list_of_refldm_finds_the_photos_of_ffhq_and_joins_people(tmp_path: Path) -> None:
    make_refldm(tmp_path / "set")
    path = tmp_path / "set/FFHQ-Ref/reference_mapping/test_references.csv"
    path.write_text(path.read_text() + "00009.png,['00007.png']\n")
    write(tmp_path / "set", "FFHQ-Ref/test_images/severe_degrad/00009.png", first=40)
    summary = import_benchmark(tmp_path / "set", "ffhq-ref-severe", tmp_path / "out")
    cases = read_cases(summary)
    assert cases["00007"].target is not None and cases["00007"].target.file == "images1024x1024/00007.png"
    assert cases["00007"].lq.file.startswith("FFHQ-Ref/test_images/severe_degrad/") and summary.size == 512
    assert cases["00007"].person == cases["00009"].person != cases["00012"].person and summary.people == 2


def test_the_subsets_of_ntire_become_a_column(tmp_path: Path) -> None:
    make_ntire(tmp_path / "set")
    cases = read_cases(import_benchmark(tmp_path / "set", "ntire", tmp_path / "out"))
    assert {case.columns["subset"] for case in cases.values()} == {"CelebA", "LFW-Test"}


def test_a_toml_file_describes_any_other_layout(tmp_path: Path) -> None:
    write(
        tmp_path / "set",
        "in/x-1_low.png",
        "in/y-2_low.png",
        "truth/x-1.png",
        "truth/y-2.png",
        "refs/x/a.png",
        "refs/y/a.png",
    )
    text = 'lq = "in/{person}-{take}_low.png"\ntarget = "truth/{person}-{take}.*"\nreferences = "refs/{person}/*"\n'
    write_text(tmp_path / "mine.toml", f'{text}name = "{{person}}-{{take}}"\nlicence = "ours"\n')
    summary = import_benchmark(tmp_path / "set", str(tmp_path / "mine.toml"), tmp_path / "out")
    case = read_cases(summary)["x-1"]
    assert summary.set == "mine" and summary.people == 2 and not summary.problems
    assert case.columns == {"take": "1"} and case.target is not None and case.target.file == "truth/x-1.png"
    assert [one.file for one in case.references] == ["refs/x/a.png"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "needs the key lq"),
        ('lq = "a/{stem}.png"\nlqs = "b"', "has the key lqs"),
        ('lq = "a/{stem}.png"\ntarget = "b/{person}.png"', "uses the word {person}"),
        ('lq = "a/{}.png"', "has a brace without a word"),
        ('lq = "a/{stem}.png"\nsize = "big"', "size must be a number of pixels"),
        ('lq = "a/{stem}.png"\nsize = 8', "size must be a number of pixels, 16 or more"),
        ('lq = "a/{stem}.png"\nname = "a/{stem}"', "name must be a file name without folders"),
        ('lq = "a/{stem}.png"\ntarget = 3', "target must be a text"),
        ("lq = [", "is not valid TOML"),
    ],
)
def test_a_wrong_toml_file_gets_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    write(tmp_path / "set", "a/1.png")
    write_text(tmp_path / "mine.toml", text)
    with pytest.raises(BadInput) as error:
        import_benchmark(tmp_path / "set", str(tmp_path / "mine.toml"), tmp_path / "out")
    assert sentence in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.shared_data
def test_the_real_sets_are_imported(tmp_path: Path, shared_data: Path) -> None:
    text = 'lq = "{person}/lq/{stem}.*"\nreferences = "{person}/refs/*"\n'
    write_text(tmp_path / "three.toml", text)
    summary = import_benchmark(shared_data / "lq_with_references", str(tmp_path / "three.toml"), tmp_path / "three")
    assert (summary.cases, summary.people, summary.size) == (14, 6, 512)
    assert summary.problems == {"unused": 10}  # nine photos that are not aligned crops, and one target
    summary = import_benchmark(shared_data / "lq_real" / "gfpgan", "folder", tmp_path / "real")
    assert (summary.cases, summary.lq_images) == (3, 4)
    assert summary.problems == {"not_square": 1, "gray": 1}
