"""Tests that the names of erased people are removed from the details of stages, however JSON encodes the names."""

from manifests.ledger.ledger import Ledger
from manifests.privacy.names_in_details import remove_names_from_details


def test_a_name_with_quotes_and_backslashes_is_removed(tmp_path):
    name = 'Robert "Bob" \\ Smith'
    told = {"notices": [f"{name} is in two groups.", "Another notice."], "label_doubts": [{"label": name}], "n": name}
    with Ledger.open(tmp_path, write=True) as ledger:
        ledger.record("group", "all", {}, detail=told)
        ((stage, _, _, detail),) = remove_names_from_details(ledger, [], [name], [])
    assert stage == "group" and detail == {"notices": ["Another notice."], "label_doubts": [], "n": name}
