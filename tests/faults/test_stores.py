"""Tests commands that read from and write to a disturbed object store, and are killed meanwhile."""

import itertools

import boto3
import numpy as np
import pytest

from manifests.check import check_ledger
from manifests.ledger.records import File
from tests.doubles.curation import contents, files, rows
from tests.doubles.faults.faults import FULL, SEED, points, tried
from tests.doubles.stores import CUT, ERROR, KEY, KEY_ID, Server, find_secret, serve_s3

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FULL, reason="`make faults` tries it")]
MUST = (
    "The people, the pairs, the crops and the frozen sets are the same as from local photos. No file and no message "
    "contains a credential."
)


def disturb(server: Server) -> None:
    """Lets one in nine requests for a file fail, and one in eleven transfer only a part."""
    numbers = itertools.count()

    def choose(method: str, path: str) -> str | None:
        number = next(numbers)
        if method not in ("GET", "PUT") or "list-type" in path:
            return None
        return ERROR if number % 9 == 0 else CUT if number % 11 == 0 and method == "GET" else None

    server.disturb = choose


def differing_tables(local, stored) -> list[str]:
    one, other = contents(local), contents(stored)
    names = one.keys() - {"files", "stages"}
    return [name for name in sorted(names) if one[name] != other[name]] + (
        ["files"] if files(local) != files(stored) else []
    )


def test_a_disturbed_store_and_kills_give_the_dataset_of_local_photos(world, tmp_path):
    photos = [path for path in sorted(world.photos.rglob("*")) if path.is_file() and not path.is_symlink()]
    with serve_s3() as server:
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for path in photos:
            client.put_object(Bucket="bucket", Key=f"photos/{path.relative_to(world.photos)}", Body=path.read_bytes())
        disturb(server)

        def curate(name: str) -> list[str]:
            store = ["--store", f"s3://bucket/{name}"]
            return [
                "--log-json",
                "curate",
                "s3://bucket/photos",
                "--out",
                str(tmp_path / name),
                "--workers",
                "2",
                *store,
            ]

        local = world.dataset()
        with tried("an object store answers with 503 or transfers a part", "curate and degrade", must=MUST):
            ended = world.bench.run(curate("whole"))
            assert ended.code == 0, ended.err
            moments = len(world.bench.moments())
            assert differing_tables(local, tmp_path / "whole") == [] == check_ledger(tmp_path / "whole")
            degraded = world.bench.run(["degrade", str(tmp_path / "whole"), "--size", "64", "--workers", "1"])
            assert degraded.code == 0, degraded.err
            in_store = {item["Key"] for item in client.list_objects_v2(Bucket="bucket", Prefix="whole/")["Contents"]}
            here = {f"whole/{name}" for name in files(tmp_path / "whole") if name.startswith("faces/")}
            assert here <= in_store and "whole/lq/gfpgan-test-64-s0/card.json" in in_store
            for secret in (KEY, KEY_ID):
                assert secret not in ended.out + ended.err + degraded.out + degraded.err
                assert find_secret(tmp_path, secret) == [] and secret not in str(contents(tmp_path / "whole"))
        rng = np.random.default_rng([SEED, 23])
        for number, point in enumerate(points(moments, 2, rng)):
            with tried("SIGKILL at a chosen moment", "curate from an object store", point, MUST):
                command = curate(f"killed{number}")
                world.bench.strike(command, point)
                ended = world.bench.run(command)
                assert ended.code == 0, ended.err
                assert differing_tables(local, tmp_path / f"killed{number}") == []
                assert rows(tmp_path / f"killed{number}", File) == rows(tmp_path / "whole", File)
