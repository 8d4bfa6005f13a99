import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degrade.operations import check_theta
from degrade.presets import PRESETS, draw, find_preset, seeded
from manifests.errors import BadInput


def steps(theta: dict) -> dict[str, dict]:
    return {step["op"]: step for step in theta["steps"]}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(PRESETS)), st.integers(-(2**63), 2**63 - 1), st.text(max_size=8))
def test_a_draw_is_complete_plain_json_and_inside_its_ranges(name, seed, key):
    preset = PRESETS[name]
    theta = draw(preset, seed, key)
    check_theta(theta)
    assert json.loads(json.dumps(theta)) == theta and theta == draw(preset, seed, key)
    found = steps(theta)
    assert preset.down[0] <= found["downsample"]["factor"] <= preset.down[1]
    if preset.blur:
        blur = found["blur"]
        assert all(preset.blur[0] <= blur[key] <= preset.blur[1] for key in ("sigma_x", "sigma_y"))
        assert blur["size"] == 41 and -np.pi <= blur["angle"] <= np.pi
        assert blur["kernel"] == "aniso" or blur["sigma_x"] == blur["sigma_y"]
    if preset.noise:
        assert preset.noise[0] <= found["noise"]["sigma"] <= preset.noise[1]
    if preset.jpeg:
        assert type(found["jpeg"]["quality"]) is int
        assert preset.jpeg[0] <= found["jpeg"]["quality"] < preset.jpeg[1]


def test_the_published_numbers_stand_in_the_table():
    gfpgan, codeformer, bicubic = PRESETS["gfpgan"], PRESETS["codeformer"], PRESETS["bicubic-x8"]
    assert (gfpgan.blur, gfpgan.down, gfpgan.noise, gfpgan.jpeg) == ((0.1, 10), (0.8, 8), (0, 20), (60, 100))
    assert (gfpgan.shift, gfpgan.jitter, gfpgan.gray) == ((0.3, 20), 0.3, 0.01)
    assert (codeformer.blur, codeformer.down) == ((0.1, 10), (1, 12))
    assert (codeformer.noise, codeformer.jpeg) == ((0, 15), (60, 100))
    assert (codeformer.shift[0], codeformer.jitter, codeformer.gray) == (0, 0, 0)
    assert [step["op"] for step in draw(bicubic, 0, "x")["steps"]] == ["downsample", "quantise", "upsample"]
    assert draw(bicubic, 0, "x")["steps"][0]["factor"] == 8


def test_draws_cover_their_ranges_and_probabilities():
    thetas = [draw(PRESETS["gfpgan"], 0, str(number)) for number in range(3000)]
    found = [steps(theta) for theta in thetas]
    qualities = {each["jpeg"]["quality"] for each in found}
    assert qualities == set(range(60, 100))
    share = {op: np.mean([op in each for each in found]) for op in ("shift", "gray", "hue", "contrast")}
    assert abs(share["shift"] - 0.3) < 0.03 and abs(share["hue"] - 0.3) < 0.03 and share["hue"] == share["contrast"]
    assert 0.003 < share["gray"] < 0.02
    assert abs(np.mean([each["blur"]["kernel"] == "iso" for each in found]) - 0.5) < 0.03
    orders = {tuple(step["op"] for step in theta["steps"][-4:]) for theta in thetas if "hue" in steps(theta)}
    assert len(orders) == 24
    assert [step["op"] for step in thetas[0]["steps"][:5]] == ["blur", "downsample", "noise", "jpeg", "upsample"]


def test_a_draw_depends_on_seed_preset_and_key_alone():
    gfpgan = PRESETS["gfpgan"]
    draws = [draw(gfpgan, 0, "a"), draw(gfpgan, 1, "a"), draw(gfpgan, 0, "b"), draw(PRESETS["codeformer"], 0, "a")]
    factors = [steps(theta)["downsample"]["factor"] for theta in draws]
    assert len(set(factors)) == 4
    seeds = {steps(draw(gfpgan, 0, str(number)))["noise"]["seed"] for number in range(500)}
    assert len(seeds) == 500


def test_the_first_draw_is_pinned():
    # frozen sets made elsewhere depend on these very numbers: a change here needs a new θ version or a new preset name
    assert seeded(0, "degrade", "gfpgan", "face").integers(2**32, size=3).tolist() == [
        3237672311,
        3136114611,
        4196560415,
    ]


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(BadInput, match="gfpgan, codeformer, bicubic-x8"):
        find_preset("gfpgam")
