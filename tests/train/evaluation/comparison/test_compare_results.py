"""Tests `likeness compare`: what is compared, what is refused, and which differences get a star."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from manifests.errors import BadInput
from manifests.pictures.png_files import encode_png
from manifests.report.result_notices import make_notices
from manifests.report.result_tables import make_difference_rows
from manifests.runtime.files import write_atomically
from tests.doubles.evaluation_results import write_run_result
from tests.places import Run
from train.evaluation.comparison import page_images
from train.evaluation.comparison.compare_results import compare_results
from train.evaluation.comparison.paired_tests import adjust_p_values, compute_p_value
from train.evaluation.comparison.pareto import draw_pareto, find_pareto_front
from train.evaluation.comparison.read_results import read_results
from train.evaluation.results.write_result import describe_metric
from train.evaluation.sets.cases import Case, FrozenSet
from train.evaluation.sets.load_set import name_set

N = 40
NOISE = np.random.default_rng(0).normal(size=(4, N))


def values_of(shift: float, number: int = 0) -> dict[str, list[float]]:
    return {
        "psnr": (25 + shift + 0.2 * NOISE[number]).tolist(),
        "id_target": (0.5 + 0.1 * shift + 0.02 * NOISE[number + 1]).tolist(),
    }


def write(folder: Path, name: str, shift: float, number: int = 0, **changes) -> str:
    values = {"lq": values_of(-1), "0": values_of(shift - 0.5, number), "4": values_of(shift, number)}
    return str(write_run_result(folder / name / "evaluation-set.json", values, **changes))


def merge(*results: str, with_all_systems: bool = False) -> dict:
    return compare_results(read_results(results, with_all_systems), 0).result


def test_results_of_one_set_are_in_one_table_with_the_first_as_the_baseline(tmp_path: Path) -> None:
    one, other = write(tmp_path, "one", 0), write(tmp_path, "other", 1.5, 2)
    result = merge(one, f"mine={other}")
    assert [row["key"] for row in result["rows"]] == ["lq", "one/4", "mine/4"]
    assert [row["system"] for row in result["rows"][1:]] == ["one: restored", "mine: restored"]
    (difference,) = result["differences"]
    assert difference["difference"] == "mine: restored - one: restored" and result["images"] == N
    wanted = np.mean(values_of(1.5, 2)["psnr"]) - np.mean(values_of(0)["psnr"])
    assert difference["psnr"]["mean"] == pytest.approx(wanted) and difference["psnr"]["is_significant"]
    ((_, cell, _),) = make_difference_rows(result)
    assert " * 10/10" in cell and "permutation test" in " ".join(make_notices(result))
    assert list(result["runs"]) == ["one", "mine"]
    # a second call gives the same figures; the other systems of a run are compared only with `with_all_systems`
    assert merge(one, f"mine={other}") == result
    keys = [row["key"] for row in merge(one, other, with_all_systems=True)["rows"]]
    assert keys == ["lq", "one/0", "one/4", "other/0", "other/4"]


def test_results_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    one, other = write(tmp_path, "one", 0), write(tmp_path, "other", 0, benchmark="b-9", lq_set="hard")
    with pytest.raises(BadInput, match=r"results of different sets \(set b-1 and hard b-9\)"):
        merge(one, other)
    with pytest.raises(BadInput, match=r"Two of the results have a system one/4\. Give names: NAME=RESULT"):
        merge(one, one)
    with pytest.raises(BadInput, match="There is only one system"):
        merge(one)
    with pytest.raises(BadInput, match="is not a file"):
        merge(one, str(tmp_path / "nothing.json"))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(BadInput, match="damaged or missing"):
        merge(one, str(tmp_path / "x.json"))
    old = json.loads(Path(one).read_text())
    del old["benchmark"]
    Path(one).write_text(json.dumps(old))
    with pytest.raises(BadInput, match="Another version of Likeness wrote"):
        merge(one, other)


def test_all_means_are_over_the_images_that_every_system_has(tmp_path: Path) -> None:
    short = {key: {name: column[:30] for name, column in values_of(1).items()} for key in ("lq", "4")}
    short["4"]["id_target"][0] = math.nan
    one, other = write(tmp_path, "one", 0), str(write_run_result(tmp_path / "short" / "evaluation-set.json", short))
    result = merge(one, other)
    assert result["images"] == 30 and result["images_left_out"]["not_in_every_result"] == 10
    rows = {row["key"]: row for row in result["rows"]}
    assert rows["one/4"]["psnr"]["mean"] == pytest.approx(np.mean(values_of(0)["psnr"][:30]))
    assert {row["psnr"]["images"] for row in result["rows"]} == {30}
    # one system has no value for one image, so this image does not count for any system
    assert rows["one/4"]["id_target"]["images"] == rows["short/4"]["id_target"]["images"] == 29
    assert "because not every system has the image: 10 images of the set" in " ".join(make_notices(result))
    # the images that one result left out and the other measured are counted once
    left_out = {"images_left_out": {"seen_in_training": 10, "not_in_every_folder": 0}, "images_in_set": N}
    seen = str(write_run_result(tmp_path / "seen" / "evaluation-set.json", short, **left_out))
    said = " ".join(make_notices(merge(seen, one)))
    assert "because not every system has the image: 10 images of the set" in said and "no reference" not in said
    with pytest.raises(BadInput, match="No image has a value for every system"):
        bad = {"lq": values_of(0), "4": {name: [math.nan] * N for name in ("psnr", "id_target")}}
        merge(one, str(write_run_result(tmp_path / "bad" / "evaluation-set.json", bad, reason="the file is missing")))


def test_a_metric_that_was_computed_in_two_ways_is_not_compared(tmp_path: Path) -> None:
    judge = {"spec": "other", "sha256": "2", "is_the_datasets_own": False}
    one, other = write(tmp_path, "one", 0), write(tmp_path, "other", 1, judge=judge)
    result = merge(one, other)
    assert list(result["metrics"]) == ["psnr"] and result["not_compared"] == {
        "id_target": "the results have different judges"
    }
    assert "id_target is not compared, because the results have different judges." in make_notices(result)
    content = json.loads(Path(other).read_text())
    content["metrics"]["psnr"]["convention"] = "another one"
    Path(other).write_text(json.dumps(content))
    with pytest.raises(BadInput, match="no metric that can be compared"):
        merge(one, other)


FID = {"mean": 9.0, "images": 10, "against": {"images": 99, "sha256": "1"}}


@pytest.mark.parametrize(
    ("change", "against", "why"),
    [
        ({}, FID["against"], None),
        ({"convention": "clean-fid"}, FID["against"], "the results computed it by different conventions"),
        ({"weights": [{"file": "x", "sha256": "2"}]}, FID["against"], "the results computed it with different weights"),
        ({}, {"images": 99, "sha256": "2"}, "the results did not all compare with the same images or statistics"),
    ],
)
def test_fid_by_two_conventions_is_never_in_one_table(
    tmp_path: Path, change: dict, against: dict, why: str | None
) -> None:
    entry = describe_metric("fid_statistics")
    paths = []
    for name, more, other in (("a", {}, FID["against"]), ("b", change, against)):
        path = Path(write(tmp_path, name, 0))
        content = json.loads(path.read_text())
        content["metrics"]["fid_statistics"] = entry | more
        for row in content["rows"]:
            row["fid_statistics"] = FID | {"against": other}
        path.write_text(json.dumps(content))
        paths.append(str(path))
    result = merge(*paths)
    assert result["not_compared"] == ({} if why is None else {"fid_statistics": why})
    assert ("fid_statistics" in result["metrics"]) == (why is None)


def test_a_metric_that_reads_right_or_wrong_references_needs_the_same_references(tmp_path: Path) -> None:
    values = {key: {name: [0.5] * N for name in ("psnr", "id_references", "takeover")} for key in ("lq", "4")}
    one = str(write_run_result(tmp_path / "one" / "evaluation-set.json", values))
    other = str(write_run_result(tmp_path / "other" / "evaluation-set.json", values, benchmark_with_references="b-3"))
    result = merge(one, other)
    assert list(result["metrics"]) == ["psnr"] and set(result["not_compared"]) == {"id_references", "takeover"}
    assert "different references" in result["not_compared"]["takeover"]


def test_few_stars_are_wrong_among_many_comparisons_and_zero_has_none(tmp_path: Path) -> None:
    """Tests 30 systems that do not truly differ from the first system. Some p-values are below .05 before the
    correction."""
    rng = np.random.default_rng(1)
    paths = []
    for number in range(31):
        values = {key: {"psnr": (25 + rng.normal(size=N)).tolist()} for key in ("lq", "4")}
        paths.append(str(write_run_result(tmp_path / str(number) / "evaluation-set.json", values)))
    result = merge(*paths)
    figures = [difference["psnr"] for difference in result["differences"]]
    assert sum(figure["p"] < 0.05 for figure in figures) >= 1
    assert not any(figure["is_significant"] for figure in figures)
    # a significant difference that is printed as zero has no star
    tiny = {key: {"psnr": (np.array(values["4"]["psnr"]) + 1e-4 + 1e-6 * NOISE[0]).tolist()} for key in ("lq", "4")}
    result = merge(paths[-1], str(write_run_result(tmp_path / "tiny" / "evaluation-set.json", tiny)))
    assert result["differences"][0]["psnr"]["is_significant"]
    assert "*" not in make_difference_rows(result)[0][1] and "+0.00" in make_difference_rows(result)[0][1]


def test_the_test_flips_the_signs_of_people() -> None:
    rng = np.random.default_rng(0)
    # with five people, no p-value is below 2 / 2^5
    people = [str(n % 5) for n in range(50)]
    assert compute_p_value([1.0] * 50, people, rng) == pytest.approx(2 / 32)
    # with fewer people, the signs of images are flipped
    assert compute_p_value([1.0] * 10, ["a", "b"] * 5, rng) == pytest.approx(2 / 1024)
    assert compute_p_value([0.0] * 10, list("abcdefghij"), rng) == 1 and compute_p_value([1.0], ["a"], rng) == 1
    values = rng.normal(size=200) + 0.3
    assert compute_p_value(values.tolist(), [str(n) for n in range(200)], rng) < 0.001
    adjusted = adjust_p_values([0.001, 0.02, 0.5])
    # by hand: p * m / rank * (1 + 1/2 + 1/3)
    assert adjusted == pytest.approx([0.001 * 3 * 11 / 6, 0.02 * 3 / 2 * 11 / 6, 0.5 * 11 / 6])


def test_a_notice_says_that_few_people_allow_no_star(tmp_path: Path) -> None:
    def describe(people: int, systems: int) -> str:
        folder = tmp_path / f"{people}-{systems}"
        paths = [write(folder, f"s{number}", float(number), people=people) for number in range(systems)]
        result = merge(*paths)
        stars = [one[name]["is_significant"] for one in result["differences"] for name in result["metrics"]]
        notice = next(notice for notice in make_notices(result) if "permutation test" in notice)
        assert any(stars) != ("no difference can be significant" in notice)
        return notice

    # With six people, the smallest p-value is 2 / 2^6 = .0312. The correction multiplies it by 1.5 for two comparisons,
    # and by 2.08 for four.
    assert "can be significant" not in describe(6, 2)
    assert "With 6 people, no difference" in describe(6, 3) and ".0312, before the correction for 4" in describe(6, 3)
    assert "With 5 people, no difference" in describe(5, 2) and ".0625, before" in describe(5, 2)
    assert "can be significant" not in describe(10, 3)


def test_the_pareto_front_has_the_systems_that_nobody_beats(tmp_path: Path) -> None:
    points = {"a": (1.0, 1.0), "b": (2.0, 0.5), "c": (0.5, 0.5), "d": (2.0, 0.5), "e": (1.5, 0.2)}
    assert find_pareto_front(points) == ["a", "b", "d"]
    result = merge(write(tmp_path, "good<", 1), write(tmp_path, "worse", 0, 2))
    drawn = ElementTree.fromstring(draw_pareto(result))
    words = [node.text or "" for node in drawn.iter() if node.tag.endswith("text")]
    assert any("PSNR" in word for word in words) and any("identity to target" in word for word in words)
    assert "good<: restored" in words and "LQ input" not in words[:2]
    alone = {"psnr": result["metrics"]["psnr"]}
    with pytest.raises(BadInput, match="needs a metric of quality"):
        draw_pareto(result | {"metrics": alone})
    with pytest.raises(BadInput, match="No system has values of both psnr and id_target"):
        draw_pareto(result | {"rows": [row | {"id_target": None} for row in result["rows"]]})


def make_cases(count: int) -> tuple[Case, ...]:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (count, 3, 32, 32, 3), dtype=np.uint8)
    vector = np.ones((1, 1), np.float32)
    return tuple(Case(f"{n:032x}", "p", one[0], one[1], (one[2],), vector) for n, one in enumerate(pictures))


def test_the_command_writes_the_tables_the_plot_and_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run
) -> None:
    cases = make_cases(N)
    monkeypatch.setattr(page_images, "read_set", lambda *_: FrozenSet("set", N, cases))
    facts = {"benchmark": name_set(cases, 4)[0], "image_folders": {"4": "evaluation-set-images/0"}}
    paths = [write(tmp_path, name, shift, number, **facts) for name, shift, number in (("soft", 0, 0), ("sharp", 1, 2))]
    written = {name: tmp_path / f"table.{name}" for name in ("html", "svg", "md", "tex")}
    flags = ["--plot", written["svg"], "--markdown", written["md"], "--latex", written["tex"]]
    # a page needs the images that `evaluate --keep-images` keeps
    found = command("compare", *paths, "--page", written["html"])
    assert found.returncode == 2 and "--keep-images" in found.stderr and found.stderr.count("\n") == 1
    for path in map(Path, paths):
        for case in cases:
            write_atomically(path.parent / facts["image_folders"]["4"] / f"{case.face_id}.png", encode_png(case.target))
    found = command("compare", *paths, *flags, "--page", written["html"], "--worst", 7)
    assert found.returncode == 0, found.stderr
    name = "sharp: restored - soft: restored"
    assert name in " ".join(found.stdout.split()) and all(path.is_file() for path in written.values())
    page = written["html"].read_text()
    assert page.count("<article") == 7 and page.count('alt="soft: restored"') == 7 and 'id="zoom"' in page
    assert "the worst by identity to target" in page and 'src="http' not in page
    assert name in written["md"].read_text() and "\\textbf{" in written["tex"].read_text()
    # the command reads the set again, and refuses a set that changed
    monkeypatch.setattr(page_images, "read_set", lambda *_: FrozenSet("set", N, cases[1:]))
    found = command("compare", *paths, "--page", written["html"])
    assert found.returncode == 2 and "changed after the evaluation" in found.stderr
