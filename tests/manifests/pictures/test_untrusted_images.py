"""Tests that untrusted photos are read in another process.

The other process also imports this file, so this file must not import torch.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from manifests.errors import BadInput
from manifests.pictures import untrusted_images
from manifests.pictures.untrusted_images import open_reader, read_picture
from manifests.runtime.workers import open_pool
from tests.doubles import curation as doubles
from tests.doubles.commands.misbehaviour import ODD, reads_oddly, short


def test_a_photo_is_read_the_same_in_a_process_of_its_own(tmp_path: Path) -> None:
    picture, text = doubles.save(tmp_path / "a.png", doubles.photo([0], 0)), tmp_path / "b.jpg"
    text.write_text("no photo")
    with open_reader(limited=True) as apart, open_reader(limited=False) as here:
        assert here is read_picture and np.array_equal(apart(picture), here(picture))
        for path, reason in (
            (text, "b.jpg cannot be read as a picture: it is not a picture"),
            (tmp_path / "c", "No such file"),
        ):
            for read in (apart, here):
                with pytest.raises(BadInput, match=reason):
                    read(path)


@pytest.mark.slow
def test_a_photo_that_hangs_ends_or_starves_its_reader_is_a_sentence_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrusted_images, "open_pool", lambda workers: open_pool(workers, reads_oddly))
    picture, said = doubles.save(tmp_path / "a.png", doubles.photo([0], 0)), {}
    with open_reader(limited=True) as read:
        for what, size in ODD.items():
            odd = doubles.save(tmp_path / f"{what}.png", np.zeros((*size, 3), np.uint8))
            with pytest.raises(BadInput) as refused:
                read(odd)
            said[what] = str(refused.value).partition(": it ")[2]
            assert read(picture).shape == (180, 200, 3)
    assert said == {
        "hang": "takes more than 120 s.",
        "die": "ends the process that decodes it.",
        "starve": "needs too much memory.",
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.slow
def test_a_pipe_that_nobody_writes_to_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted_images, "open_pool", lambda workers: open_pool(workers, short))
    os.mkfifo(tmp_path / "pipe.jpg")
    with open_reader(limited=True) as read, pytest.raises(BadInput, match="takes more than 120 s"):
        read(tmp_path / "pipe.jpg")
