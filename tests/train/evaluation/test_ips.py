"""Tests that the identity to references (IPS) is shown with the metrics that detect copying, or with a notice."""

from typing import Any

import pytest

from manifests.report.result_notices import make_notices
from train.evaluation.options import DEFAULT_METRICS
from train.evaluation.presentation.text_tables import print_result


def result_of(*names: str) -> dict[str, Any]:
    """Returns a result of `likeness evaluate` with one system and these metrics."""
    mean = {"mean": 0.5, "low": 0.25, "high": 0.75, "images": 4, "people": 4, "over": "images"}
    facts = {"unit": "", "better": "", "digits": 2, "source": "double", "convention": "double", "without_a_figure": ""}
    return {
        "lq_set": "set", "images": 4, "images_in_set": 4, "people": 4,
        "without_wrong_references": 0, "left_out": {}, "interval": "95% bootstrap",
        "judge": {"spec": "dlib", "is_the_datasets_own": False},
        "metrics": {name: {"title": name, **facts} for name in names},
        "not_measured": {}, "unmeasured": [], "differences": [],
        "rows": [{"key": "4", "system": "restored", "images": 4, "unmeasured": 0, **dict.fromkeys(names, mean)}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("psnr", "id_references"), "add id_target and copy_ratio to --metrics"),
        (("id_target", "id_references"), "add copy_ratio to --metrics"),
        (("id_references", "id_target", "copy_ratio"), ""),
        (("psnr",), ""),
    ],
)
def test_ips_without_the_metrics_that_show_copying_gets_a_notice(names: tuple[str, ...], said: str) -> None:
    notices = [notice for notice in make_notices(result_of(*names)) if "IPS" in notice]
    assert len(notices) == bool(said) and all(said in notice for notice in notices)


@pytest.mark.parametrize(("columns", "shown"), [(100, False), (160, True)])
def test_a_narrow_terminal_shows_ips_only_beside_identity_and_copy_ratio(
    columns: int, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_result(result_of(*DEFAULT_METRICS))
    table, _, notices = capsys.readouterr().out.partition("95% bootstrap")
    headings = "".join(table.split())
    assert ("id_references" in headings) == ("copy_ratio" in headings) == shown and "id_target" in headings
    assert ("id_references" in notices) == (not shown)
