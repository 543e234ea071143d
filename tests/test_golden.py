"""What the published program computes (tests/golden/README.md), at the tolerances given there."""

import numpy as np
import pytest
import torch

from groundnlq.config import DecodeConfig, ModelConfig, TrainConfig
from groundnlq.model.decode import decode
from groundnlq.model.grounder import Grounder
from groundnlq.model.points import assign_targets, make_points
from tests.golden_inputs import GOLDEN, GRID, META, golden_batch, golden_config, golden_model
from tests.learner import new_learner
from tests.published_layout import to_published

NAMES = ["tiny", "tiny_star", "champion"]


def stored(name):
    return np.load(GOLDEN / f"{name}.npz")


def close(actual, expected, rtol=1e-4, atol=1e-5):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", NAMES)
def test_scores_offsets_and_pyramid_equal_the_published_ones(name):
    model, batch, golden = golden_model(name).eval(), golden_batch(name), stored(name)
    with torch.no_grad():
        predictions = model(batch)
        text = model.encode_text(batch.text, batch.text_mask)
        clips = model.encode_video(batch.video, batch.video_mask)
        x, mask, lengths = model.neck(model.fuse(clips, batch.clip_index, text, batch.text_mask))
    rows, masks = (joined.split([n + 2 for n in lengths], dim=1) for joined in (x, mask))
    for b in range(len(batch.query_ids)):
        for level in range(golden_config(name).num_levels):
            valid = predictions.mask[b] & (predictions.points.level == level)
            close(predictions.logits[b, valid], golden[f"logits/{b}/{level}"])
            close(predictions.offsets[b, valid], golden[f"offsets/{b}/{level}"])
            if f"pyramid/{b}/{level}" in golden:
                close(rows[level][b][masks[level][b]], golden[f"pyramid/{b}/{level}"])


@pytest.mark.parametrize("name", NAMES)
def test_decoded_moments_equal_the_published_ones(name):
    batch, golden = golden_batch(name), stored(name)
    with torch.no_grad():
        predictions = golden_model(name).eval()(batch)
    ranked = decode(predictions, GRID, batch.durations_sec, DecodeConfig())
    for b, moments in enumerate(ranked):
        close(moments[:, :2], golden[f"moments/{b}"][:, :2], rtol=0, atol=1e-3)
        close(moments[:, 2], golden[f"moments/{b}"][:, 2])


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_equal_the_published_ones(name):
    model, batch, golden = golden_model(name, drop_path=0.0).train(), golden_batch(name), stored(name)
    learner = new_learner(model, TrainConfig(clip_grad_norm=1e9))  # of which nothing is clipped
    losses, _ = learner.step([batch], rate=0.0, seed=0)
    numbers = [losses[f"loss {name}"] for name in ("classification", "regression", "total")]
    close([*numbers, learner.task.normaliser.value], golden["loss"])
    gradients = to_published({key: p.grad for key, p in model.named_parameters()})
    norms = [gradients[key].norm().item() for key, _ in META["parameters"][name]]
    close(norms, golden["grad_norm"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["tiny", "tiny_star"])
def test_targets_equal_the_published_ones(name):
    config, golden = golden_config(name), stored(name)
    lengths = tuple(config.max_seq_len >> level for level in range(config.num_levels))
    points = make_points(lengths, config.regression_ranges_grid)
    for b, moments in enumerate(golden_batch(name).moments_grid):
        labels, distances = assign_targets(points, moments, 1.5)
        close(labels, golden[f"target_cls/{b}"], rtol=0, atol=0)
        close(distances[labels > 0], golden[f"target_reg/{b}"])


@pytest.mark.parametrize(
    ("num_cross", "num_self", "expected"), [(0, 6, 32_527_498), (6, 0, 36_080_266)], ids=["champion", "star"]
)
def test_parameter_counts_are_the_published_ones(num_cross, num_self, expected):
    with torch.device("meta"):
        model = Grounder(ModelConfig(num_cross_levels=num_cross, num_self_levels=num_self))
    assert sum(p.numel() for p in model.parameters()) == expected
