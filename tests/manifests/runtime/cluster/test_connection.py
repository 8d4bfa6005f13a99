"""Tests that `--engine ray` refuses options and addresses that cannot work, in one sentence, and without Ray's help."""

import importlib.util
import socket
import sys
import threading
import time

import pytest

from manifests.errors import BadInput
from manifests.runtime.cluster import connection, head_node, ray_calls
from manifests.runtime.cluster.connection import choose_cluster, connect_to_cluster
from manifests.runtime.cluster.node_versions import SOURCES, describe_difference, find_versions


def test_the_options_choose_the_cluster() -> None:
    assert choose_cluster(False, None, 3) is None
    assert choose_cluster(True, None, 3) == "local"
    assert choose_cluster(True, "auto", None) == "auto"


@pytest.mark.parametrize(
    ("is_ray", "address", "workers", "sentence"),
    [
        (False, "10.0.0.1:6379", None, "Add --engine ray"),
        (True, "10.0.0.1", None, "Give HOST:PORT"),
        (True, "ray://10.0.0.1:10001", None, "Give HOST:PORT"),
        (True, "10.0.0.1:6379", 2, "Leave --workers out"),
    ],
)
def test_options_that_contradict_each_other_are_refused(is_ray, address, workers, sentence) -> None:
    with pytest.raises(BadInput, match=sentence):
        choose_cluster(is_ray, address, workers)


def test_without_ray_the_sentence_says_how_to_install_it(monkeypatch, command, tmp_path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(connection, "find_spec", lambda name: None if name == "ray" else find(name))
    for words in (("curate", tmp_path, "--out", tmp_path / "ds"), ("degrade", tmp_path, "--out", tmp_path / "lq")):
        ran = command(*words, "--engine", "ray")
        assert ran.returncode == 2 and "pip install 'likeness[ray]'" in ran.stderr and ran.stderr.count("\n") == 1


# ANSWERS has the bytes that each server sends instead of a head node, and a part of the error message. The first frame
# of HTTP/2 has the settings. The second frame has the header.
SETTINGS, HEADER = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)), bytes((0, 0, 15, 1, 5, 0, 0, 0, 1))
ANSWERS = {
    "closed": (None, "No Ray cluster answers"),
    "silent": (b"", "No Ray cluster answers"),
    "web": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not the head node"),
    "HTTP/2": (SETTINGS + HEADER + b"\x8d" + bytes(14), "not the head node"),
    "another gRPC": (SETTINGS + HEADER + b"\x88grpc-status\x0212", "not the head node"),
    "token": (SETTINGS + HEADER + b"\x88grpc-status\x0216", "its token is missing"),
}


@pytest.mark.parametrize(("answer", "sentence"), ANSWERS.values(), ids=list(ANSWERS))
def test_an_address_without_a_cluster_is_refused_soon_and_without_ray(answer, sentence, monkeypatch) -> None:
    monkeypatch.setattr(head_node, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if answer is None:
            server.close()
        held = []

        def serve() -> None:
            for _ in range(2):
                held.append(server.accept()[0])
                held[-1].sendall(answer)

        if answer is not None:
            threading.Thread(target=serve, daemon=True).start()
        began = time.monotonic()
        had_ray = "ray" in sys.modules
        with pytest.raises(BadInput, match=sentence):
            choose_cluster(True, f"127.0.0.1:{port}", None)
        with pytest.raises(BadInput, match=f"127.0.0.1:{port} "), connect_to_cluster(f"127.0.0.1:{port}"):
            pass
        assert time.monotonic() - began < 3 and ("ray" in sys.modules) == had_ray


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(head_node, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    began = time.monotonic()
    with pytest.raises(BadInput, match=r"host:6379 \(no answer\)"):
        choose_cluster(True, "host:6379", None)
    assert time.monotonic() - began < 2


def test_another_version_is_named_on_both_sides() -> None:
    here = find_versions()
    assert here["Python"] == ".".join(map(str, sys.version_info[:3])) and len(here[SOURCES]) == 12
    other = {**here, "Python": "3.9.1"}
    sentence = describe_difference("node-7", other, here)
    assert "node-7 has Python 3.9.1" in sentence and f"with Python {here['Python']}" in sentence
    other = {**here, "numpy": "none"}
    assert f"node-7 has no numpy, and this command runs with numpy {here['numpy']}" in describe_difference(
        "node-7", other, here
    )
    other = {**here, SOURCES: "0" * 12}
    assert "0" * 12 in describe_difference("node-7", other, here)
    text = "The cluster:\n    Ray: 2.9.0\n    Python: 3.9.1\nThis process:\n    Ray: 2.60.0\n    Python: 3.11.2"
    sentence = ray_calls.describe_failure("h:1", text)
    assert "Ray 2.9.0 on Python 3.9.1" in sentence and "Ray 2.60.0 on Python 3.11.2" in sentence
