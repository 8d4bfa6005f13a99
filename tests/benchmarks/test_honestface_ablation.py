"""Tests the rows of the ablation of recipe honestface, and its differences against a hand calculation."""

import math
import sys
from dataclasses import fields

import pytest

from tests.places import REPOSITORY

sys.path.append(str(REPOSITORY / "benchmarks"))
from honestface_ablation import METRICS, RIGHT, ROWS, SHARED, SYSTEMS, WRONG, compare, format_tables, summarise

from train.recipes.recipe_files import change_recipe, split_change
from train.recipes.recipes import TINY, Recipe, find_recipe


def recipe_of(row: str) -> Recipe:
    recipe, words = find_recipe("honestface", TINY), [*SHARED, *ROWS[row]]
    for option, change in zip(words[::2], words[1::2], strict=True):
        if option == "--change":
            recipe = change_recipe(recipe, option, *split_change(option, change))
    return recipe


def test_each_row_changes_one_thing() -> None:
    whole, wanted = recipe_of("honestface"), {}
    assert whole.parts == ("vre", "identity", "features") and "face_alignment" in whole.losses
    assert "ea_dists" not in whole.losses and {"pixel", "edge"} <= set(whole.losses)
    for row in ROWS:
        other = recipe_of(row)
        wanted[row] = {f.name for f in fields(Recipe) if getattr(other, f.name) != getattr(whole, f.name)}
    assert wanted == {
        "honestface": set(),
        "second_seed": set(),
        "no_identity_branch": {"parts"},
        "no_feature_branch": {"parts"},
        "no_alignment_loss": {"losses"},
    }
    assert recipe_of("no_identity_branch").parts == ("vre", "features")
    assert recipe_of("no_feature_branch").parts == ("vre", "identity")
    assert set(whole.losses) - set(recipe_of("no_alignment_loss").losses) == {"face_alignment"}


def rows(better: float) -> list[dict]:
    """Returns rows of three images for each system. Right references raise the cosine by `better`."""
    return [
        {"face_id": str(image), "key": system.key, "sharpness": [0.5, 0.6, 0.9][image]}
        | dict.fromkeys(METRICS, 1.0 + image)
        | {"id_target": 0.5 + image / 10 + better * (system.key == RIGHT)}
        for system in SYSTEMS
        for image in range(3)
    ]


def test_differences_are_taken_image_by_image() -> None:
    found = compare({"a": 3.0, "b": 5.0, "c": math.nan, "d": 1.0}, {"a": 1.0, "b": 4.0, "c": 1.0})
    assert found == {"mean": 1.5, "ci95": [1.0, 2.0], "images": 2}
    summary = summarise({"honestface": rows(0.2), "no_identity_branch": rows(0.05)})
    assert summary["honestface"]["right_minus_none"] == {"mean": 0.2, "ci95": [0.2, 0.2], "images": 3}
    assert summary["no_identity_branch"]["right_minus_wrong"]["mean"] == pytest.approx(0.05)
    assert "minus_whole" not in summary["honestface"]
    assert summary["no_identity_branch"]["minus_whole"]["psnr"]["ci95"] == [0, 0]
    means = summary["honestface"]["means"]
    assert means[WRONG]["id_target"] == pytest.approx(0.6) and means[RIGHT]["id_target"] == pytest.approx(0.8)
    assert means["lq"]["psnr"] == 2 and means["lq"]["sharpness"] == 0.6  # the mean of psnr, and the median of sharpness


def test_the_tables_have_a_line_for_each_row() -> None:
    first, second = format_tables(summarise({"honestface": rows(0.2), "second_seed": rows(0.1)})).split("\n\n")
    assert [line.split(" | ")[0] for line in first.split("\n")] == [
        "| ", "| ---", "| LQ input", "| honestface", "| second_seed",
    ]  # fmt: skip
    assert "| 2.00 |" in first and "-0.100 (-0.100 to -0.100)" not in first
    assert "+0.200 (+0.200 to +0.200)" in second and "+0.100 (+0.100 to +0.100)" in second
    assert len({line.count("|") for line in first.split("\n")}) == 1
