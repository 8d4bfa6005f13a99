"""Tests the benchmark of the benefit of references: its result, its plot, and the results that it does not keep."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from tests.places import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
from reference_benefit import PEOPLE, hash_names, summarise

from train.evaluation.counterfactuals import draw_metric_curve
from train.evaluation.systems.system import REFERENCE_COUNTS

METRICS = ("psnr", "ssim", "id_target", "same_person", "id_references")


def result() -> dict:
    def interval(mean: float) -> dict:
        return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "excludes_zero": True, "people_above": 2}

    keys = {
        "lq": "LQ input",
        **{str(k): str(k) for k in REFERENCE_COUNTS},
        "wrong4": "wrong references",
        "blurred4": "blurred",
    }
    rows = [
        {"key": key, "system": name, "images": 9} | {metric: interval(0.5 + place / 20) for metric in METRICS}
        for place, (key, name) in enumerate(keys.items())
    ]
    lines = [
        {"difference": name, "images": 9, "people": 2} | {metric: interval(0.2) for metric in METRICS}
        for name in ("right - none", "right - wrong", "none - LQ")
    ]
    metrics = {"id_target": {"title": "identity to target"}}
    return {"rows": rows, "differences": lines, "metrics": metrics, "judge": {"spec": "dlib"}, "references": 4}


def test_the_summary_is_keyed_by_the_number_of_references() -> None:
    found = summarise(result())
    assert list(found) == ["lq", "0", "1", "2", "4", "8", "wrong4", "blurred4", "differences"]
    assert found["4"]["id_target"] == pytest.approx(0.7) and found["4"]["ci95"] == pytest.approx([0.69, 0.71])
    assert found["4"]["psnr"] == pytest.approx(0.7) and "takeover" not in found["4"]
    assert set(found["differences"]) == {"right_none", "right_wrong", "none_lq"}
    assert found["differences"]["right_none"]["id_target"]["excludes_zero"] is True


def test_the_plot_is_an_svg_that_names_every_system_higher_is_higher() -> None:
    tree = ElementTree.fromstring(draw_metric_curve(result()))
    words = " ".join(node.text or "" for node in tree.iter() if node.tag.endswith("text"))
    assert "dlib" in words and "right references: 0.750" in words and "1 wrong references: 0.800" in words
    line = next(node for node in tree.iter() if node.tag.endswith("polyline"))
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert len(heights) == len(REFERENCE_COUNTS) and heights == sorted(heights, reverse=True)
    without = result()
    del without["rows"][-2:]
    assert "wrong references" not in draw_metric_curve(without)


def test_the_fixed_people_are_known_again_by_hash_and_val_is_not_test() -> None:
    assert hash_names(["b", "a"]) == hash_names(["a", "b"]) and hash_names(["a"]) != hash_names(["b"])
    assert not set(PEOPLE["test"]) & set(PEOPLE["val"])


def test_what_was_tuned_on_is_not_kept() -> None:
    script = REPOSITORY / "benchmarks" / "reference_benefit.py"
    told = [sys.executable, str(script), "--out", "nowhere", "--run", "nowhere", "--split", "val", "--keep"]
    done = subprocess.run(told, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "val is for tuning" in done.stderr
