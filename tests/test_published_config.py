"""YAML files of the published program, read as our configuration."""

import json
from pathlib import Path

import pytest
import yaml

from groundnlq.config import load_config
from groundnlq.config_published import _table, translate
from groundnlq.errors import ConfigError

META = json.loads((Path(__file__).parent / "golden" / "meta.json").read_text())
FINETUNE = {
    "dataset_name": "ego4d",
    "init_rand_seed": 7,
    "dataset": {"feat_stride": 16.043, "num_frames": 16.043, "default_fps": 30, "trunc_thresh": 0.5},
    "opt": {"learning_rate": 2.5e-5, "epochs": 6, "warmup_epochs": 4, "weight_decay": 0.05, "type": "AdamW"},
    "loader": {"batch_size": 2, "num_workers": 8},
    "train_cfg": META["train_cfg"],
    "test_cfg": META["test_cfg"],
}


def published_file(folder: Path, tree: dict) -> Path:
    path = folder / "published.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def read(tree: dict):
    return translate(tree, "published.yaml")


def test_the_published_finetuning_file_gives_our_finetune_preset(tmp_path):
    arch = META["archs"]["champion"]
    dataset = FINETUNE["dataset"] | {"max_seq_len": arch["max_seq_len"]}
    path = published_file(tmp_path, FINETUNE | {"dataset": dataset, "model": arch["model"]})
    with pytest.warns(UserWarning, match="ignored dataset.trunc_thresh, dataset_name, loader.num_workers"):
        config = load_config(path)
    preset = load_config("finetune", {"train.init_from": None, "train.seed": 7})
    assert config.model_copy(update={"name": "finetune"}) == preset


@pytest.mark.parametrize("name", ["tiny", "tiny_star"])
def test_architectures_of_the_golden_files_are_read(name, tmp_path):
    arch = META["archs"][name]
    dims = dict(zip(("input_vid_dim", "input_txt_dim"), arch["dims"], strict=True))
    tree = {"dataset": dims | {"max_seq_len": arch["max_seq_len"]}, "model": arch["model"]}
    with pytest.warns(UserWarning, match=r"ignored model\.max_buffer_len_factor"):
        model = load_config(published_file(tmp_path, tree)).model
    counts = [model.num_embed_layers, model.num_text_layers, model.num_stem_layers]
    assert [*counts, model.num_cross_levels, model.num_self_levels] == arch["model"]["backbone_arch"]
    assert (model.width, model.video_dim, model.text_dim) == (32, 24, 12)
    assert [list(pair) for pair in model.regression_ranges_grid] == arch["model"]["regression_range"]


def test_epochs_come_after_the_warmup_there_and_include_it_here():
    tree, _ = read({"opt": {"epochs": 8, "warmup_epochs": 5}})
    assert tree == {"train": {"epochs": 13, "warmup_epochs": 5}}
    tree, _ = read({"opt": {"epochs": 8, "warmup_epochs": 5, "warmup": False}})
    assert tree == {"train": {"epochs": 8, "warmup_epochs": 0}}


def test_a_rate_without_a_dot_is_a_number(tmp_path):
    path = tmp_path / "published.yaml"
    path.write_text("opt: {learning_rate: 1e-4, epochs: 2, warmup_epochs: 1}\n")
    assert load_config(path).train.learning_rate == 1e-4


def test_window_and_stride_are_two_numbers_of_which_equal_ones_are_one():
    tree, _ = read({"dataset": {"feat_stride": 16, "num_frames": 32}})
    assert tree == {"data": {"snippet_stride_frames": 16, "window_frames": 32}}
    tree, _ = read({"dataset": {"feat_stride": 16.043, "num_frames": 16.043}})
    assert tree == {"data": {"snippet_stride_frames": 16.043}}


def test_voting_happens_only_without_classes():
    assert read({"test_cfg": {"voting_thresh": 0.9}}) == ({}, ["test_cfg.voting_thresh"])
    classless = {"test_cfg": {"voting_thresh": 0.9, "multiclass_nms": False}}
    assert read(classless) == ({"decode": {"voting_iou": 0.9}}, [])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"train_cfg": {"clip_grad_l2nrom": 1.0}}, "did you mean train_cfg.clip_grad_l2norm"),
        ({"opt": {}, "modle": {"embd_dim": 8}}, "unknown section 'modle'; did you mean model"),
        ({"opt": 3}, "opt: a section of keys expected, got 3"),
        ({"opt": {}, "model": {"embd_dim": 384, "fpn_dim": 512}}, "embd_dim and model.fpn_dim differ"),
        ({"train_cfg": {"center_sample": "none"}}, "'none' is not supported, only 'radius'"),
        ({"opt": {"type": "SGD"}}, "'SGD' is not supported, only 'AdamW'"),
        ({"opt": {}, "model": {"backbone_arch": [2, 4]}}, "five counts"),
        ({"opt": {"warmup_epochs": 4}}, "without opt.epochs"),
        ({"opt": {"epochs": "six"}}, "whole epochs expected, got epochs 'six'"),
    ],
)
def test_what_cannot_be_translated_is_an_error_that_names_it(tree, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        read(tree)


def test_every_fault_of_a_file_is_in_one_message():
    with pytest.raises(ConfigError, match="2 faults") as caught:
        read({"opt": {"learnign_rate": 1, "type": "SGD"}})
    assert "learning_rate" in str(caught.value)
    assert "AdamW" in str(caught.value)


def test_every_key_of_the_golden_meta_is_known():
    keys = {f"train_cfg.{key}" for key in META["train_cfg"]} | {f"test_cfg.{key}" for key in META["test_cfg"]}
    keys |= {f"model.{key}" for arch in META["archs"].values() for key in arch["model"]}
    assert keys <= {key for known in _table().values() for key in known}
