import os
import pickle

import pytest
import torch

from groundnlq.config import ModelConfig
from groundnlq.errors import CheckpointError
from groundnlq.model.checkpoint_published import _from_published, _published_ranges, load_published
from groundnlq.model.grounder import Grounder
from tests.golden_inputs import META, golden_config, published_weights
from tests.published_layout import to_published


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


@pytest.mark.parametrize("prefix", ["", "module."])
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
    with pytest.raises(CheckpointError, match="No such file"):
        load_published(tmp_path / "absent.pth.tar", ModelConfig())
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="no 'state_dict'"):
        load_published(path, ModelConfig())


def test_ranges_double_and_end_open():
    assert _published_ranges(7) == ((0, 4), (4 / 2, 8), (4, 16), (8, 32), (16, 64), (32, 128), (64, 10000))
    assert _published_ranges(4) == tuple(map(tuple, META["archs"]["tiny"]["model"]["regression_range"]))
