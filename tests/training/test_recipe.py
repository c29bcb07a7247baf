import dataclasses
import re
from typing import get_type_hints

import pytest
import yaml
from cli.support import ROOT, flags, run, train_flags, write_index

from mg.cli import train
from mg.cli.command import parse, settings_parser
from mg.training.recipe import Recipe, check_continues

pytestmark = pytest.mark.once

PATHS = {"csv_path": "videos.csv", "video_folder": "videos", "output_path": "run"}
RECIPES = sorted((ROOT / "configs" / "tae" / "train").glob("*.yaml"))


def read(*args):
    return parse(settings_parser(Recipe, ""), Recipe, [str(arg) for arg in args])


def write_yaml(path, **keys):
    path.write_text(yaml.safe_dump(keys))
    return path


def test_help_has_a_line_for_every_key(capsys):
    outcome = run(train.command, ["--help"], capsys)
    assert outcome.code == 0
    text = " ".join(" ".join(outcome.out).split())
    for field in dataclasses.fields(Recipe):
        option = re.search(rf"--{field.name} (?:{field.name.upper()}|[{{\[]\S+) (.*?)\(", text)
        assert option, field.name
        assert len(option[1].split()) >= 2, f"{field.name} is not explained"


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    config = write_yaml(tmp_path / "a.yaml", **PATHS, perceptual_weight=0, batch_size=3, seed=4)
    for args in (("--config", config, "--seed", 5), ("--seed", 5, f"--config={config}")):
        recipe = read(*args)
        assert (recipe.batch_size, recipe.seed) == (3, 5)
    assert recipe.num_frames == Recipe(**PATHS, perceptual_weight=0).num_frames


def test_the_seeds_flag_turns_the_outlier_penalty_on():
    common = flags(**PATHS, perceptual_weight=0)
    assert read(*common).loss_weights()["outlier_penalty"] == 0
    recipe = read(*common, "--use_outlier_penalty_loss", "True")
    assert recipe.loss_weights()["outlier_penalty"] == 1e5


def test_loss_weights_are_the_recipes():
    recipe = Recipe(
        **PATHS,
        reconstruction_weight=2,
        perceptual_weight=3,
        lpips_weights="x.safetensors",
        kl_weight=4,
        use_outlier_penalty_loss=True,
        opl_weight=5,
    )
    assert recipe.loss_weights() == {
        "reconstruction": 2,
        "perceptual": 3,
        "kl": 4,
        "outlier_penalty": 5,
    }


def test_a_written_recipe_reads_back_the_same(tmp_path):
    changed = {
        "tae_config": {"ch": 8, "ch_mult": [1, 2], "norm_scope": "clip"},
        "betas": (0.5, 0.9),
        "compile": False,
        "kl_weight": 1e-7,
        "perceptual_weight": 0.0,
        "scheduler": "cosine",
        "mixed_strategy": "mixed_video_random",
        "random_flip": True,
    }
    for keys in ({"perceptual_weight": 0.0}, changed):
        recipe = Recipe(**PATHS, **keys)
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe.to_yaml())
        assert read("--config", path) == recipe


def test_a_run_begun_before_a_key_existed_had_its_default():
    recipe = Recipe(**PATHS, perceptual_weight=0)
    before = yaml.safe_load(recipe.to_yaml())
    for key in ("betas", "ema_decay", "disc_weight", "disc_ndf", "colour_start", "max_zoom"):
        del before[key]
    assert check_continues(before, recipe) == {}
    with pytest.raises(ValueError, match="ema_decay was 0.0 and is 0.5"):
        check_continues(before, Recipe(**PATHS, perceptual_weight=0, ema_decay=0.5))


