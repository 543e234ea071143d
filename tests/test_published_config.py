"""YAML files of the published program, read as our configuration."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from groundnlq.cli import main
from groundnlq.config import PUBLISHED_RANGES, load_config
from groundnlq.config_published import _table, translate
from groundnlq.engine.run_dir import read_history
from groundnlq.errors import ConfigError
from tests.tiny_run import make_tiny_data

META = json.loads((Path(__file__).parent / "golden" / "meta.json").read_text())
PATHS = {
    "json_file": "./a/nlq_val.json", "train_jsonl_file": "./a/train.jsonl", "val_jsonl_file": "./a/val.jsonl",
    "video_feat_dir": "/b/video", "text_feat_dir": "/b/text", "val_text_feat_dir": "/b/text",
}  # fmt: skip
GRID = {"feat_stride": 16.043, "num_frames": 16.043, "default_fps": 30}
DIMS = {"num_classes": 1, "input_vid_dim": 2304, "input_txt_dim": 512, "max_seq_len": 2560}
BASE = {
    "dataset_name": "ego4d", "devices": "cuda:0", "train_split": ["training"], "val_split": ["validation"],
    "dataset": PATHS | GRID | DIMS,
    "model": META["archs"]["champion"]["model"],
    "opt": {"learning_rate": 2.5e-5, "backbone_lr_weight": 1, "epochs": 6, "warmup_epochs": 4, "weight_decay": 0.05},
    "loader": {"batch_size": 2},
    "train_cfg": META["train_cfg"],
    "test_cfg": META["test_cfg"],
    "output_folder": "./ckpt/",
}  # fmt: skip
FROM_RANDOM = {"learning_rate": 5e-5, "epochs": 8, "warmup_epochs": 5}
CROPPED = {"trunc_thresh": 0.3, "crop_ratio": [0.9, 1.0]}
# What the five files of the published release have beyond BASE, and the preset of ours that has the same numbers.
RELEASE = {
    "finetune": ({}, "finetune"),
    "inference": ({"dataset": {"val_jsonl_file": "./a/test.jsonl"}}, "finetune"),
    "scratch": ({"dataset": CROPPED, "opt": FROM_RANDOM}, "scratch"),
    "star": ({"dataset": CROPPED, "opt": FROM_RANDOM, "model": {"backbone_arch": [2, 4, 4, 6, 0]}}, "star_scratch"),
    "pretrain": (
        {
            "devices": "cuda",
            "dataset": {"enable_temporal_jittering": True},
            "opt": {"learning_rate": 5e-5},
            "loader": {"batch_size": 4},
            "test_cfg": {"max_seg_num": 50},
        },
        "pretrain",
    ),
}


def changed(tree: dict, change: dict) -> dict:
    return tree | {k: tree.get(k, {}) | v if isinstance(v, dict) else v for k, v in change.items()}


def published_file(folder: Path, tree: dict) -> Path:
    path = folder / "published.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def read(tree: dict):
    """Our tree of a published one whose steps are one stride wide."""
    return translate(changed({"dataset": GRID}, tree), "published.yaml")


@pytest.mark.filterwarnings("ignore:.*ignored")
@pytest.mark.parametrize("name", RELEASE)
def test_the_five_files_of_the_release_give_our_presets(name, tmp_path):
    change, preset = RELEASE[name]
    path = published_file(tmp_path, changed(BASE, change))
    with pytest.warns(UserWarning, match="not given") as caught:
        config = load_config(path)
    same = {"train.init_from": None, "train.seed": 12345678, "data.train_records": ["nlq_train.jsonl"]}
    assert config.differing_keys(load_config(preset, same)) == ["name"]
    used, ignored = (str(warning.message) for warning in caught)
    assert "not given, so as in the published program: init_rand_seed 12345678, test_cfg.nms_method soft" in used
    assert "ignored (files are named by data.*): dataset." in ignored
    assert all(f"dataset.{key}" in ignored for key in PATHS)


def test_what_a_file_leaves_out_has_the_published_default(tmp_path):
    path = published_file(tmp_path, {"dataset": {}, "opt": {}})
    with pytest.warns(UserWarning, match=r"opt\.epochs 30, opt\.warmup True, opt\.warmup_epochs 5") as caught:
        config = load_config(path, {"model.regression_ranges_grid": PUBLISHED_RANGES})
    train, model, decode = config.train, config.model, config.decode
    assert (train.epochs, train.warmup_epochs, train.learning_rate) == (35, 5, 1e-3)
    assert (train.label_smoothing, train.clip_grad_norm, train.weight_decay) == (0, 0, 0)
    assert (train.initial_loss_normaliser, train.seed, train.batch_size) == (2000, 12345678, 2)
    assert (decode.sigma, decode.min_score, decode.min_duration_grid) == (0.5, 0.01, 0.05)
    assert (decode.pre_nms_topk, decode.top_k, decode.voting_iou) == (5000, 1000, 0)
    assert (model.window, model.position_table, model.width, model.num_stem_layers) == (0, False, 512, 2)
    data = config.data
    assert (data.snippet_stride_frames, data.window_frames, data.fps, data.jitter_max_scale) == (16, 32, 30, 1)
    used = str(caught[0].message)
    assert "model.n_mha_win_size -1" in used
    assert "dataset.num_frames 32.0" in used


def test_a_file_of_ours_keeps_our_defaults(tmp_path):
    """The negative control: published defaults are for published files only."""
    path = published_file(tmp_path, {"train": {"epochs": 6}})
    assert load_config(path, {"name": "finetune"}).train.label_smoothing == 0.1


@pytest.mark.parametrize("name", ["tiny", "tiny_star"])
def test_architectures_of_the_golden_files_are_read(name, tmp_path):
    arch = META["archs"][name]
    dims = dict(zip(("input_vid_dim", "input_txt_dim"), arch["dims"], strict=True))
    tree = {"dataset": GRID | dims | {"max_seq_len": arch["max_seq_len"]}, "model": arch["model"]}
    with pytest.warns(UserWarning, match=r"ignored .*: model\.max_buffer_len_factor|not given"):
        model = load_config(published_file(tmp_path, tree)).model
    counts = [model.num_embed_layers, model.num_text_layers, model.num_stem_layers]
    assert [*counts, model.num_cross_levels, model.num_self_levels] == arch["model"]["backbone_arch"]
    assert (model.width, model.video_dim, model.text_dim) == (32, 24, 12)
    assert [list(pair) for pair in model.regression_ranges_grid] == arch["model"]["regression_range"]


def test_epochs_come_after_the_warmup_there_and_include_it_here():
    train = read({"opt": {"epochs": 8, "warmup_epochs": 5}})[0]["train"]
    assert (train["epochs"], train["warmup_epochs"]) == (13, 5)
    train = read({"opt": {"epochs": 8, "warmup_epochs": 5, "warmup": False}})[0]["train"]
    assert (train["epochs"], train["warmup_epochs"]) == (8, 0)


def test_numbers_without_a_dot_are_numbers(tmp_path):
    path = tmp_path / "published.yaml"
    rates = "opt: {learning_rate: 1e-4}\ntest_cfg: {min_score: 5e-3}\n"
    ranges = "model: {regression_range: [[0, 4], [2, 8], [4, 16], [8, 32], [16, 64], [32, 128], [64, 10000]]}\n"
    path.write_text(f"dataset: {{num_frames: 16}}\n{rates}{ranges}")
    with pytest.warns(UserWarning, match="not given"):
        config = load_config(path)
    assert (config.train.learning_rate, config.decode.min_score) == (1e-4, 5e-3)


def test_window_and_stride_are_two_numbers_of_which_equal_ones_are_one():
    data = read({"dataset": {"feat_stride": 16, "num_frames": 32}})[0]["data"]
    assert (data["snippet_stride_frames"], data["window_frames"]) == (16, 32)
    data = read({"dataset": {"feat_stride": 16.043, "num_frames": 16.043}})[0]["data"]
    assert data["snippet_stride_frames"] == 16.043
    assert "window_frames" not in data


def test_voting_happens_only_without_classes():
    assert read({"test_cfg": {"voting_thresh": 0.9}})[0]["decode"]["voting_iou"] == 0
    classless = {"test_cfg": {"voting_thresh": 0.9, "multiclass_nms": False}}
    assert read(classless)[0]["decode"]["voting_iou"] == 0.9


@pytest.mark.parametrize(("given", "window"), [(-1, 0), (1, 0), (9, 9), ([9] * 7, 9)])
def test_a_window_of_one_and_below_is_the_whole_clip(given, window):
    assert read({"model": {"n_mha_win_size": given}})[0]["model"]["window"] == window


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"train_cfg": {"clip_grad_l2nrom": 1.0}}, "did you mean train_cfg.clip_grad_l2norm"),
        ({"opt": {}, "modle": {"embd_dim": 8}}, "unknown section 'modle'; did you mean model"),
        ({"opt": 3}, "opt: a section of keys expected, got 3"),
        ({"opt": {}, "model": {"embd_dim": 384}}, "model.embd_dim, fpn_dim and head_dim [384, 512, 512] differ"),
        ({"train_cfg": {"center_sample": "none"}}, "'none' is not supported, only 'radius'"),
        ({"opt": {"type": "SGD"}}, "'SGD' is not supported, only 'AdamW'"),
        ({"opt": {"early_stop_epochs": 3}}, "early_stop_epochs: 3 is not supported"),
        ({"opt": {}, "model": {"backbone_type": "conv"}}, "'conv' is not supported"),
        ({"opt": {}, "model": {"fpn_start_level": 1}}, "fpn_start_level: 1 is not supported, only 0"),
        ({"opt": {}, "model": {"backbone_arch": [2, 4]}}, "a value like [2, 2, 2, 0, 6] expected, got [2, 4]"),
        ({"opt": {}, "model": {"n_mha_win_size": [9, 9, -1]}}, "a value like -1 expected, got [9, 9, -1]"),
        ({"opt": {"epochs": "six"}}, "opt.epochs: a value like 30 expected, got 'six'"),
        ({"opt": {"warmup": "perhaps"}}, "opt.warmup: a value like True expected, got 'perhaps'"),
        ({"test_cfg": {"min_score": "low"}}, "min_score: a value like 0.01 expected, got 'low'"),
        ({"test_cfg": {"pre_nms_thresh": 0.1, "min_score": 0.01}}, "pre_nms_thresh 0.1 is above min_score 0.01"),
    ],
)
def test_what_cannot_be_translated_is_an_error_that_names_it(tree, message):
    with pytest.raises(ConfigError) as caught:
        translate(changed({"dataset": GRID}, tree), "published.yaml")
    assert message in str(caught.value)
    assert "faults" not in str(caught.value)  # nothing else is wrong


def test_every_fault_of_a_file_is_in_one_message():
    with pytest.raises(ConfigError, match="2 faults") as caught:
        read({"opt": {"learnign_rate": 1, "type": "SGD"}})
    assert "learning_rate" in str(caught.value)
    assert "AdamW" in str(caught.value)


def test_every_key_of_the_golden_meta_is_known():
    keys = {f"train_cfg.{key}" for key in META["train_cfg"]} | {f"test_cfg.{key}" for key in META["test_cfg"]}
    keys |= {f"model.{key}" for arch in META["archs"].values() for key in arch["model"]}
    assert keys <= {key for known in _table().values() for key in known}


# ---- training with such a file

TINY = {
    "dataset": {"input_vid_dim": 8, "input_txt_dim": 8, "feat_stride": 1, "num_frames": 1, "default_fps": 1}
    | {"max_seq_len": 64},
    "model": {"backbone_arch": [1, 1, 1, 0, 2], "n_head": 2, "embd_dim": 16, "fpn_dim": 16, "head_dim": 16}
    | {"regression_range": [[0, 4], [2, 8], [4, 10000]]},
    "opt": {"epochs": 1, "warmup_epochs": 1},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("data"), num_clips=3)


@pytest.mark.parametrize("name", ["finetune", "pretrain", "star", "nothing given"])
def test_a_published_file_trains(name, data, tmp_path, monkeypatch, capsys):
    """The command of the README, with the sizes of a tiny world."""
    monkeypatch.chdir(tmp_path)
    tree = {"loader": {}} if name == "nothing given" else changed(BASE, RELEASE[name][0])
    tree = changed(tree, TINY)
    if name == "star":
        tree["model"]["backbone_arch"] = [1, 1, 1, 2, 0]
    published_file(tmp_path, tree)
    names = "data.train_records=[train.jsonl] data.val_records=[val.jsonl]"
    assert main(f"train published.yaml data.folder={data} {names} --run out".split()) == 0
    assert len(read_history("out")) == 2
    assert "warning: published.yaml: not given" in capsys.readouterr().err
    config = load_config("out/config.yaml")
    assert config.data.jitter_max_scale == (10 if name == "pretrain" else 1)
    assert config.model.window == (0 if name == "nothing given" else 9)
    assert all(
        value.isfinite().all() for value in torch.load("out/last.pt", weights_only=True)["weights"]["raw"].values()
    )
