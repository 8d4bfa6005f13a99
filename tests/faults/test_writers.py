"""Tests two writers at once: the second must end with one sentence, and the first must end as if it ran alone.

A command that only reads while another command writes must get its data, or a message that says to wait.
"""

import pytest

from tests.doubles.faults import faults as doubles
from tests.doubles.faults.faults import FULL, Point, Stage, World, differences, finish, paused, remains, tried

pytestmark = pytest.mark.slow

# The second writer starts at this moment of the first writer.
STAGES: dict[Stage, str] = {
    doubles.curate: "record detect",
    doubles.degrade: "record degrade",
    doubles.degrade_folder: "replace 2.png",
    doubles.train: "rename checkpoint-00000016",
    doubles.freeze: "replace cases.jsonl",
    doubles.restore: "replace 2.png",
}
SHORT = (doubles.curate, doubles.degrade_folder)


@pytest.mark.parametrize("stage", STAGES if FULL else SHORT, ids=lambda stage: stage.__name__)
def test_a_second_writer_gets_a_sentence_and_the_first_does_not_notice(world, stage):
    command, undisturbed, moments = world.undisturbed(stage)
    assert any(line.startswith(STAGES[stage]) for line in moments), moments
    world.begin(stage)
    must = (
        "The second command ends with one sentence and exit code 1. The first command gives the results of an "
        "undisturbed run."
    )
    with tried("a second command writes into the same folder", stage, STAGES[stage], must):
        with paused(world.bench, command, Point(STAGES[stage])) as process:
            before = remains_of_files(world)
            second = world.bench.run(command)
            assert second.code == 1, second
            assert "Another process is" in second.sentence and "run the same command again" in second.sentence
            assert differences(remains_of_files(world), before) == []
        ended = finish(process)
        assert ended.code == 0, ended.err
        assert differences(remains(world.here), undisturbed) == []


def remains_of_files(world: World) -> dict[str, bytes]:
    """Returns the bytes of all files, and also of the ledger, which cannot be opened while a command writes."""
    return {str(path): path.read_bytes() for path in sorted(world.here.rglob("*")) if path.is_file()}


def test_whoever_reads_while_another_writes_is_told_to_wait(world):
    command = world.begin(doubles.degrade)
    dataset = world.here / "ds"
    with tried(
        "a command reads while another command writes",
        "degrade",
        "record degrade",
        "Each command that reads ends with one sentence and exit code 1. The command that writes ends with exit "
        "code 0.",
    ):
        with paused(world.bench, command, Point("record degrade")) as process:
            for words in (["manifest", "show", dataset], ["train", dataset, "--out", world.here / "run"]):
                ended = world.bench.run([str(word) for word in words])
                assert ended.code == 1 and "manifest.duckdb: wait until it has finished" in ended.sentence, ended
            assert not (world.here / "run").exists()
        assert finish(process).code == 0
    assert world.bench.run(["manifest", "check", str(dataset)]).code == 0
