"""Stage one's text map in the grounding network: what it computes, where it comes from, that it stays as it is."""

import shutil

import pytest
import torch

import groundnlq
from groundnlq.config import ModelConfig, load_config
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.engine.checkpoint import READY, load_model, save_model, trained_state
from groundnlq.engine.launch import train
from groundnlq.errors import CheckpointError, ConfigError
from groundnlq.files import sha256_of
from groundnlq.model.grounder import Grounder, _TextMap

SMALL = ["train.epochs=2", "train.warmup_epochs=1", "train.validate_every_epochs=2", "model.width=32"]
pytestmark = pytest.mark.usefixtures("own_cache")


def config_of(world, *changes, preset="sample_scratch"):
    return load_config(preset, [f"data.folder={world}", *SMALL, *changes])


@pytest.fixture(scope="module")
def trained(tiny_world, tmp_path_factory):
    return train(config_of(tiny_world), tmp_path_factory.mktemp("run") / "run")


def ready():
    return {name: x.float() for name, x in trained_state(READY)[1].items() if name.startswith("text_map.")}


def test_tokens_stand_beside_what_the_map_makes_of_them():
    text_map = _TextMap(6, 4)
    tokens = torch.randn(2, 3, 6)
    assert torch.equal(text_map(tokens), torch.cat([tokens, torch.zeros(2, 3, 4)], -1))  # before a map is loaded
    state = {"weight": torch.randn(4, 6), "bias": torch.randn(4)}
    text_map.load_state_dict(state)
    mapped = tokens[1, 2] @ state["weight"].T + state["bias"]
    expected = (mapped - mapped.mean()) / (mapped.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(text_map(tokens)[1, 2], torch.cat([tokens[1, 2], expected]))
    assert not list(text_map.parameters())


def test_padding_behind_a_query_changes_nothing():
    config = ModelConfig(video_dim=8, text_dim=6, width=16, num_heads=2, text_map_width=4, scale_init=0.5)
    model = Grounder(config).eval()
    model.load_state_dict({"text_map.weight": torch.randn(4, 6), "text_map.bias": torch.randn(4)}, strict=False)
    text, mask = torch.zeros(1, 9, 6), torch.arange(9)[None] < 5
    text[:, :5] = torch.randn(1, 5, 6)
    short, long = model.encode_text(text[:, :6], mask[:, :6]), model.encode_text(text, mask)
    torch.testing.assert_close(short[:, :5], long[:, :5])


def test_training_leaves_the_map_as_stage_one_made_it(trained):
    for weights in ("raw", "ema"):
        state = load_model(trained.best, weights=weights)[0].state_dict()
        assert all(torch.equal(state[name], value) for name, value in ready().items())
    assert state["query_encoder.linears.0.weight"].shape == (32, 384 + 128)
    made_of = load_model(trained.best)[2]["provenance"]["inputs"]["init_from"]
    assert made_of["sha256"] == sha256_of(READY)


def test_fine_tuning_takes_the_map_of_its_first_training(tiny_world, trained, tmp_path):
    config = config_of(tiny_world, f"train.init_from={trained.best}", preset="sample_finetune")
    tuned = train(config, tmp_path / "tuned")
    found = load_model(tuned.best)[0].state_dict()
    assert all(torch.equal(found[name], value) for name, value in ready().items())


def test_an_answer_depends_on_the_map_and_needs_words_alone(tiny_world, trained):
    model, clip = groundnlq.load(trained.run_dir), FeatureStore(tiny_world / "features.h5").clip_uids[0]
    before = model.ask(clip, "Where did I put the cup?")
    model.model.text_map.weight.zero_()
    assert [m.score for m in model.ask(clip, "Where did I put the cup?")] != [m.score for m in before]


def test_a_map_that_does_not_fit_is_refused(tiny_world, tmp_path):
    def refused(error, words, *changes, folder=tiny_world):
        with pytest.raises(error, match=words):
            train(config_of(folder, *changes), tmp_path / f"run {len(list(tmp_path.iterdir()))}")

    refused(ConfigError, "text_map_width: the map is of stage one -- name its run", "train.init_from=null")
    refused(
        CheckpointError, "of 384 to 128 numbers, here 384 to 64 -- set .*text_map_width=128", "model.text_map_width=64"
    )
    refused(CheckpointError, "a video encoder, of stage one -- use it as --encoder", "model.text_map_width=0")
    other = tmp_path / "other"
    shutil.copytree(tiny_world, other, ignore=shutil.ignore_patterns("clips", "features.h5"))
    store = FeatureStore(tiny_world / "features.h5")
    about = store.attributes | {"encoder": "align sha256:0123"}
    write_features(other / "features.h5", ((uid, store.read(uid)) for uid in store.clip_uids), attributes=about)
    refused(CheckpointError, "has features of align sha256:0123 -- name the run that made these", folder=other)
    train(config_of(other, "train.allow_other_encoder=true"), tmp_path / "allowed")
    config, state, info = trained_state(READY)
    of_words = config.model_copy(update={"align": config.align.model_copy(update={"text_encoder": "distilbert"})})
    save_model(tmp_path / "words.pt", of_words, {"ema": state}, "ema", **info)
    refused(CheckpointError, "not of these tokens", f"train.init_from={tmp_path / 'words.pt'}")
    save_model(tmp_path / "bert.pt", config, {"ema": state}, "ema", **info | {"encoder": "bert sha256:1"})
    refused(CheckpointError, "not of these tokens", f"train.init_from={tmp_path / 'bert.pt'}")


def test_weights_alone_show_the_width_of_their_map(trained, tmp_path):
    model, config, _ = load_model(trained.best)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "bare.pth")
    bare = load_model(tmp_path / "bare.pth", preset=config)
    assert bare[1].model.text_map_width == 128
    assert bare[1].model.text_dim == 384
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in bare[0].state_dict().items())
