"""Tests that copies of archives go only into a folder that other users cannot open."""

import pytest

from manifests.errors import BadInput
from manifests.stores.archive_copies import _make_private


def test_a_folder_that_other_users_can_open_and_a_link_are_refused(tmp_path):
    folder = tmp_path / "copies"
    _make_private(folder)
    _make_private(folder)  # a folder of an earlier command
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(BadInput, match="open to other users"):
        _make_private(folder)
    folder.chmod(0o700)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(BadInput, match="TMPDIR"):
        _make_private(tmp_path / "link")
