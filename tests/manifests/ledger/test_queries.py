"""Tests the shared SELECTs on small ledgers."""

import pytest

from manifests.errors import LedgerBroken
from manifests.ledger import queries
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Degradation, Identity, Model


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path, write=True) as ledger:
        yield ledger


def make_image(lq_set: str, face: str, size: int = 64) -> Degradation:
    return Degradation(lq_set, face, "gfpgan", 0, size, "{}", f"hash of {lq_set} {face}")


def test_a_dataset_has_exactly_one_recognizer(ledger):
    with pytest.raises(LedgerBroken, match="names 0 recognizers instead of one"):
        queries.read_recognizer(ledger)
    one = Model("recognizer", "a.onnx", "auto", "1" * 64, "MIT", 512)
    ledger.record("models", "1", {}, [one, Model("detector", "b.onnx", "auto", "2" * 64, "MIT")])
    assert queries.read_recognizer(ledger) == one and queries.read_recognizers(ledger) == [one]
    ledger.record("models", "2", {}, [Model("recognizer", "c.onnx", "auto", "3" * 64, "MIT", 512)])
    with pytest.raises(LedgerBroken, match="names 2 recognizers instead of one"):
        queries.read_recognizer(ledger)


def test_sets_have_a_size_hashes_and_a_detail(ledger):
    images = [make_image("b", "f2"), make_image("b", "f1"), make_image("a", "f1", size=32)]
    ledger.record("degrade", "b", {}, images, detail={"faces": ["f1", "f2"]})
    assert list(queries.read_set_sizes(ledger).items()) == [("a", 32), ("b", 64)]
    assert list(queries.read_set_hashes(ledger, "b").items()) == [("f1", "hash of b f1"), ("f2", "hash of b f2")]
    assert (
        queries.read_set_detail(ledger, "b") == {"faces": ["f1", "f2"]} and queries.read_set_detail(ledger, "a") is None
    )


def test_units_of_several_stages_come_in_order_with_their_details(ledger):
    ledger.record("label", "z", {}, detail={"n": 1})
    ledger.record("group", "a", {})
    ledger.record("screen", "m", {})
    units = queries.read_units(ledger, "label", "group")
    assert [(stage, unit, detail) for stage, unit, _, detail in units] == [("group", "a", {}), ("label", "z", {"n": 1})]


def test_ids_are_found_in_any_column_as_whole_words(ledger):
    ledger.record("s", "p-0a1b2c", {}, [Identity("p-0a1b2c"), Identity("p-ffff00")])
    rows, sentences = queries.count_mentions(ledger, ["p-0a1b2c", "p-0a1b"])
    assert rows == 4  # two rows of identities, one row of stages, and the row with the version of the schema
    assert sentences == ["1 time in the table identities of the ledger", "1 time in the table stages of the ledger"]


def test_a_condition_selects_rows_of_a_table(ledger):
    images = [make_image("b", "f2"), make_image("b", "f1"), make_image("a", "f1")]
    ledger.record("degrade", "b", {}, images)
    assert ledger.read_rows(Degradation, "lq_set = ? AND face_id <> ?", "b", "f2") == [make_image("b", "f1")]
