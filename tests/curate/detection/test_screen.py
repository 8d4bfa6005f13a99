"""Tests that each filter drops faces for its own reason and for no other, and that a user's filters are checked."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from curate.detection import reasons
from curate.detection.filter_files import (
    BUILT_IN_REASONS,
    RESERVED,
    insert_min_score,
    load_filters,
    set_min_inter_ocular,
)
from curate.detection.screen import count_removals, find_reasons, pick_first_reasons
from curate.face_filters import DEFAULT, FILTER_SETS, RUNGS, STRICT
from curate.people.rungs import count_rungs
from manifests.errors import BadInput
from manifests.ledger.filters import COLUMNS, Filter, FilterSet, PhotoFacts, check_filters, find_removals, list_columns
from manifests.ledger.records import NEAR_DUPLICATE, Face, Pair, Photo

SIZE = PhotoFacts(400, 300)
GOOD = Face(
    "f", "p", (100.0, 100.0, 200.0, 200.0), (0.0,) * 10, None, 0.9, 90.0, 0.0, 0.0, 0.0, 0.5, 1.0, 0.5, 1.0, "0",
    noise=1.0,
)  # fmt: skip
FILTERS = insert_min_score(DEFAULT, 0.5)


def one(face: Face, filters: FilterSet = FILTERS, size: PhotoFacts = SIZE) -> str | None:
    return find_reasons([face], [size], filters)[0]


def of(*predicates: str) -> FilterSet:
    return FilterSet("mine", 1, tuple(Filter(f"reason_{n}", sql) for n, sql in enumerate(predicates)))


@pytest.mark.parametrize("name", FILTER_SETS)
def test_a_good_face_passes_every_built_in_set(name):
    filters = insert_min_score(load_filters(name), 0.5)
    check_filters(filters)
    assert one(GOOD, filters) is None


EDGES = [
    ("too_small", {"inter_ocular_px": 15.9}, {"inter_ocular_px": 16.0}),
    ("low_score", {"det_score": 0.49}, {"det_score": 0.5}),
    ("turn_unclear", {"turn": None}, {"turn": 270}),
    ("landmarks_do_not_fit", {"landmark_error": 0.31}, {"landmark_error": 0.29}),
    ("turned_away", {"yaw": 75.1}, {"yaw": 75.0}),
    ("turned_away", {"yaw": -75.1}, {"yaw": -75.0}),
    ("turned_away", {"pitch": 60.1}, {"pitch": 60.0}),
    ("turned_away", {"pitch": -60.1}, {"pitch": -60.0}),
    ("too_blurred", {"sharpness": 0.119}, {"sharpness": 0.12}),
    ("too_dark", {"exposure": 0.079}, {"exposure": 0.08}),
    ("too_bright", {"exposure": 0.951}, {"exposure": 0.95}),
    ("cut_by_border", {"box": (-26.0, 100.0, 74.0, 200.0)}, {"box": (-25.0, 100.0, 75.0, 200.0)}),
    ("cut_by_border", {"box": (326.0, 100.0, 426.0, 200.0)}, {"box": (325.0, 100.0, 425.0, 200.0)}),
    ("cut_by_border", {"box": (100.0, -26.0, 200.0, 74.0)}, {"box": (100.0, -25.0, 200.0, 75.0)}),
    ("cut_by_border", {"box": (100.0, 226.0, 200.0, 326.0)}, {"box": (100.0, 225.0, 200.0, 325.0)}),
]


@pytest.mark.parametrize(("reason", "bad", "just"), EDGES)
def test_each_reason_one_by_one(reason, bad, just):
    assert one(replace(GOOD, **bad)) == reason
    assert one(replace(GOOD, **just)) is None


def test_every_reason_has_a_test_and_none_is_another_stages():
    assert {reason for reason, *_ in EDGES} == {rule.reason for rule in DEFAULT.filters}
    assert not BUILT_IN_REASONS & RESERVED
    assert {NEAR_DUPLICATE, reasons.PHOTO_VANISHED, reasons.NOT_FOUND_AGAIN, reasons.CROP_MISSING} <= RESERVED


def test_roll_is_never_a_reason():
    assert one(replace(GOOD, roll=180.0)) is None


def chain(face: Face, size: PhotoFacts, least_score: float) -> str | None:
    """Returns the reason to drop a face, or None, by Python code that is older than the SQL of the default filters."""
    if face.inter_ocular_px < 16:
        return "too_small"
    if face.det_score < least_score:
        return "low_score"
    x0, y0, x1, y1 = face.box
    outside = max(-x0 / (x1 - x0 + 1e-6), (x1 - size[0]) / (x1 - x0 + 1e-6),
                  -y0 / (y1 - y0 + 1e-6), (y1 - size[1]) / (y1 - y0 + 1e-6))  # fmt: skip
    if outside > 0.25:
        return "cut_by_border"
    if abs(face.yaw) > 75 or abs(face.pitch) > 60:
        return "turned_away"
    if face.sharpness < 0.12:
        return "too_blurred"
    return "too_dark" if face.exposure < 0.08 else "too_bright" if face.exposure > 0.95 else None


def around(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, width=32)


# The corners are at thirds of a pixel, so no box ends exactly at the border of a photo. At the border, `chain` and the
# SQL filters differ, because `chain` has a tolerance of 1e-6.
CORNERS = st.tuples(*[st.integers(-150, 600).map(lambda n: n + 1 / 3)] * 2, *[st.integers(1, 300)] * 2)
FACES = st.builds(
    lambda corner, **measures: replace(
        GOOD, box=(corner[0], corner[1], corner[0] + corner[2], corner[1] + corner[3]), **measures
    ),
    CORNERS,
    inter_ocular_px=around(8, 64),
    det_score=around(0.25, 1),
    yaw=around(-90, 90),
    pitch=around(-90, 90),
    sharpness=around(0.0625, 0.5),
    exposure=around(0, 1),
)


@given(st.lists(FACES, max_size=20), st.sampled_from([0.3, 0.5]))
def test_the_default_set_says_what_the_chain_of_ifs_said(faces, least_score):
    # Faces with exactly these values are left out, because 32-bit and 64-bit numbers compare differently there.
    at_a_threshold = np.float32([0.12, 0.08, 0.95, 0.3])
    faces = [face for face in faces if not np.isin(np.float32([face.sharpness, face.exposure, face.det_score]),
                                                   at_a_threshold).any()]  # fmt: skip
    found = find_reasons(faces, [SIZE] * len(faces), insert_min_score(DEFAULT, least_score))
    assert found == [chain(face, SIZE, least_score) for face in faces]


def test_faces_are_compared_as_the_ledger_keeps_them():
    # As a 32-bit float, .12 is less than as a 64-bit float. Detection gets the 64-bit number, and a later screening
    # gets the 32-bit number from the ledger. Both must give the same result.
    assert one(replace(GOOD, sharpness=0.12)) is None is one(replace(GOOD, sharpness=float(np.float32(0.12))))


def test_no_faces_and_no_filters():
    assert find_reasons([], [], FILTERS) == []
    assert find_reasons([GOOD], [SIZE], of()) == [None]
    assert count_removals(find_removals([GOOD], [SIZE], of()), of())["kept"] == 1


def test_what_each_filter_removed_is_counted_three_ways():
    filters = of("yaw > 10", "pitch > 10", "noise > 5")
    faces = [GOOD, replace(GOOD, yaw=20.0), replace(GOOD, yaw=20.0, pitch=20.0), replace(GOOD, pitch=20.0)]
    removed = find_removals(faces, [SIZE] * 4, filters)
    assert pick_first_reasons(removed, filters) == [None, "reason_0", "reason_0", "reason_1"]
    told = count_removals(removed, filters)
    assert (told["name"], told["version"], told["faces"], told["kept"]) == ("mine", 1, 4, 1)
    assert [(rule["first"], rule["alone"], rule["only"]) for rule in told["filters"]] == [
        (2, 2, 1), (1, 2, 1), (0, 0, 0)
    ]  # fmt: skip
    assert sum(rule["first"] for rule in told["filters"]) + told["kept"] == len(faces)


def test_an_unknown_measure_keeps_the_face():
    unmeasured = replace(GOOD, noise=None)
    assert one(unmeasured, of("noise > 0", "NOT noise < 100")) is None
    assert one(unmeasured, of("noise IS NULL")) == "reason_0"


@pytest.mark.parametrize(
    "sql",
    [
        "yaw BETWEEN 1 AND 2 OR pitch IN (1, 2)",
        "CASE WHEN width > height THEN yaw > 40 ELSE pitch > 40 END",
        "YAW > 400 -- a remark",
        "least(width, height) < 20 OR box[1]::INTEGER > 1000",
        "coalesce(noise, 0) * upsample > 90 AND NOT (roll = 0)",
    ],
)
def test_an_expression_over_one_face_is_taken(sql):
    check_filters(of(sql))
    assert one(GOOD, of(sql, "true")) == "reason_1"


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("", "instead of true or false"),
        ("-- nothing", "instead of true or false"),
        ("yaw > 1, pitch > 1", "instead of true or false"),
        ("yaw >", "is not an SQL expression"),
        ("yaw > 1; DROP TABLE x", "is not an SQL expression"),
        ("yaw > 1) FROM faces WHERE (true", "more than one expression"),
        ("yaw > 1), (pitch > 1", "more than one expression"),
        ("yaw > 1) OFFSET (0", "more than one expression"),
        ("sharpness < 1) OR (1=1", "not an SQL expression"),
        ("yaw > 1) IS NOT DISTINCT FROM (true", "not an SQL expression"),
        ("jaw > 1", r"names jaw, which is not a column of a face: the columns are det_score, .*height"),
        ("faces.yaw > 1", "names faces.yaw"),
        ("reason = 'too_small'", "names reason"),
        ("inter_ocular_px", "gives FLOAT instead of true or false"),
        ("NULL", "instead of true or false"),
        ("yaw > 'far'", "cannot be evaluated"),
        ("box > 3", "cannot be evaluated"),
        ("cosine(yaw) > 1", "calls cosine"),
        ("random() > 0.5", "calls random"),
        ("now() > DATE '2020-01-01'", "calls now"),
        ("count(*) > 1", "calls count_star"),
        ("max(yaw) > 1", "calls max"),
        ("row_number() OVER () > 1", "window is not allowed"),
        ("(SELECT true)", "subquery is not allowed"),
        ("EXISTS (FROM read_text('/etc/passwd'))", "is not allowed"),
        ("(SELECT content FROM read_text('/etc/passwd')) LIKE 'r%'", "is not allowed"),
        ("yaw > (SELECT count(*) FROM '/etc/passwd')", "is not allowed"),
        ("read_text('/etc/passwd') IS NULL", "calls read_text"),
        ("getenv('HOME') = '/root'", "calls getenv"),
        ("current_setting('threads') = 1", "calls current_setting"),
        ("COLUMNS(*) > 1", "star is not allowed"),
        ("yaw > ?", "parameter is not allowed"),
        ("yaw > $1", "parameter is not allowed"),
        ("list_filter(box, lambda yaw: yaw > 1)[1] > 2", "lambda is not allowed"),
        ("(" * 5000 + "yaw > 1" + ")" * 5000, "is not an SQL expression"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(sql, said):
    with pytest.raises(BadInput, match=said) as refused:
        check_filters(of("yaw > 80", sql))
    assert "reason_1" in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 500


@example("EXPOSURE<0")
@given(st.text(max_size=30))
def test_no_text_does_anything_but_pass_or_be_refused(sql):
    try:
        check_filters(of(sql))
    except BadInput as refused:
        assert "reason_0" in str(refused)
    else:
        assert list_columns(of(sql)) <= set(COLUMNS)


def test_a_predicate_that_fails_on_a_face_is_named():
    filters = of("yaw > 80", "(inter_ocular_px * 2)::TINYINT > 1")
    check_filters(filters)
    with pytest.raises(BadInput, match=r"'mine': the predicate of reason_1, .* fails on a face: "):
        one(GOOD, filters)


def test_the_detectors_own_score_is_written_into_the_set():
    assert insert_min_score(DEFAULT, 0.3).filters[1] == Filter("low_score", "det_score < 0.3")
    negative = insert_min_score(DEFAULT, -0.25)
    check_filters(negative)
    assert one(replace(GOOD, det_score=-0.2), negative) is None
    assert one(replace(GOOD, det_score=-0.3), negative) == "low_score"


def test_a_least_distance_replaces_the_sets_own_or_comes_first():
    larger = set_min_inter_ocular(FILTERS, 100)
    assert one(GOOD, larger) == "too_small" and larger.name == "default, min inter-ocular 100"
    assert [rule.reason for rule in larger.filters] == [rule.reason for rule in FILTERS.filters]
    assert [rule.reason for rule in set_min_inter_ocular(of("yaw > 1"), 10.5).filters] == ["too_small", "reason_0"]
    for senseless in (float("nan"), float("inf")):
        with pytest.raises(BadInput, match="--min-inter-ocular"):
            set_min_inter_ocular(FILTERS, senseless)


def test_strict_removes_whatever_default_removes():
    for reason, bad, _ in EDGES:
        assert one(replace(GOOD, **bad)) == reason
        assert one(replace(GOOD, **bad), insert_min_score(STRICT, 0.5)) is not None


def test_each_rung_accepts_only_what_the_rung_before_accepts():
    good = replace(GOOD, outside=0.02, upsample=1.0)
    facts = PhotoFacts(400, 300, 90, False)
    for changes, last in (
        ({}, "hq512"),
        ({"upsample": 1.01}, "hq256"),
        ({"upsample": 2.01}, "default"),
        ({"outside": 0.021}, "strict"),
    ):
        face = replace(good, **changes)
        accepted = [find_reasons([face], [facts], insert_min_score(rung, 0.5)) == [None] for rung in RUNGS]
        names = [rung.name for rung in RUNGS]
        assert accepted == [place <= names.index(last) for place in range(len(names))], changes
    pairs = [Pair("f", ("g", "h"), (0.5, 0.5), "random", "train"), Pair("g", ("f",), (0.5,), "random", "train")]
    faces = [good, replace(good, face_id="g", upsample=1.5), replace(good, face_id="h")]
    photos = {"p": Photo("p", 400, 300, "0" * 16)}
    assert count_rungs(pairs, faces, photos, 0.5) == {"default": 2, "strict": 2, "hq256": 2, "hq512": 1}


def test_a_filter_may_use_the_detail_and_what_the_photo_is():
    mine = of("detail < .1", "clipped > .2", "gray", "jpeg_quality < 50", "dark > .3")
    check_filters(mine)
    face = replace(GOOD, detail=0.2, clipped=0.0, dark=0.1)
    for photo, reason in ((PhotoFacts(9, 9, 40, False), "reason_3"), (PhotoFacts(9, 9, None, True), "reason_2")):
        assert find_reasons([face], [photo], mine) == [reason]
    faces = [face, replace(face, detail=0.05), replace(face, dark=0.4)]
    assert find_reasons(faces, [PhotoFacts(9, 9)] * 3, mine) == [None, "reason_0", "reason_4"]


MINE = """
name = "mine"
version = 2
[[filter]]
reason = "too_noisy"
sql = "noise > 8"  # a remark
[[filter]]
reason = "unsure"
sql = \"\"\"
    det_score < detector_min_score
    OR det_score IS NULL
