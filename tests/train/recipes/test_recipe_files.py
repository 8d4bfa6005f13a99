"""Tests that a recipe is the same after it was written and read, and that keys like loss.edge work.

The file also tests the error messages.
"""

import json
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degrade.preset_files import describe_preset, read_preset_table
from degrade.presets import PRESETS
from degrade.sampling import make_generator
from manifests.errors import BadInput
from tests.doubles.training import SMALL
from tests.places import Run
from train.data.sampling import draw_preset_name
from train.losses.names import LOSSES, OF_DICTIONARY
from train.models.config import MOST_STEPS
from train.recipes.recipe_files import (
    RECIPE_FILE,
    build_recipe,
    change_recipe,
    format_recipe,
    read_recipe,
    split_change,
    tabulate,
    use_preset,
)
from train.recipes.recipes import DIFFUSION, PARTS, RECIPES, STYLEGAN_RECIPES, TINY, Recipe, find_recipe
from train.recipes.training_presets import MILD, TRAINING_PRESETS, find_training_preset

SHARES = st.floats(0, 0.3)
WEIGHTS = st.dictionaries(st.sampled_from([name for name in LOSSES if name not in OF_DICTIONARY]), st.floats(1e-6, 1e6))
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(st.characters(exclude_categories=["Cs", "Cc", "Z", "Cf", "Cn", "Co"]), min_size=1),
        "preset": st.sampled_from(TRAINING_PRESETS),
        "mixture": st.dictionaries(st.sampled_from(TRAINING_PRESETS), SHARES, max_size=3),
        "gray_share": st.floats(0, 1),
        "identity_jitter": st.floats(0, 0.25),
        "parts": st.lists(st.sampled_from(PARTS), unique=True),
        "timestep": st.integers(MOST_STEPS, 999),
        "reference_counts": st.lists(st.integers(0, 9), min_size=1),
        "loss": WEIGHTS.filter(bool),
        "limit_resolution": st.booleans(),
        "images": st.integers(1, 10**12),
        "rate": st.floats(1e-9, 1),
        "presets": st.dictionaries(
            st.sampled_from(["mine", "my.own"]),
            st.sampled_from([{k: v for k, v in describe_preset(p).items() if k != "name"} for p in PRESETS.values()]),
        ),
    },
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@given(name=st.sampled_from(RECIPES), base=st.sampled_from([TINY, DIFFUSION]), changes=CHANGES)
@settings(max_examples=30)
def test_a_recipe_is_equal_after_writing_and_reading(name: str, base: str, changes: dict[str, Any]) -> None:
    usual = find_recipe(name, None if name in STYLEGAN_RECIPES else base)
    if name in STYLEGAN_RECIPES:  # the base stylegan allows only some parts and sizes
        changes = {key: value for key, value in changes.items() if key not in ("parts", "size")}
    if name == "vre":  # the name and the losses of recipe vre cannot be changed
        changes = {key: value for key, value in changes.items() if key not in ("name", "loss")}
    if not usual.discriminator and "gan" in changes.get("loss", {}):  # the loss gan needs a discriminator
        changes = {key: value for key, value in changes.items() if key != "loss"}
    changed = build_recipe("here", {**tabulate(usual), **changes})
    assert build_recipe("there", tomllib.loads(format_recipe(changed))) == changed
    assert build_recipe("there", tomllib.loads(format_recipe(usual))) == usual


def test_the_numbers_of_a_preset_survive_their_table() -> None:
    for preset in PRESETS.values():
        again = read_preset_table("here", json.loads(json.dumps(describe_preset(preset))))
        assert [again.sample(make_generator(i)) for i in range(20)] == [
            preset.sample(make_generator(i)) for i in range(20)
        ]


