"""Makes the measured images of a case of a frozen set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from train.evaluation.sets.cases import Case
from train.metrics.readers import MeasuredCase


def make_measured_case(case: Case, image: np.ndarray) -> MeasuredCase:
    """Returns a restored image of a case, with all images to which the metrics compare it."""
    return MeasuredCase(image, case.target, tuple(case.references), tuple(case.wrong), case.valid, case.lq)


def make_measured_input(case: Case) -> MeasuredCase:
    """Returns the LQ image of a case as a measured image. Metrics do not compare the LQ image with itself."""
    return replace(make_measured_case(case, case.lq), given_lq=None)
