"""Starts Ray clusters of several nodes on this machine, whose processes have the doubles of curation."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import manifests.runtime.workers
from curate.detection.detect import start_worker
from manifests.runtime.cluster.connection import SETTINGS
from tests.doubles import curation
from tests.doubles.commands.forked_workers import start_server
from tests.places import REPOSITORY

SMALL = 80 * 2**20  # the smallest object store that Ray accepts has 75 MiB


def start_double() -> None:
    """Prepares a worker process of a node, which is started anew and has no doubles."""
    start_worker()
    manifests.runtime.workers.UNIT_SECONDS = 10  # on a busy machine, an honest photo may take some seconds
    curation.install(pytest.MonkeyPatch())


@contextmanager
def two_nodes(**variables: str) -> Iterator[Any]:
    """Yields a cluster of two nodes with one core each. The nodes have these variables in their environment.

    The files of Ray are in a folder of their own, which is removed after the block.
    """
    start_server()  # before a test changes the current folder
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the path of a socket must be short
    paths = os.pathsep.join(filter(None, (variables.pop("PYTHONPATH", None), str(REPOSITORY))))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            **SETTINGS,
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": folder,
            "AWS_EC2_METADATA_DISABLED": "true",  # otherwise, a node without credentials asks the network for them
            "RAY_worker_niceness": "0",  # with Ray's default of 15, a test would wait for all other processes
            **variables,
            "PYTHONPATH": paths,
        }.items():
            patch.setenv(name, value)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            start_node(cluster, include_dashboard=False)
            start_node(cluster)
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def start_node(cluster: Any, **options: Any) -> None:
    """Starts a node with one core. On a very busy machine, no node starts within the 30 s that Ray waits."""
    for _ in range(3):
        try:
            cluster.add_node(num_cpus=1, object_store_memory=SMALL, **options)
            return
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    pytest.skip("this machine is too busy: no node of Ray started within 30 s")
