"""Asks the head node of a Ray cluster whether it is there, before Ray is imported.

The question is one message of gRPC, which is a request of HTTP/2. The code of this file is enough for this one message,
so no library for gRPC is needed.
"""

from __future__ import annotations

import os
import socket
import threading

from manifests.errors import BadInput

# The head node must answer within this number of seconds (ours). This time includes the look-up of the address.
ANSWER_SECONDS = 6.0


def _make_frame(kind: int, flags: int, stream: int, data: bytes = b"") -> bytes:
    """Returns a frame of HTTP/2 (RFC 9113, section 4.1)."""
    return len(data).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + data


def _make_field(name: bytes, value: bytes) -> bytes:
    """Returns a field of a header (RFC 7541, section 6.2.2)."""
    return bytes((0, len(name))) + name + bytes((len(value),)) + value


_DATA, _HEADERS, _SETTINGS = 0, 1, 4  # types of frames
_END_OF_STREAM, _END_OF_HEADERS = 1, 4  # flags of frames
# The bytes with which gRPC asks a head node for the id of its cluster.
_QUESTION = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _make_frame(_SETTINGS, 0, 0)
    + _make_frame(
        _HEADERS,
        _END_OF_HEADERS,
        1,
        b"\x83\x86"  # the method POST and the scheme http
        + _make_field(b":path", b"/ray.rpc.NodeInfoGcsService/GetClusterId")
        + _make_field(b":authority", b"head")
        + _make_field(b"content-type", b"application/grpc")
        + _make_field(b"te", b"trailers"),
    )
    + _make_frame(_DATA, _END_OF_STREAM, 1, bytes(5))  # an empty message
)
_STATUS_200 = b"\x88"  # the beginning of the header of an answer with the status 200 (RFC 7541, appendix A)
# These bytes are in the header of the answer if a gRPC server does not know the question, or wants a token.
_NO_SUCH_QUESTION, _NO_TOKEN = b"grpc-status\x0212", b"grpc-status\x0216"
_MOST_BYTES = 2**14  # the largest frame, if the client allows no larger frame (RFC 9113, section 4.2)


def check_head_node(address: str) -> None:
    """Raises BadInput if no head node of a Ray cluster answers at `address` within ANSWER_SECONDS.

    If another server is at the address, Ray itself would ask for 20 s, and print a warning each second.
    """
    advice = "Check the address, and start the head node with: ray start --head."
    answer = _ask_in_time(address)
    if isinstance(answer, Exception):
        reason = "no answer" if isinstance(answer, TimeoutError) else getattr(answer, "strerror", None) or str(answer)
        raise BadInput(f"No Ray cluster answers at {address} ({reason}). {advice}") from None
    if not answer.startswith(_STATUS_200) or _NO_SUCH_QUESTION in answer:
        raise BadInput(f"The server at {address} is not the head node of a Ray cluster. {advice}")
    if _NO_TOKEN in answer and os.environ.get("RAY_AUTH_MODE") != "token":
        raise BadInput(describe_token(address))


def is_head_node_there(address: str) -> bool:
    """Returns whether a server answers at the address of a head node within ANSWER_SECONDS."""
    return not isinstance(_ask_in_time(address), Exception)


def _ask_in_time(address: str) -> bytes | Exception:
    """Returns what `_ask_head_node` returns, or its error."""
    answers: list[bytes | Exception] = []

    def ask() -> None:
        try:
            answers.append(_ask_head_node(address))
        except Exception as error:
            answers.append(error)

    # The search for the address of a name has no time limit of its own, so a thread does it.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return answers[0] if answers else TimeoutError()


def _ask_head_node(address: str) -> bytes:
    """Returns the header of the answer to _QUESTION, or b"" if the server speaks no HTTP/2.

    The question contains no token. Raises OSError if the server does not answer.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), ANSWER_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS") == "1":  # the server answers only after an encrypted greeting
            return _STATUS_200
        connection.settimeout(ANSWER_SECONDS)
        connection.sendall(_QUESTION)
        with connection.makefile("rb") as stream:
            # If a server speaks no HTTP/2, its first bytes are read as the length of a very large frame.
            while len(start := stream.read(9)) == 9 and (length := int.from_bytes(start[:3], "big")) <= _MOST_BYTES:
                data = stream.read(length)
                if start[3] == _HEADERS:
                    return data
    return b""


def describe_token(address: str) -> str:
    """Returns the sentence about a token that is missing or wrong."""
    return (
        f"The cluster at {address} refuses this command, because its token is missing or wrong. Set "
        "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as on the head node."
    )
