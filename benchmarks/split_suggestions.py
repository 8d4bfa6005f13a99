"""Measures how often the report suggests to split a person whose faces show one person, or two people.

    python benchmarks/split_suggestions.py DATASET

DATASET is a curated dataset whose photos are in a folder for each person, for example ../shared/data/people_crops. The
script first counts the suggestions for people whose faces are all from one folder. A suggestion to split such a person
is wrong. Then the script puts the faces of two of these people together, and counts the suggestions again. A suggestion
to split such a pair of people is right.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from manifests.ledger.ledger import Ledger
from manifests.report.suggestions import divide_faces, read_embedded_faces
from manifests.runtime.uris import path_of

PAIRS = 400  # The number of random pairs of people for each of SIZES; pairs with too few faces are left out.
SIZES = ((4, 2), (10, 3), (10, 10))  # The numbers of faces of the first and of the second person.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    with Ledger.open(parser.parse_args().dataset) as ledger:
        faces = read_embedded_faces(ledger)
        threshold = ledger.read_detail("group")["threshold"]
        uris = ledger.query("SELECT face_id, min(uri) FROM faces JOIN files USING (photo_id) GROUP BY 1").rows()
    folder = {face: path_of(uri).parent.name for face, uri in uris}
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, person in enumerate(faces.people):
        rows_of[person].append(row)
    label = {person: {folder[faces.face_ids[row]] for row in rows} for person, rows in rows_of.items()}
    people = sorted(person for person in rows_of if len(label[person]) == 1)

    def suggests(rows: list[int]) -> bool:
        divided = divide_faces(faces.vectors[rows])
        return divided is not None and divided[1] < threshold

    single = [person for person in people if len(rows_of[person]) >= 4]
    print(f"threshold {threshold:.3f}")
    count = sum(suggests(rows_of[person]) for person in single)
    print(f"single people: a split is suggested for {count} of {len(single)}")
    rng = np.random.default_rng(0)
    for large, small in SIZES:
        results = []
        for _ in range(PAIRS):
            one, other = (people[place] for place in rng.choice(len(people), 2, replace=False))
            if label[one] != label[other] and len(rows_of[one]) >= large and len(rows_of[other]) >= small:
                rows = [*rng.permutation(rows_of[one])[:large], *rng.permutation(rows_of[other])[:small]]
                results.append(suggests([int(row) for row in rows]))
        counts = f"{sum(results)} of {len(results)} pairs"
        print(f"two people with {large} and {small} faces: a split is suggested for {counts}")


if __name__ == "__main__":
    main()