def test_exponents_in_a_file_are_numbers(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("learning_rate: 1e-5\nkl_weight: 1e-6\nperceptual_weight: 0\n")
    recipe = read("--config", path, *flags(**PATHS))
    assert (recipe.learning_rate, recipe.kl_weight) == (1e-5, 1e-6)


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_is_read(path):
    recipe = read("--config", path, *flags(**PATHS, lpips_weights="lpips.safetensors"))
    assert recipe.output_path == "run"
    for key, value in yaml.safe_load(path.read_text()).items():
        if isinstance(value, int | bool):
            assert getattr(recipe, key) == value


def test_every_number_of_a_recipe_has_a_least():
    kinds = get_type_hints(Recipe)
    numbers = {key for key, kind in kinds.items() if kind in (int, float, int | None)}
    assert numbers > {"batch_size", "kl_weight", "val_num_frames"}
    for key in numbers:
        with pytest.raises(ValueError, match=f"^{key}"):
            Recipe(**PATHS, **{"perceptual_weight": 0.0, key: -1})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learning_speed": 1}, ("learning_speed",)),
        ({"image_size": "large"}, ("image_size is 'large', expected a whole number",)),
        ({"batch_size": 1.5}, ("batch_size is '1.5', expected a whole number",)),
        ({"val_num_frames": "x"}, ("val_num_frames is 'x', expected a whole number or null",)),
        ({"random_crop": 3}, ("random_crop is '3', expected true or false",)),
        ({"betas": "[0.9]"}, ("betas is '[0.9]', expected [a number, a number]",)),
        ({"betas": "[0.9,1]"}, ("betas", "[0, 1)")),
        ({"tae_config": "ch"}, ("tae_config is 'ch', expected a mapping",)),
        ({"image_size": 0}, ("image_size is 0", "at least 8")),
        ({"num_frames": 0}, ("num_frames is 0", "at least 1")),
        ({"num_frames": -3}, ("num_frames is -3", "at least 1")),
        ({"train_steps": 0}, ("train_steps is 0", "at least 1")),
        ({"gradient_accumulation_steps": 0}, ("gradient_accumulation_steps is 0", "at least 1")),
        ({"log_interval": 0}, ("log_interval is 0", "at least 1")),
        ({"ckpt_save_steps": -1}, ("ckpt_save_steps is -1", "at least 0")),
        ({"seed": -1}, ("seed is -1", "at least 0")),
        ({"learning_rate": -0.1}, ("learning_rate is -0.1", "at least 0")),
        ({"learning_rate": ".nan"}, ("learning_rate is nan", "finite")),
        ({"learning_rate": ".inf"}, ("learning_rate is inf", "finite")),
        ({"learning_rate": 2}, ("learning_rate is 2.0", "at most 1")),
        ({"kl_weight": 1e39}, ("kl_weight is 1e+39", "finite")),
        ({"optim_eps": 0}, ("optim_eps is 0", "at least 1e-30")),
        ({"val_video_folder": "videos"}, ("val_video_folder", "no val_csv_path")),
        ({"mixed_image_ratio": ".nan"}, ("mixed_image_ratio is nan", "finite")),
        ({"max_grad_norm": -1}, ("max_grad_norm is -1", "at least 0")),
        ({"scheduler": "linear"}, ("scheduler is 'linear'", "constant", "cosine")),
        ({"jit_level": "O2"}, ("jit_level is 'O2'", "O0", "O1")),
        ({"perceptual_weight": 1}, ("perceptual_weight", "lpips_weights", "mg convert-lpips")),
    ],
)
def test_a_wrong_value_is_named_in_one_line_and_nothing_is_written(
    tmp_path, capsys, changes, expected
):
    write_index(tmp_path, ["a.mp4"])
    outcome = run(train.command, train_flags(tmp_path, tmp_path / "run", **changes), capsys)
    outcome.assert_refused(*expected)
    assert not (tmp_path / "run").exists()


def test_a_wrong_key_in_a_file_is_named_in_one_line(tmp_path, capsys):
    config = write_yaml(tmp_path / "a.yaml", learning_speed=1)
    args = ["--config", config, *train_flags(tmp_path, tmp_path / "run")]
    run(train.command, args, capsys).assert_refused("learning_speed")