def test_a_missing_key_has_the_value_of_the_named_recipe_and_a_table_is_replaced(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.toml", 'name = "tiny"\nsize = 128\n[loss]\npixel = 1\nedge = 0\n')
    assert read_recipe(mine) == replace(find_recipe("tiny"), size=128, latent_factor=4, losses={"pixel": 1.0})
    other = write(tmp_path / "other.toml", 'name = "osdface"\nbase = "diffusion"\n')
    assert read_recipe(other) == find_recipe("osdface", DIFFUSION)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tiny", "loss.gan=1", "the loss gan needs a discriminator"),
        ("tiny", "r1=10", "only the discriminator .stylegan. has R1"),
        ("tiny", "base=stylegan", "does not run on the base stylegan: take refine or refine-small"),
        ("tiny", "discriminator=stylegan", "channel_limit is 0; the networks of stylegan need 1 or more"),
        ("refine", "base=tiny", "needs no base: leave --base-model out. Recipe refine-unet runs on a base"),
        ("refine", "size=96", "size is 96; the networks of stylegan have the sizes 64, 128, 256, 512"),
        ("refine", "parts=['warped']", "can have the parts warped, mesh, embedding, and it needs embedding"),
        ("refine", "parts=['maps', 'embedding']", "and it cannot have maps"),
        ("refine", "denoise=true", "the base stylegan cannot be a denoiser"),
        ("idm", "timestep=49", "a denoiser takes up to 50 steps, so it must be 50 or more"),
    ],
)
def test_a_recipe_that_its_networks_cannot_train_is_a_sentence(name: str, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        change_recipe(
            find_recipe(name, None if name in STYLEGAN_RECIPES else TINY),
            f"--change {text}",
            *split_change("--change", text),
        )


def test_a_change_has_a_path_and_the_latent_factor_follows_the_size() -> None:
    tiny = find_recipe("tiny")
    for text, expected in (
        ("loss.identity=2", replace(tiny, losses={**tiny.losses, "identity": 2.0})),
        ("loss.edge=0", replace(tiny, losses={name: weight for name, weight in tiny.losses.items() if name != "edge"})),
        ("parts=['maps']", replace(tiny, parts=("maps",))),
        ("preset=severe", replace(tiny, preset="severe")),
        ("size=128", replace(tiny, size=128, latent_factor=4)),
        ("latent_factor=4", replace(tiny, latent_factor=4)),
        ("vre.tokens=9", replace(tiny, vre=replace(tiny.vre, tokens=9))),
    ):
        assert change_recipe(tiny, "--change", *split_change("--change", text)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batc=2", "no key 'batc'. The nearest name is batch."),
        ("loss.idenity=2", "The nearest name is identity."),
        ("los.identity=2", "no key 'los'. The nearest name is loss."),
        ("losses.identity=2", "The nearest name is loss."),
        ("vre.token=2", "The nearest name is tokens."),
        ("batch.x=2", "batch is one value"),
        ("batch=eight", "batch is 'eight'; it must be a whole number."),
        ("batch=true", "it must be a whole number"),
        ("batch=0", "it must be 1 or more"),
        ("rate=nan", "it must be a finite number"),
        ("gray_share=2", "it must be from 0 to 1"),
        ("vre=3", "it must be a table"),
        ("parts=maps", "it must be a list"),
        ("parts=['map']", "The nearest name is maps."),
        ("preset=codefromer", "The nearest name is codeformer."),
        ("preset=a.toml", "--preset a.toml"),
        ("mixture.mil=.5", "'.5'; it must be a number"),
        ("mixture.mil=0.1", "The nearest name is mild."),
        ("mixture.mild=0.9", "add up to 1.2"),
        ("size=100", "a multiple of 32"),
        ("latent_factor=7", "latent_factor is 7; with refine_channels, it must be a multiple of 2"),
        ("latent_factor=6", "with latent_factor 6, it must be a multiple of 24"),
        ("discriminator=latnt", "The nearest name is latent. An empty text is also valid."),
        ("loss.codebook=1", "belongs to recipe vre"),
        ("reference_counts=[]", "is empty"),
        ("batch", "has no value"),
    ],
)
def test_a_wrong_change_is_one_sentence_with_the_nearest_name(text: str, said: str) -> None:
    with pytest.raises(BadInput) as error:
        change_recipe(find_recipe("tiny"), f"--change {text}", *split_change("--change", text))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_refinement_at_half_size_needs_an_even_size() -> None:
    flat = replace(find_recipe("tiny"), channels=(16,), latent_factor=1, size=33)
    with pytest.raises(BadInput, match="it must be a multiple of 2"):
        change_recipe(flat, "--batch 4", *split_change("--change", "batch=4"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch = ", "is not valid TOML"),
        ("batch = 8", "has no name"),
        ('name = "mine"\nbatch = 8', "mine needs all keys"),
        ('name = "osdface"', "needs a base"),
        ('name = "tiny"\n[loss]\npixl = 1', "mine.toml: 'pixl' is not valid for loss. The nearest name is pixel."),
        ('name = "tiny"\n[presets.mild]\ndown = [1, 2]\nresize = "area"', "belongs to a built-in preset"),
        ('name = "tiny"\n[presets.a]\ndown = [1, 2]\nresize = "are"', "presets.a: resize is 'are'"),
        ('name = "tiny"\n[vre]\nsize = 1', "vre has no channels"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput) as error:
        read_recipe(write(tmp_path / "mine.toml", text))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_folder_of_a_run_or_of_a_checkpoint_gives_its_recipe(tmp_path: Path) -> None:
    mine = replace(SMALL, presets={"p": {"down": [2, 4], "resize": "area"}}, preset="p")
    (tmp_path / "checkpoint").mkdir()
    write(tmp_path / "config.json", json.dumps({"recipe": asdict(mine)}))
    write(tmp_path / "checkpoint" / RECIPE_FILE, format_recipe(mine))
    assert read_recipe(tmp_path) == read_recipe(tmp_path / "checkpoint") == mine
    for text, said in (('{"recipe": "tiny"}', "contains no recipe"), ("{", "is not valid JSON")):
        write(tmp_path / "config.json", text)
        with pytest.raises(BadInput, match=said):
            read_recipe(tmp_path)


def test_a_preset_file_is_read_once_and_its_numbers_stay_in_the_recipe(tmp_path: Path) -> None:
    file = write(tmp_path / "foggy.toml", 'down = [2, 3]\nresize = "area"\nblur = [1, 2]\n')
    mine = use_preset(replace(find_recipe("tiny"), mixture={}), str(file))
    file.unlink()
    again: Recipe = build_recipe("here", tomllib.loads(format_recipe(mine)))
    assert again == mine and mine.preset == "foggy"
    assert find_training_preset(draw_preset_name(again, 0, 0, "face", True), again.presets).blur == (1, 2)
    assert use_preset(use_preset(mine, "severe"), "foggy") == mine
    with pytest.raises(BadInput, match="belongs to a built-in preset"):
        use_preset(mine, str(write(tmp_path / f"{MILD.name}.toml", 'down = [2, 3]\nresize = "area"\n')))


def test_train_shows_the_recipe_without_a_dataset_and_reads_it_again(tmp_path: Path, command: Run) -> None:
    words = ("--size", 128, "--batch", 8, "--rate", 5e-4, "--loss", "identity=2", "--change", "images=800")
    shown = command("train", "--show-recipe", *words)
    assert shown.returncode == 0, shown.stderr
    mine = read_recipe(write(tmp_path / "mine.toml", shown.stdout))
    assert (mine.size, mine.latent_factor, mine.batch, mine.rate) == (128, 4, 8, 5e-4)
    assert (mine.losses["identity"], mine.images) == (2.0, 800)
    assert command("train", tmp_path, "--recipe", tmp_path / "mine.toml", "--show-recipe").stdout == shown.stdout
    for words, said in (((), "The dataset is missing"), ((tmp_path,), "The folder for the run is missing")):
        done = command("train", *words)
        assert done.returncode == 2 and said in done.stderr
    text = shown.stdout.replace('base = "tiny"', 'base = "diffusion"').replace("latent_factor = 4", "latent_factor = 8")
    big = write(tmp_path / "big.toml", text)
    done = command("train", tmp_path, "--out", tmp_path / "run", "--recipe", big)
    assert done.returncode == 2 and "give --base-model FOLDER" in done.stderr


def test_a_wrong_recipe_is_refused_before_torch_is_imported() -> None:
    code = (
        "import sys; from likeness import main\n"
        "sys.argv = ['likeness', 'train', 'x', '--out', 'y', '--loss', 'idenity=2', '--preset', 'severe']\n"
        "try: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"] and "The nearest name is identity." in done.stderr
