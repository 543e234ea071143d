"""Video encoders: what the published ones compute, how weights are read, and which files and names are refused."""

import argparse
import json

import numpy as np
import pytest
import torch

from groundnlq.errors import ConfigError, FeatureError
from groundnlq.video import encoders
from groundnlq.video.encoders import FILES, LITE, load_encoder
from groundnlq.video.spacetime import SpaceTimeTransformer
from tests.golden_inputs import GOLDEN
from tests.published_encoders import (
    VIDEO,
    by_rule,
    egovlp_shapes,
    golden_frames,
    golden_shapes,
    lavila_egovlp,
    original_egovlp,
    videomae_shapes,
)

FULL_SIZE = {"rtol": 1e-3, "atol": 1e-4}  # the golden files' own tolerance for these
SIZES = [("tiny", {}), pytest.param("base", FULL_SIZE, marks=pytest.mark.slow)]


def close(actual, name, rtol=1e-4, atol=1e-5):
    with np.load(GOLDEN / "video.npz") as golden:
        np.testing.assert_allclose(actual.numpy(), golden[name], rtol=rtol, atol=atol)


def film(*shape, seed=0):
    """(B, T, H, W, 3) uint8 frames."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small files of weights in the published layouts, by name."""
    folder = tmp_path_factory.mktemp("weights")
    egovlp, videomae = by_rule(egovlp_shapes(224, 64, 1, 16, 8)), by_rule(videomae_shapes(64, 1))
    contents = {
        "original": original_egovlp(egovlp),
        "lavila": lavila_egovlp(egovlp),
        "verb": {"module": videomae},
        "noun": {"model": by_rule(videomae_shapes(64, 1, 582))},
        "configured": original_egovlp(egovlp) | {"config": argparse.Namespace()},  # an object, as in EgoVLP's file
        "lacking": {"module": {k: v for k, v in videomae.items() if "norm1" not in k}},
        "text": {"state_dict": "none"},
    }
    for name, content in contents.items():
        torch.save(content, folder / name)
    (folder / "damaged").write_bytes((folder / "verb").read_bytes()[:5000])
    return folder


# ---- as published


@pytest.mark.parametrize("name", ["egovlp_tiny", "videomae_tiny"])
def test_names_and_shapes_of_weights_are_the_published_ones(name):
    assert golden_shapes(name) == VIDEO[name]["parameters"]


@pytest.mark.parametrize(("size", "tolerance"), SIZES)
def test_egovlp_computes_what_is_published(size, tolerance):
    name = f"egovlp_{size}"
    weights = by_rule(golden_shapes(name))
    assert sum(value.numel() for value in weights.values()) == VIDEO[name]["num_parameters"]
    model = SpaceTimeTransformer.from_published(weights, VIDEO[name]["num_heads"]).eval()
    with torch.inference_mode():
        close(model.cls(golden_frames(name)), f"{name}/cls", **tolerance)
        close(model(golden_frames(name)), f"{name}/feature", **tolerance)


@pytest.mark.parametrize(("size", "tolerance"), SIZES)
def test_videomae_computes_what_is_published(size, tolerance):
    name = f"videomae_{size}"
    weights, c = by_rule(golden_shapes(name)), VIDEO[name]
    assert sum(value.numel() for value in weights.values()) == c["num_parameters"]
    shape = {"size": c["img_size"], "num_frames": c["all_frames"], "head": c["embed_dim"] // c["num_heads"]}
    with torch.inference_mode():
        for before_norm, kind in ((True, "mean"), (False, "feature")):
            encoder = encoders._videomae("videomae", weights, before_norm, **shape)
            features = encoder.features(golden_frames(name))
            close(features, f"{name}/{kind}", **tolerance)
        close(encoder.model.classifier(features), f"{name}/logits", **tolerance)
        if size == "tiny":
            close(encoder.model.videomae(golden_frames(name)).last_hidden_state, f"{name}/tokens")


def test_frames_are_scaled_and_cropped_as_published():
    images = torch.from_numpy(np.random.RandomState(36).random_sample((2, 3, 90, 120)).astype(np.float32))
    close(encoders._pixels(images, 64, 56, **encoders.IMAGENET), "transform/short64_crop64_to56")


@pytest.mark.parametrize("case", VIDEO["egovlp_frames"], ids=lambda case: f"{case['start_sec']}-{case['end_sec']}")
def test_egovlp_reads_the_frames_that_are_published(files, case):
    encoder = load_encoder(f"egovlp={files / 'lavila'}")
    numbers = encoder.frame_numbers(case["start_sec"], case["end_sec"], case["num_frames"])
    assert numbers.shape == (case["num_features"], 4)
    flat, left_over = numbers.ravel().tolist(), case["num_read"] % 4
    assert flat[:12] == case["first"]
    assert flat[len(flat) - 12 + left_over :] == case["last"][: 12 - left_over]
    dropped = case["last"][12 - left_over :]
    assert sum(flat) + sum(dropped) == case["sum"]
