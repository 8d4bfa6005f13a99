"""Measures how many questions a user must answer to halve the wrong pairs of a dataset, for three orders of questions.

    python benchmarks/review_questions.py DATASET --aliases ../shared/data/aliases.json [--people test] [--keep]

DATASET is a curated dataset whose photos are in a folder for each person, and which was grouped without labels. The
script takes the largest face of each photo, and the name of the folder as its label. The faces of the chosen people are
grouped again from their embeddings. A simulated user answers with the labels. The same questions are asked in three
orders. The first order is the queue of `likeness review`. The second order is random, but the questions whose mean
cosine is within NEAR of the threshold come first. The third order always asks the question whose mean cosine is nearest
to the threshold. In the last two orders, all questions about two people come before the questions about faces and
parts. The order of the kinds improves the results of both orders. After each answer, the queue changes its questions.
If an order does not halve the wrong pairs within --most answers, it counts as if it needed --most answers.

The people for tuning and for testing are separated by a hash of the folder's name. Two faces are a wrong pair if they
have the same label and are in different people, or if they have different labels and are in the same person.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from grouping_quality import read_labelled_faces
from grouping_scores import score_pairs
from record_result import record_result

from curate.people.clustering.group_embeddings import Grouping, group_embeddings
from curate.review.ask.question import CALM, PEOPLE, Odds, Question
from curate.review.ask.questions import Questions

NEAR = 0.1  # A mean cosine is near the threshold if it differs from the threshold by at most NEAR (ours).
SEEDS = 5  # The number of random orders. The table has the median over these orders.
BINS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # The edges of the bins of `measure_calibration`.
# A function that chooses one of the open questions. Its arguments are the open questions, and the mean cosine of each
# of them.
Choose = Callable[[Sequence[Question], np.ndarray], Question | None]


def choose_people(names: np.ndarray, part: str) -> np.ndarray:
    """Returns whether each face belongs to the part `tune` or `test`, bool (n,)."""
    wanted = {"tune": (0,), "test": (1,), "all": (0, 1)}[part]
    number = {name: int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2 for name in set(names.tolist())}
    return np.array([number[name] in wanted for name in names.tolist()])


class Table:
    """The people of a simulated review, and the labels of their faces."""

    def __init__(self, names: np.ndarray, vectors: np.ndarray, grouping: Grouping) -> None:
        self.truth = np.unique(names, return_inverse=True)[1]
        self.vectors, self.grouping = vectors, grouping
        self.groups = grouping.labels.copy()
        assert grouping.evidence is not None and grouping.alpha is not None
        self.odds = Odds(grouping.evidence, float(np.log(grouping.alpha)))
        self.face_ids = [f"{row:06}" for row in range(len(names))]
        self.queue = Questions(self.face_ids, vectors, self._name(range(len(names))), self.odds)

    def _name(self, rows: Sequence[int]) -> dict[str, str]:
        return {self.face_ids[row]: f"{self.groups[row]:06}" for row in rows}

    def count_wrong_pairs(self) -> int:
        """Returns the number of pairs of faces that are in one group or have one label, but not both."""

        def count_pairs(values: np.ndarray) -> int:
            sizes = np.unique(values, return_counts=True)[1]
            return int((sizes * (sizes - 1) // 2).sum())

        both = count_pairs(self.truth * (self.groups.max() + 1) + self.groups)
        return count_pairs(self.truth) + count_pairs(self.groups) - 2 * both

    def answer(self, question: Question) -> bool:
        """Answers a question by the labels, and changes the people. Returns whether the answer was yes."""
        one, other = (np.array([int(face) for face in side]) for side in (question.one, question.other))
        first, second = (Counter(self.truth[rows].tolist()).most_common(1)[0][0] for rows in (one, other))
        yes = bool(first == second)
        if question.kind == PEOPLE and yes:
            self.groups[one] = self.groups[other[0]]
            self.queue.follow(self._name(one.tolist()))
            self.queue.keep_together(question.one, question.other)
        elif question.kind == PEOPLE:
            self.queue.keep_apart(question.one, question.other)
        elif yes:
            self.queue.keep_together(question.one, question.other)
        else:
            self.groups[one] = self.groups.max() + 1
            self.queue.follow(self._name(one.tolist()))
            self.queue.keep_apart(question.one, question.other)
        return yes

    def measure_mean_cosine(self, question: Question) -> float:
        """Returns the mean cosine between the two sets of faces of a question."""
        one, other = ([int(face) for face in side] for side in (question.one, question.other))
        return float(self.vectors[one].mean(0) @ self.vectors[other].mean(0))


def simulate(table: Table, choose: Choose | None, most: int) -> tuple[list[int], list[float]]:
    """Returns the number of wrong pairs and the pairwise F after 0, 1, 2, ... answers."""
    wrong, scores = [table.count_wrong_pairs()], [score_pairs(table.truth, table.groups)[2]]
    while len(wrong) <= most and wrong[-1] > 0:
        if choose is None:
            question = table.queue.find_next()
        else:
            questions = list(table.queue.iterate())
            question = choose(questions, np.array([table.measure_mean_cosine(one) for one in questions]))
        if question is None:
            break
        table.answer(question)
        wrong.append(table.count_wrong_pairs())
        scores.append(score_pairs(table.truth, table.groups)[2])
    return wrong, scores


def choose_nearest(threshold: float) -> Choose:
    """Returns the order of a baseline: the question whose mean cosine is nearest to the threshold comes first."""
    return _ask_about_people_first(
        lambda questions, cosines: questions[int(np.abs(cosines - threshold).argmin())] if len(questions) else None
    )


def choose_at_random(threshold: float, rng: np.random.Generator) -> Choose:
    """Returns the order of a baseline: random, but the questions whose mean cosine is within NEAR of the threshold come
    first."""

    def choose(questions: Sequence[Question], cosines: np.ndarray) -> Question | None:
        near = np.flatnonzero(np.abs(cosines - threshold) <= NEAR)
        places = near if len(near) else np.arange(len(questions))
        return questions[int(rng.choice(places))] if len(places) else None

    return _ask_about_people_first(choose)


def _ask_about_people_first(choose: Choose) -> Choose:
    """Returns `choose` as an order that asks all questions about two people before the questions about faces and parts.

    The cosine of a face to its person is often near the threshold although the face belongs to the person. The
    baselines therefore get better results with this order than with one order for all kinds of questions.
    """

    def choose_kind(questions: Sequence[Question], cosines: np.ndarray) -> Question | None:
        places = [place for place, question in enumerate(questions) if question.kind == PEOPLE]
        if not places:
            return choose(questions, cosines)
        return choose([questions[place] for place in places], cosines[places])

    return choose_kind


def count_answers(wrong: Sequence[int], share: float) -> int | None:
    """Returns after how many answers at most `share` of the wrong pairs are left. None if that never happens."""
    return next((number for number, left in enumerate(wrong) if left <= share * wrong[0]), None)


def measure_calibration(table: Table) -> list[dict[str, Any]]:
    """Returns for each bin of probabilities the number of questions, and how many of their answers correct a person."""
    rows = []
    for question in table.queue.iterate():
        one, other = ([int(face) for face in side] for side in (question.one, question.other))
        same = (
            Counter(table.truth[one].tolist()).most_common(1)[0][0]
            == (Counter(table.truth[other].tolist()).most_common(1)[0][0])
        )
        rows.append((question.probability, same == (question.kind == PEOPLE)))
    table_rows = []
    for low, high in pairwise(BINS):
        inside = [is_wrong for probability, is_wrong in rows if low <= probability < high]
        if inside:
            table_rows.append({"from": low, "to": high, "questions": len(inside), "wrong": sum(inside)})
    return table_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--aliases", type=Path, help="a JSON file that maps a folder name to another name")
    parser.add_argument("--people", choices=("tune", "test", "all"), default="test")
    parser.add_argument("--most", type=int, default=400, help="largest number of answers in a simulation")
    parser.add_argument("--keep", action="store_true", help="write the result into benchmarks/results")
    options = parser.parse_args()
    aliases = json.loads(options.aliases.read_text(encoding="utf-8")) if options.aliases else {}
    names, _, vectors, _, worth = read_labelled_faces(options.dataset, aliases)
    chosen = choose_people(np.array(names), options.people)
    labels, vectors = np.array(names)[chosen], vectors[chosen]
    grouping = group_embeddings(vectors, worth=None if worth is None else worth[chosen])

    def run(choose: Choose | None) -> tuple[list[int], list[float]]:
        return simulate(Table(labels, vectors, grouping), choose, options.most)

    curves = {"queue": [run(None)], "nearest": [run(choose_nearest(grouping.threshold))]}
    curves["random"] = [run(choose_at_random(grouping.threshold, np.random.default_rng(seed))) for seed in range(SEEDS)]
    orders = {}
    for name, results in curves.items():
        halves = [half if (half := count_answers(wrong, 0.5)) is not None else options.most for wrong, _ in results]
        after = {
            n: float(np.median([scores[min(n, len(scores) - 1)] for _, scores in results]))
            for n in (0, 10, 20, 50, 100)
        }
        orders[name] = {
            "answers_to_halve": float(np.median(halves)),
            "halved": sum(count_answers(wrong, 0.5) is not None for wrong, _ in results),
            "runs": len(results),
            "wrong_pairs": results[0][0][0],
            "wrong_pairs_left": float(np.median([wrong[-1] for wrong, _ in results])),
            "answers": float(np.median([len(wrong) - 1 for wrong, _ in results])),
            "pair_f": {str(n): round(value, 4) for n, value in after.items()},
        }
        print(f"{name:8} {orders[name]}")
    table = Table(labels, vectors, grouping)
    calibration = measure_calibration(table)
    for row in calibration:
        bounds = f"{row['from']:.2f} to {row['to']:.2f}"
        print(f"probability {bounds}: {row['wrong']} of {row['questions']} answers correct a person")
    result = {
        "people": options.people,
        "faces": len(labels),
        "labels": len(set(labels.tolist())),
        "threshold": round(grouping.threshold, 4),
        "calm": CALM,
        "orders": orders,
        "to_random": orders["queue"]["answers_to_halve"] / max(orders["random"]["answers_to_halve"], 1),
        "to_nearest": orders["queue"]["answers_to_halve"] / max(orders["nearest"]["answers_to_halve"], 1),
        "calibration": calibration,
        "likely_at_start": table.queue.count_likely(),
    }
    record_result("review_questions", result, options.keep)


if __name__ == "__main__":
    main()
