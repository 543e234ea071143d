"""The configuration: strict about keys, the same from every side, the published numbers in its presets."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from groundnlq.config import RunConfig, load_config, preset_names
from groundnlq.errors import ConfigError

PUBLISHED = {  # spec of the paper's runs: batch of one process, base rate, warm-up epochs, epochs in all
    "pretrain": (4, 5e-5, 4, 10),
    "scratch": (2, 5e-5, 5, 13),
    "finetune": (2, 2.5e-5, 4, 10),
    "star_finetune": (2, 5e-5, 4, 10),
}


@pytest.fixture
def file(tmp_path):
    """Write a YAML file and name it."""

    def write(text: str) -> str:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_under_its_own_name(name):
    assert load_config(name).name == name


def test_the_presets_of_the_published_table_are_there():
    families = ("scratch", "finetune", "finetune_trainval")
    assert {"pretrain", *families, *(f"star_{name}" for name in families)} <= set(preset_names())


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_hold_the_numbers_of_the_published_table(name):
    train = load_config(name).train
    assert (train.batch_size, train.learning_rate, train.warmup_epochs, train.epochs) == PUBLISHED[name]


def test_the_published_settings_around_the_table():
    pretrain, finetune = load_config("pretrain"), load_config("finetune")
    assert (pretrain.data.jitter_max_scale, finetune.data.jitter_max_scale) == (10, 1)
    assert (pretrain.decode.top_k, finetune.decode.top_k) == (50, 5)
    assert finetune.data.half_window == "legacy"
    assert (finetune.train.weight_decay, finetune.train.ema_decay, finetune.decode.sigma) == (0.05, 0.999, 0.75)
    assert load_config("finetune_trainval").data.train_records == ("nlq_train.jsonl", "nlq_val.jsonl")
    star = load_config("star_finetune").model
    assert (star.num_cross_levels, star.num_self_levels, star.num_levels) == (6, 0, 7)


@pytest.mark.parametrize("name", preset_names())
def test_a_saved_configuration_is_read_back_equal(name, tmp_path):
    config = load_config(name)
    config.save(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@given(
    epochs=st.integers(2, 50),
    rate=st.floats(1e-8, 1.0),
    nms=st.sampled_from(["soft", "hard", "none"]),
    folder=st.text("abcXYZ/_-. ", min_size=1),
)
def test_any_values_survive_a_round_trip_as_plain_yaml(epochs, rate, nms, folder):
    tree = {"train.epochs": epochs, "train.warmup_epochs": 1, "train.learning_rate": rate, "decode.nms": nms}
    config = load_config("finetune", tree | {"data.folder": folder})
    again = RunConfig.parse(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), "again")
    assert again == config


def test_overrides_mean_the_same_from_the_shell_and_from_a_cell():
    from_shell = load_config("finetune", ["train.epochs=6", "train.learning_rate=1e-4", "decode.nms=hard"])
    from_cell = load_config("finetune", {"train.epochs": 6, "train.learning_rate": 1e-4, "decode.nms": "hard"})
    assert from_shell == from_cell
    assert from_shell.differing_keys(load_config("finetune")) == ["decode.nms", "train.epochs", "train.learning_rate"]


def test_a_file_changes_only_what_it_names_of_its_base(file):
    config = load_config(file("base: finetune\ntrain: {epochs: 7}\n"))
    assert config.name == "run"
    assert config.differing_keys(load_config("finetune")) == ["name", "train.epochs"]


def test_configurations_cannot_be_changed_and_do_not_share_edits():
    config = load_config("finetune")
    with pytest.raises(ValueError, match="frozen"):
        config.train.epochs = 3
    load_config("finetune", {"train.epochs": 5})
    assert load_config("finetune") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "unknown key train.epoch; did you mean train.epochs"),
        ("epochs=3", "unknown key epochs; did you mean train.epochs"),
        ("trian.epochs=3", "unknown key trian"),
        ("model.widht=8", "did you mean model.width"),
        ("train.epochs=three", "train.epochs: .* got 'three'"),
        ("train.learning_rate=.nan", "train.learning_rate"),
        ("train.epochs=0", "train.epochs: .* got 0"),
        ("train.precision=float16", "'float32' or 'bfloat16'"),
        ("train.epochs", "has no '='"),
        ("name.first=1", "'name' is a value, not a section"),
        ("model.window=8", "window 8 is even"),
        ("model.num_self_levels=3", "7 regression_ranges_grid for 4 levels"),
        ("train.warmup_epochs=10", "must be smaller than epochs 10"),
        ("train={init_heads: true}", "init_heads needs init_from"),
        ("train.epochs=[1", "override"),
        ("train.epochs=!!python/name:os.system x", "override"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_key_and_remedy(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("finetune", [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 3, epochs: 4}\n", "duplicate key 'epochs'"),
        ("train: &a {epochs: 3}\nmodel: *a\n", "aliases are not allowed"),
        ("train: !!python/object/apply:os.system [ls]\n", "not plain YAML"),
        ("train: !!python/name:os.system\n", "not plain YAML"),
        ("train: !!python/tuple [1]\n", "not plain YAML"),
        ("- train\n", "a mapping of keys, not list"),
        ("train: [\n", "not plain YAML"),
        ("[" * 5000, "not plain YAML"),
        ("trian: {epochs: 3}\n", "unknown key trian"),
        ("base: finetnue\n", "did you mean finetune"),
    ],
)
def test_a_file_that_is_more_or_less_than_plain_yaml_is_refused(text, message, file):
    with pytest.raises(ConfigError, match=message):
        load_config(file(text))


def test_a_missing_file_and_an_unknown_preset_say_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match=r"No such file.*name a preset \(align, finetune"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"unknown preset 'finetun'; did you mean finetune\?"):
        load_config("finetun")


def test_derived_values_follow_the_architecture():
    model = load_config("finetune").model
    assert model.num_levels == 7
    assert RunConfig(name="x").data.path("text.h5").as_posix() == "data/ego4d/text.h5"


def test_a_warmup_may_be_a_part_of_an_epoch():
    train = load_config("finetune", ["train.epochs=1", "train.warmup_epochs=0.25"]).train
    assert train.warmup_steps(steps_per_epoch=100) == 25
