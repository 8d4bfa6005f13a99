"""The benchmark of the references' benefit: its last line, its plot, and what it refuses to keep."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
from reference_benefit import COUNTS, DIFFERENCES, PEOPLE, hashed, plot, summary

METRICS = ("psnr", "ssim", "id_target", "id_references")


def result() -> dict:
    def interval(mean: float) -> dict:
        return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "excludes_zero": True, "people_above": 2}

    keys = ["lq", *map(str, COUNTS), "wrong4"]
    rows = [
        {"key": key, "images": 9} | {metric: interval(0.5 + place / 10) for metric in METRICS}
        for place, key in enumerate(keys)
    ]
    lines = [
        {"difference": name, "images": 9, "people": 2} | {metric: interval(0.2) for metric in METRICS}
        for name in DIFFERENCES
    ]
    return {"rows": rows, "differences": lines, "judge": {"spec": "dlib"}}


def test_the_summary_is_keyed_by_the_number_of_references() -> None:
    found = summary(result())
    assert list(found) == ["lq", "0", "1", "2", "4", "wrong4", "differences"]
    assert found["4"]["id_target"] == pytest.approx(0.9) and found["4"]["ci95"] == pytest.approx([0.89, 0.91])
    assert found["4"]["psnr"] == pytest.approx(0.9)
    assert set(found["differences"]) == {"right_none", "right_wrong", "none_lq"}
    assert found["differences"]["right_none"]["id_target"]["excludes_zero"] is True


def test_the_plot_is_an_svg_that_names_every_system_higher_is_higher() -> None:
    tree = ElementTree.fromstring(plot(result()))
    words = " ".join(node.text or "" for node in tree.iter() if node.tag.endswith("text"))
    assert "dlib" in words and "of the person: 0.900" in words and "of somebody else: 1.000" in words
    line = next(node for node in tree.iter() if node.tag.endswith("polyline"))
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert len(heights) == len(COUNTS) and heights == sorted(heights, reverse=True)
    without = result()
    without["rows"].pop()
    assert "somebody else" not in plot(without)


def test_the_fixed_people_are_known_again_by_hash_and_val_is_not_test() -> None:
    assert hashed(["b", "a"]) == hashed(["a", "b"]) and hashed(["a"]) != hashed(["b"])
    assert not set(PEOPLE["test"]) & set(PEOPLE["val"])


def test_what_was_tuned_on_is_not_kept() -> None:
    script = REPOSITORY / "benchmarks" / "reference_benefit.py"
    told = [sys.executable, str(script), "--into", "nowhere", "--run", "nowhere", "--split", "val", "--keep"]
    done = subprocess.run(told, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "val is for tuning" in done.stderr
