"""Lists the real face models, dlib and the pack of ../shared/data, as parameters of tests."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.places import SHARED

PACK = f"insightface:{SHARED / 'weights' / 'insightface_small'}"
offline = pytest.mark.skipif(
    find_spec("dlib") is None or find_spec("face_recognition_models") is None,
    reason="the extra `offline` is not installed",
)


missing = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
SHARED_DATA = [pytest.mark.shared_data, missing]


def shared(test):
    return pytest.mark.shared_data(missing(test))


EITHER = [pytest.param("dlib", marks=offline), pytest.param(PACK, marks=SHARED_DATA)]