\"\"\"
"""


def test_a_set_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    found = load_filters(str(path))
    assert (found.name, found.version, [rule.reason for rule in found.filters]) == ("mine", 2, ["too_noisy", "unsure"])
    assert one(replace(GOOD, det_score=0.4), insert_min_score(found, 0.5)) == "unsure"
    assert one(replace(GOOD, noise=9.0, det_score=0.4), insert_min_score(found, 0.5)) == "too_noisy"


@pytest.mark.parametrize(
    ("lines", "reasons"),
    [
        ("", ["outside_photo"]),
        ("test_filter = []", []),
        ('[[test_filter]]\nreason = "small"\nsql = "width < 99"', ["small"]),
    ],
)
def test_a_set_of_ones_own_says_which_faces_are_no_test_targets(tmp_path, lines, reasons):
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\nversion = 1\n{lines}\n' + RULE.format("a", "yaw > 1"))
    assert [rule.reason for rule in load_filters(str(path)).test_filters] == reasons


def test_built_in_sets_say_which_faces_are_no_test_targets():
    assert [rule.sql for rule in load_filters("strict").test_filters] == ["outside > 0.1"]
    assert load_filters("keep-outside").test_filters == () and load_filters("keep-outside").filters == DEFAULT.filters


RULE = '[[filter]]\nreason = "{}"\nsql = "{}"\n'
HEAD = 'name = "mine"\nversion = 1\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        ("version = 1\n" + RULE.format("a", "yaw > 1"), "has no valid name"),
        ('name = ""\nversion = 1\n' + RULE.format("a", "yaw > 1"), "has no valid name"),
        ('name = "default"\nversion = 1\n' + RULE.format("a", "yaw > 1"), "has the name of the built-in set default"),
        ('name = "mine"\n' + RULE.format("a", "yaw > 1"), "has no valid version"),
        ('name = "mine"\nversion = "1"\n' + RULE.format("a", "yaw > 1"), "has no valid version"),
        ('name = "mine"\nversion = true\n' + RULE.format("a", "yaw > 1"), "has no valid version"),
        (HEAD, r"has no tables \[\[filter\]\]"),
        (HEAD + "filter = 3", r"has no tables \[\[filter\]\]"),
        (HEAD + "colour = 3\n" + RULE.format("a", "yaw > 1"), "colour is unknown"),
        (HEAD + '[[filter]]\nreason = "a"', "number 1 must contain only a reason and its sql"),
        (HEAD + '[[filter]]\nreason = "a"\nsql = 3', "number 1 must contain only a reason and its sql"),
        (HEAD + RULE.format("a", "yaw > 1") + "keep = true", "number 1 must contain only a reason and its sql"),
        (HEAD + RULE.format("Too big!", "yaw > 1"), "the reason 'Too big!'"),
        (HEAD + RULE.format("near_duplicate", "yaw > 1"), "belongs to another stage"),
        (HEAD + RULE.format("a", "yaw > 1") + RULE.format("a", "yaw > 2"), "the reason a twice"),
        (HEAD + RULE.format("a", "jaw > 1"), "names jaw"),
        (HEAD + "test_filter = 3\n" + RULE.format("a", "yaw > 1"), r"has no tables \[\[test_filter\]\]"),
        (HEAD + '[[test_filter]]\nreason = "b"\n' + RULE.format("a", "yaw > 1"), r"\[\[test_filter\]\] number 1 must"),
        (HEAD + RULE.format("outside_photo", "yaw > 1"), "the reason outside_photo twice"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput, match=said) as refused:
        load_filters(str(path))
    assert "\n" not in str(refused.value)


def test_a_set_that_is_not_there(tmp_path):
    for name in ("lenient", str(tmp_path), str(tmp_path / "no.toml")):
        with pytest.raises(
            BadInput, match=r"is unknown\. Give default, strict, hq256, hq512, keep-outside, or the path"
        ):
            load_filters(name)
