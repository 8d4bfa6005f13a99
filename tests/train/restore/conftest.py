"""Defines fixtures for the tests of restoring: a restorer whose changes are visible, and photos of coloured squares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import train.restore.decisions.coarse_form
import train.restore.decisions.harm
import train.restore.restorers.face_restorer
from tests.doubles import curation as doubles
from tests.doubles.models.restorers import NO_LIMITS, Marking
from train.models.restorer import Restorer


@pytest.fixture
def marking(monkeypatch: pytest.MonkeyPatch) -> Marking:
    model = Marking("embedding")
    monkeypatch.setattr(train.restore.restorers.face_restorer, "load_faces", doubles.models)
    monkeypatch.setattr(train.restore.decisions.harm, "LIMITS", NO_LIMITS)
    # With this limit, `restore` never corrects the coarse form. Otherwise the correction would remove the marks.
    monkeypatch.setattr(train.restore.decisions.coarse_form, "READABLE_SHARE", 2.0)
    monkeypatch.setattr(Restorer, "from_pretrained", classmethod(lambda cls, folder, base_model=None: model))
    return model


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    return lambda name, people, seed=0: doubles.save(tmp_path / name, doubles.photo(people, seed))
