"""Measures how long the acts of `likeness review` take on a dataset of many people. The dataset has no pictures.

    python benchmarks/review.py                            # 10,000 people, 100,000 faces
    python benchmarks/review.py --people 500 --acts 20

The time of an act runs from the request of the browser to the answer. The answer comes after the decision is recorded
and the view is changed. The last line is JSON with the median and the 95th percentile of each act in milliseconds.
`cpu_p95` is the 95th percentile of the processor time of this process. Other programs on the machine change processor
times less than wall-clock times.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from curate.config import CurateConfig
from curate.review.server import make_app
from curate.review.session.session import Session
from manifests.ledger.ledger import Ledger
from manifests.ledger.paths import shard_path
from manifests.ledger.records import Face, File, Identity, Membership, Split
from manifests.privacy.keys import ensure_key
from manifests.runtime.files import sha256_bytes

# the number of dimensions of an embedding (ours); with more dimensions, random people are never similar
DIMENSIONS = 64
NOISE = 0.8  # The length (ours) of the noise that is added to the mean of a person. The mean has the length 1.
GOAL = 100.0  # The goal in milliseconds (ours): an answer within .1 s feels immediate.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=10_000)
    parser.add_argument("--faces", type=int, default=10, help="the mean number of faces of a person")
    parser.add_argument("--acts", type=int, default=100, help="how often each act is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder)
        faces = write_dataset(dataset, options.people, options.faces)
        start = time.perf_counter()
        session = Session(dataset, idle=1e9)
        opened = time.perf_counter() - start
        print(f"{options.people:,} people, {faces:,} faces: opened in {opened:.1f} s")
        times = measure(TestClient(make_app(session)), session, options.acts)
    result = {name: describe(values) for name, values in times.items()}
    for name, figures in result.items():
        print(
            f"{name:<16} p50 {figures['p50']:7.1f} ms   p95 {figures['p95']:7.1f} ms   "
            f"cpu p95 {figures['cpu_p95']:7.1f} ms"
        )
    worst = max(figures["p95"] for figures in result.values())
    facts = {"people": options.people, "faces": faces, "seconds_to_open": round(opened, 2), "goal_ms": GOAL}
    print(json.dumps({**facts, "worst_p95": worst, "milliseconds": result}))


def measure(client: TestClient, session: Session, acts: int) -> dict[str, list[tuple[float, float]]]:
    """Returns the time and the processor time of each act and of each request in milliseconds."""
    rng = np.random.default_rng(0)
    people = list(session.read().people.identities)
    rng.shuffle(people)
    members = session.read().people.members
    # Only people with four faces or more are used. A person may be gone, because an answer may merge two people.
    large = (person for person in people if len(members.get(person, ())) >= 4)
    times: dict[str, list[tuple[float, float]]] = {}

    def post(name: str, **body: Any) -> None:
        clock(name, lambda: client.post("/api/act", json=body))

    def clock(name: str, work: Callable[[], Any]) -> Any:
        start, cpu = time.perf_counter(), time.process_time()
        answer = work()
        spent = time.perf_counter() - start, time.process_time() - cpu
        times.setdefault(name, []).append((1000 * spent[0], 1000 * spent[1]))
        assert answer.status_code == 200, answer.text
        return answer

    def answer(word: str) -> None:
        asked = clock("next question", lambda: client.get("/api/ask")).json()
        body = {"question": asked["question"]["id"], "answer": word}
        clock(f"answer {word}", lambda: client.post("/api/ask", json=body))

    clock("first question", lambda: client.get("/api/ask"))
    for number in range(acts):
        one, other, third, fourth, fifth, sixth = (next(large) for _ in range(6))
        post("merge", requests=[{"kind": "merge", "sides": [one, other]}])
        post("undo", act="undo")
        post("redo", act="redo")
        post("split", requests=[{"kind": "split", "faces": members[third][:1]}])
        post("move", requests=[{"kind": "move", "faces": members[fourth][:2], "to": third}])
        post("drop", requests=[{"kind": "drop", "faces": members[fifth][:1]}])
        post("name", requests=[{"kind": "rename", "faces": [sixth], "name": f"Person {number}"}])
        post("lock", requests=[{"kind": "lock", "faces": [sixth]}])
        start = int(rng.integers(0, len(people)))
        clock("wall", lambda start=start: client.get("/api/people", params={"start": start}))  # type: ignore[misc]
        clock("faces", lambda person=sixth: client.get(f"/api/people/{person}/faces"))  # type: ignore[misc]
        clock("similar people", lambda person=sixth: client.get(f"/api/people/{person}/closest"))  # type: ignore[misc]
        answer(("yes", "no", "skip")[number % 3])
        clock("search", lambda number=number: client.get("/api/people", params={"search": f"person {number}"}))  # type: ignore[misc]
    return times


def describe(values: list[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = np.array(values).T
    figures = {"p50": np.percentile(wall, 50), "p95": np.percentile(wall, 95), "cpu_p95": np.percentile(cpu, 95)}
    return {name: round(float(value), 1) for name, value in figures.items()}


def write_embeddings(dataset: Path, rng: np.random.Generator, sizes: np.ndarray) -> str:
    """Writes random embeddings of people with these numbers of faces, one person after the other.

    A face is the mean of its person plus noise. Two faces of a person have a cosine of about .6. The cosines of two
    people are normally distributed, so that some people are similar and the page has questions to ask. Returns the name
    of the shard.
    """
    means = rng.standard_normal((len(sizes), DIMENSIONS)).astype(np.float32)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    noise = rng.standard_normal((sizes.sum(), DIMENSIONS)).astype(np.float32)
    faces = means.repeat(sizes, axis=0) + NOISE * noise / np.sqrt(DIMENSIONS)
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    name = sha256_bytes(faces.tobytes())
    path = shard_path(dataset, name)
    path.parent.mkdir(parents=True)
    np.save(path, faces)
    return name


def write_dataset(dataset: Path, people: int, mean_faces: int) -> int:
    """Writes a ledger with random people, and returns the number of faces. Faces have no crops."""
    rng = np.random.default_rng(1)
    sizes = 1 + rng.poisson(mean_faces - 1, people)
    shard, row = write_embeddings(dataset, rng, sizes), 0
    faces: list[Face] = []
    memberships, splits, identities, files = [], [], [], []
    for number, size in enumerate(sizes.tolist()):
        person = f"p-{sha256_bytes(b'%d' % number)[:12]}"
        identities.append(Identity(person))
        for place in range(size):
            photo = sha256_bytes(b"%d %d" % (number, place))
            face = photo[:32]
            files.append(File(f"file:///photos/{number}/{place}.jpg", photo, 1, 1, "ok", sha256=photo))
            faces.append(
                Face(
                    face, photo, (10.0, 10.0, 90.0, 110.0), (0.0,) * 10, None, 0.9, 40.0, 0, 0, 0, 0.4, 0, 0.5, 1, "0",
                    shard=shard, shard_row=row,
                )
            )  # fmt: skip
            row += 1
            memberships.append(Membership(face, person, float(rng.uniform(0.3, 0.9)), float(rng.uniform(0, 0.5))))
            splits.append(Split(face, person, ("train", "val", "test")[number % 3], "identity"))
    settings = {"config": asdict(CurateConfig()), "same_person": 0.4}
    with Ledger.open(dataset, write=True) as ledger:
        ensure_key(ledger)
        ledger.record("settings", "all", settings, detail=settings)
        ledger.record(
            "group", "all", {}, [*faces, *memberships, *splits, *identities, *files], detail={"threshold": 0.4}
        )
        ledger.record("curate", "all", {}, detail={"finished": True})
    return len(faces)


if __name__ == "__main__":
    main()
