"""Describes a question about two sets of faces, and computes the odds that the sets show one person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curate.people.clustering.threshold import Evidence

# The log odds of the evidence are divided by CALM (ours), because the faces of a person are not independent pictures of
# the person. benchmarks/review_questions.py checks these odds: it prints how often the present grouping is wrong.
CALM = 2.0

PEOPLE, FACE, PARTS = "people", "face", "parts"  # the kinds of questions


@dataclass(frozen=True)
class Odds:
    """The log odds that two sets of faces show one person."""

    evidence: Evidence
    log_alpha: float

    def compute(self, cosine: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Returns the log odds for m pairs of sets of faces, float64 (m,).

        `a` and `b` are the numbers of faces in the two sets, each (m,). `cosine` is the cosine of the centres of the
        two sets, (m,).
        """
        odds = self.evidence.compute_log_odds(cosine, cosine, a.astype(np.float64), b.astype(np.float64))
        return np.asarray((odds - self.log_alpha) / CALM)


@dataclass(frozen=True)
class Question:
    """Do the faces of `one` and of `other` show one person?"""

    kind: str  # PEOPLE, FACE or PARTS.
    one: tuple[str, ...]  # The faces of the person with fewer faces, the single face, or the faces of the smaller part.
    other: tuple[str, ...]
    people: tuple[str, ...]  # The ids of the people of `one` and `other`, or only one id if both are one person.
    probability: float  # The probability that the present grouping is wrong about `one` and `other`.
    cosine: float  # The cosine of the centres of `one` and `other`.

    @property
    def gain(self) -> float:
        """The expected number of wrong pairs of faces that the answer corrects."""
        return self.probability * len(self.one) * len(self.other)