def test_a_key_that_is_no_text_is_named_with_its_file(tmp_path, capsys):
    config = tmp_path / "a.yaml"
    config.write_text("3: 4\n")
    args = ["--config", config, *train_flags(tmp_path, tmp_path / "run")]
    run(train.command, args, capsys).assert_refused(str(config), "the key 3")


def test_from_python_too_a_choice_is_among_its_names():
    given = {"csv_path": "a.csv", "video_folder": "videos", "output_path": "run"}
    for key in ("dtype", "scheduler", "jit_level", "mixed_strategy"):
        with pytest.raises(ValueError, match=f"{key} is 'x', expected one of"):
            Recipe(**given, perceptual_weight=0, **{key: "x"})


def test_an_option_cut_short_is_an_error(tmp_path, capsys):
    config = write_yaml(tmp_path / "a.yaml", seed=7)
    args = ["--seed", 5, "--conf", config, *train_flags(tmp_path, tmp_path / "run")]
    run(train.command, args, capsys).assert_refused("unrecognized arguments: --conf")


def test_a_missing_file_of_options_is_named_in_one_line(tmp_path, capsys):
    args = ["--config", tmp_path / "none.yaml", *train_flags(tmp_path, tmp_path / "run")]
    run(train.command, args, capsys).assert_refused("none.yaml")


@pytest.mark.parametrize("content", [b"", b"- seed", b"seed: [", b"seed: 1 # \xff", b"\x00"])
def test_a_file_without_options_is_named_in_one_line(tmp_path, capsys, content):
    (tmp_path / "a.yaml").write_bytes(content)
    args = [*train_flags(tmp_path, tmp_path / "run"), "--config", tmp_path / "a.yaml"]
    run(train.command, args, capsys).assert_refused("a.yaml: ", "YAML file")


def test_options_that_have_to_be_given_are_named_in_one_line(capsys):
    run(train.command, [], capsys).assert_refused("csv_path", "video_folder", "output_path")


def test_colours_to_start_from_and_weights_to_start_from_exclude_each_other():
    with pytest.raises(ValueError, match="colour_start is True, but .* pretrained"):
        Recipe(**PATHS, perceptual_weight=0, colour_start=True, pretrained="tae.safetensors")


@pytest.mark.once
@pytest.mark.parametrize(
    ("key", "value"),
    [("colour_start", True), ("disc_ndf", 32), ("disc_layers", 2), ("disc_weight", 0.5)],
)
def test_what_the_state_of_a_run_is_made_of_may_not_change(key, value):
    before = Recipe(output_path="run", csv_path="a.csv", video_folder="a", perceptual_weight=0)
    with pytest.raises(ValueError, match=f"run: its run cannot go on .*: {key} was"):
        check_continues(
            yaml.safe_load(before.to_yaml()), dataclasses.replace(before, **{key: value})
        )


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.once
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("num_frames: !!int ''", "not a YAML file of options"),
        ("num_frames: !!bool x", "not a YAML file of options"),
        ("seed: !!timestamp x", "not a YAML file of options"),
        ("seed: 2001-13-45", "not a YAML file of options"),
        ("[" * 3000, "not a YAML file of options"),
        ("seed: 1\nseed: 2", "the key seed occurs twice"),
        ("tae_config: {ch: 4, ch: 8}", "the key ch occurs twice"),
        ("tae_config: &x {a: *x}", "there is an alias"),
        pytest.param(BOMB, "there is an alias", id="aliases of aliases"),
        ("config: other.yaml", "it has a key config"),
    ],
)
def test_a_file_of_options_that_is_no_plain_yaml_is_refused_at_once(tmp_path, capsys, text, reason):
    (tmp_path / "a.yaml").write_text(text)
    args = ["--config", tmp_path / "a.yaml", *train_flags(tmp_path, tmp_path / "run")]
    run(train.command, args, capsys).assert_refused("a.yaml", reason)
