import argparse
import os
import pickle

import numpy as np
import pytest
import torch

from groundnlq.config import ModelConfig, RunConfig
from groundnlq.engine.checkpoint import load_model, read_checkpoint, save_model
from groundnlq.errors import CheckpointError
from groundnlq.model.checkpoint_published import _from_published, _published_ranges
from groundnlq.model.checkpoint_published import load_published as load_content
from groundnlq.model.grounder import Grounder
from tests.golden_inputs import META, golden_config, published_weights
from tests.published_layout import to_published

CONFIG = RunConfig(name="published", model=ModelConfig(max_seq_len=256))


def load_published(path, preset, weights=None):
    return load_content(read_checkpoint(path), str(path), preset, weights)


def checkpoint(tmp_path, state, **more):
    path = tmp_path / "model.pth.tar"
    torch.save({"epoch": 3, "state_dict": state, **more}, path)
    return path


@pytest.mark.parametrize("name", ["tiny", "tiny_star", "champion"])
def test_our_parameters_in_the_published_layout_have_its_names_and_shapes(name):
    with torch.device("meta"):
        model = Grounder(golden_config(name))
    layout = {key: list(value.shape) for key, value in to_published(model.state_dict()).items()}
    assert layout == dict(META["parameters"][name])


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
@pytest.mark.parametrize("name", ["tiny", "tiny_star"])
def test_a_published_checkpoint_loads_and_shows_its_architecture(tmp_path, name, prefix):
    weights = published_weights(name)
    path = checkpoint(tmp_path, {prefix + key: value for key, value in weights.items()})
    config, state = load_published(path, ModelConfig(max_seq_len=256))
    assert config == golden_config(name)
    Grounder(config).load_state_dict(state)
    back = to_published(state)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_missing_unexpected_and_misshapen_parameters_are_named(tmp_path):
    weights = published_weights("tiny")
    del weights["neck.fpn_norms.1.bias"]
    weights["reg_head.offset_head.conv.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as error:
        load_published(checkpoint(tmp_path, weights), ModelConfig())
    assert "missing: neck.norms.1.bias" in str(error.value)
    assert "heads.regression.out.bias is (3,), expected (2,)" in str(error.value)
    with pytest.raises(CheckpointError, match=r"backbone.foo.weight"):
        _from_published({"backbone.foo.weight": torch.zeros(1)})


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("override", ["", "1"])
def test_a_malicious_checkpoint_is_refused_and_runs_nothing(tmp_path, monkeypatch, override):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", override)
    target = str(tmp_path / "harm")
    path = checkpoint(tmp_path, {"a": torch.zeros(1)}, extra=Evil(target))
    with pytest.raises(CheckpointError, match="refused"):
        load_published(path, ModelConfig())
    raw = tmp_path / "raw.pth.tar"
    raw.write_bytes(pickle.dumps(Evil(target)))
    with pytest.raises(CheckpointError):
        load_published(raw, ModelConfig())
    assert not os.path.exists(target)


def test_damaged_and_foreign_files_are_clear_errors(tmp_path):
    path = checkpoint(tmp_path, published_weights("tiny"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_published(path, ModelConfig())
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_published(tmp_path / "absent.pth.tar", ModelConfig())
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds a list"):
        load_published(path, ModelConfig())


def test_ranges_double_and_end_open():
    assert _published_ranges(7) == ((0, 4), (4 / 2, 8), (4, 16), (8, 32), (16, 64), (32, 128), (64, 10000))
    assert _published_ranges(4) == tuple(map(tuple, META["archs"]["tiny"]["model"]["regression_range"]))


# ---- other layouts, and which weights of a file


def raw():
    return published_weights("tiny")


def averaged():
    return {name: value + 1 for name, value in raw().items()}


def is_raw(path, weights=None):
    """Whether the network has the raw weights; else it must have the averaged ones."""
    state = load_model(path, CONFIG, weights)[0].state_dict()
    expected = {"raw": _from_published(raw()), "ema": _from_published(averaged())}
    same = {kind: all(torch.equal(state[name], value) for name, value in e.items()) for kind, e in expected.items()}
    assert same["raw"] != same["ema"]
    return same["raw"]


def safetensors(path, state):
    from safetensors.torch import save_file

    save_file(state, path)


def wrapped(wrap):
    """What a wrapped network saves as its state, in our names."""
    model = Grounder(golden_config("tiny"))
    model.load_state_dict(_from_published(raw()))
    return wrap(model).state_dict()


LAYOUTS = {
    "key model": lambda: {"model": raw(), "epoch": 3},
    "key ema_state_dict, empty": lambda: {"state_dict": raw(), "ema_state_dict": None},
    "key model_state_dict": lambda: {"model_state_dict": raw(), "optimizer_state_dict": {"state": {}}},
    "bare": raw,
    "bare, our names": lambda: _from_published(raw()),
    "submodules compiled": lambda: {"state_dict": {k.replace(".", "._orig_mod.", 1): v for k, v in raw().items()}},
    "double": lambda: {"state_dict": {name: value.double() for name, value in raw().items()}},
    "DataParallel": lambda: wrapped(torch.nn.DataParallel),
    "AveragedModel": lambda: {"model_ema": wrapped(torch.optim.swa_utils.AveragedModel), "model": raw()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_found_in_every_layout_that_people_save(layout, tmp_path):
    torch.save(LAYOUTS[layout](), tmp_path / "m.pth.tar")
    assert is_raw(tmp_path / "m.pth.tar")


def test_a_safetensors_file_is_read(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors(path, {f"module.{name}": value for name, value in raw().items()})
    assert is_raw(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"m\.safetensors: damaged"):
        load_model(path, CONFIG)


def test_what_was_asked_for_is_loaded_and_raw_weights_otherwise(tmp_path):
    path = checkpoint(tmp_path, raw(), state_dict_ema=averaged())
    assert is_raw(path)
    assert is_raw(path, "raw")
    assert not is_raw(path, "ema")


def test_averaged_weights_alone_are_used_with_a_warning(tmp_path):
    torch.save({"epoch": 3, "state_dict_ema": averaged()}, path := tmp_path / "m.pth.tar")
    with pytest.warns(UserWarning, match="only averaged weights in it"):
        assert not is_raw(path)
    assert not is_raw(path, "ema")  # asked for: no warning
    with pytest.raises(CheckpointError, match="no weights 'raw' in it, only ema"):
        load_model(path, CONFIG, "raw")


@pytest.mark.parametrize("is_ours", [False, True])
def test_weights_that_are_not_there_are_an_error_that_lists_what_is(is_ours, tmp_path):
    path = checkpoint(tmp_path, raw())
    if is_ours:
        state = Grounder(golden_config("tiny")).state_dict()
        save_model(path, CONFIG.model_copy(update={"model": golden_config("tiny")}), {"raw": state}, "raw")
    for name in ("nonsense", "ema"):
        with pytest.raises(CheckpointError, match=f"no weights '{name}' in it, only raw -- ask for these"):
            load_model(path, CONFIG, name)


def test_a_file_without_weights_says_what_it_has(tmp_path):
    torch.save({"epoch": 3, "optimizer": {"state": {}}, "scheduler": {}}, path := tmp_path / "m.pth.tar")
    with pytest.raises(
        CheckpointError, match=r"no weights in it .*, only epoch, optimizer, scheduler -- check the path"
    ):
        load_model(path, CONFIG)
    torch.save({}, path)
    with pytest.raises(CheckpointError, match="only nothing"):
        load_model(path, CONFIG)


@pytest.mark.parametrize("names", [raw, lambda: _from_published(raw())], ids=["published", "ours"])
def test_an_odd_prefix_is_named(names, tmp_path):
    path = checkpoint(tmp_path, {f"module.net.model.{name}": value for name, value in names().items()})
    with pytest.raises(CheckpointError, match=r"does not have \(remove the prefix 'net\.model\.'\): net\.model\."):
        load_model(path, CONFIG)


@pytest.mark.parametrize(
    ("extra", "asked"),
    [(np.float64(12.3), "scalar"), (argparse.Namespace(lr=1), "Namespace"), (torch.nn.Linear(1, 1), "Linear")],
)
def test_what_is_refused_comes_with_the_harmless_alternative(extra, asked, tmp_path):
    path = checkpoint(tmp_path, raw(), extra=extra)
    with pytest.raises(
        CheckpointError, match=rf"asks for \S*{asked}.* -- .*save these alone, as model.state_dict\(\) or float"
    ):
        load_model(path, CONFIG)
