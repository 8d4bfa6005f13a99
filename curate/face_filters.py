"""Defines the named filter sets of `--filters`, for example `strict`, with the source of each number."""

from __future__ import annotations

from manifests.ledger.filters import Filter, FilterSet
from manifests.ledger.queries import PADDED

# If more than a tenth (ours) of a crop lies outside the photo, the face is not a target of the split `test`. For pixels
# outside the photo, there is no truth that a metric could compare with a restored face. The face can still be a
# reference.
OUTSIDE_PHOTO = "outside_photo"
TEST_FILTERS = (Filter(OUTSIDE_PHOTO, "outside > 0.1"),)

# If a filter's predicate is true for a face, the face is dropped with the filter's reason. The row of a dropped face
# keeps the box and the measures. A predicate may use the columns of the table `faces`, and the width and height of the
# photo. In a predicate, `detector_min_score` is the lowest score that the detector accepts: .5 for SCRFD (insightface's
# default) and .3 for dlib (ours).

DEFAULT = FilterSet(
    "default",
    2,
    (
        # The limit of 16 px is ours. For ArcFace, faces below the limit must be enlarged by a factor of more than 2. A
        # face with 16 px between its eyes has a detector box about 35 px wide, and its 512 px crop shows about 65 px of
        # the photo.
        Filter("too_small", "inter_ocular_px < 16"),
        Filter("low_score", "det_score < detector_min_score"),
        # `turn_unclear` drops a face if the detector and the recognizer do not agree on the turn that makes the face
        # upright.
        Filter("turn_unclear", "turn IS NULL"),
        # `landmarks_do_not_fit` drops a face if the detector, in a second look at the aligned crop, finds different
        # landmarks or no face (curate/faces/second_look.py).
        Filter("landmarks_do_not_fit", "landmark_error > 0.3"),
        # The limit of a quarter is ours. If the box of a face reaches outside the photo by more than a quarter of the
        # box's width or height, the face is a poor target.
        Filter(
            "cut_by_border",
            "greatest(-box[1], box[3] - width) > 0.25 * (box[3] - box[1]) OR "
            "greatest(-box[2], box[4] - height) > 0.25 * (box[4] - box[2])",
        ),
        # If a head is turned by more than 75 degrees, one eye is hidden, and five landmarks align the face badly. The
        # limits of 75 and 60 degrees are ours.
        Filter("turned_away", "abs(yaw) > 75 OR abs(pitch) > 60"),
        # The limit of .12 is ours. In 836 web photos, 2% of the faces have a sharpness below .12. These faces are out
        # of focus or come from enlarged thumbnails.
        Filter("too_blurred", "sharpness < 0.12"),
        # Exposure is the mean luma of the inner face, from 0 to 1. Faces that are darker than .08 or brighter than .95
        # have lost detail. Both limits are ours.
        Filter("too_dark", "exposure < 0.08"),
        Filter("too_bright", "exposure > 0.95"),
    ),
    TEST_FILTERS,
)

# The set `strict` accepts only faces that are good targets of restoration. All numbers of `strict` are ours. In 836 web
# photos, `default` keeps 935 faces, and `strict` keeps 260 of these faces. Each percentage in the comments below is a
# share of these 935 faces.
STRICT = FilterSet(
    "strict",
    2,
    (
        *DEFAULT.filters[:5],
        # The 512 px crop must cover at least 256 px of the photo. The filter `enlarged` drops 68% of the faces,
        # because web photos are small.
        Filter("enlarged", "upsample > 2"),
        # If a head is turned by more than 45 degrees, the far half of the face must be guessed. The filter
        # `turned_away` drops 6% of the faces.
        Filter("turned_away", "abs(yaw) > 45 OR abs(pitch) > 40"),
        # `too_blurred` drops the softest 6% of the faces, `too_noisy` drops the noisiest 5%, and `too_blocky` drops the
        # 2% with the most visible JPEG blocks.
        Filter("too_blurred", "sharpness < 0.26"),
        Filter("too_noisy", "noise > 5.6"),
        Filter("too_blocky", "blockiness > 1.2"),
        # `too_dark` drops the darkest 2% of the faces, and `too_bright` drops the brightest .5%.
        Filter("too_dark", "exposure < 0.2"),
        Filter("too_bright", "exposure > 0.75"),
    ),
    TEST_FILTERS,
)


def _make_rung(name: str, enlarged: str) -> FilterSet:
    """Returns a set with the filters of `strict` and the filter `padded`. `enlarged` is the predicate of the filter
    `enlarged`.
    """
    filters = (Filter(rule.reason, enlarged) if rule.reason == "enlarged" else rule for rule in STRICT.filters)
    return FilterSet(name, 1, (*filters, Filter("padded", PADDED)))


# The sets `hq256` and `hq512` are for targets of 256 px and of 512 px. `hq256` and `hq512` have the filters of `strict`
# and two more conditions. At most 2% (ours) of the crop lies outside the photo. The part of the photo that the crop
# shows is at least 256 px wide for `hq256`, and at least 512 px wide for `hq512`, so a crop of the target size is not
# enlarged. A crop of 512 px with an `upsample` of 2 shows 256 px of the photo. In the photos of ../shared/data/photos
# and ../shared/data/people_crops, `default` keeps 2,757 faces, `strict` keeps 848, `hq256` keeps 173 and `hq512` keeps
# 45.
HQ256 = _make_rung("hq256", "upsample > 2")
HQ512 = _make_rung("hq512", "upsample > 1")
RUNGS = (DEFAULT, STRICT, HQ256, HQ512)  # each set drops all faces that the previous set drops

# The set `keep-outside` accepts the same faces as `default`. With `keep-outside`, any part of
# the crop of a test target may lie outside the photo.
KEEP_OUTSIDE = FilterSet("keep-outside", 2, DEFAULT.filters)

FILTER_SETS = {filters.name: filters for filters in (*RUNGS, KEEP_OUTSIDE)}
