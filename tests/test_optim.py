import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from groundnlq.config import TrainConfig
from groundnlq.engine.step import _make_optimizer, learning_rate_at
from groundnlq.model.losses import Criterion
from tests.golden_inputs import GOLDEN, META, golden_batch, golden_model
from tests.learner import new_learner
from tests.published_layout import to_published


def is_head(name):
    return name.startswith("heads.")


def test_the_rate_of_every_step_is_the_published_one():
    golden = np.load(GOLDEN / "schedule.npz")
    warmup, total, base = (golden[key].item() for key in ("warmup_steps", "total_steps", "base_lr"))
    rates = [learning_rate_at(step, base, warmup, total) for step in range(len(golden["lr"]))]
    np.testing.assert_allclose(rates, golden["lr"], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["tiny", "tiny_star"])
def test_only_the_published_weights_decay(name):
    model = golden_model(name)
    groups = _make_optimizer(model, 0.05, is_head).param_groups
    decaying = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    ours = {key: p for key, p in model.named_parameters() if id(p) in decaying}
    assert sorted(to_published(ours)) == sorted(META["weight_decay_parameters"][name])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_the_backbone_factor_leaves_the_heads_alone():
    model = golden_model("tiny")
    learner = new_learner(model, TrainConfig(backbone_rate_factor=0.1))
    learner.step([golden_batch("tiny")], 1e-3, seed=0)
    rates = {id(p): group["lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in model.heads.parameters()} == {1e-3}
    assert all(rates[id(p)] == pytest.approx(1e-4) for p in model.video_encoder.parameters())


def test_a_clip_norm_of_zero_leaves_the_gradients_as_they_are():
    gradients = {}
    for clip in (0, 1e9, 1e-3):
        model = golden_model("tiny", drop_path=0.0)
        new_learner(model, TrainConfig(clip_grad_norm=clip)).step([golden_batch("tiny")], 1e-3, seed=0)
        gradients[clip] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.equal(gradients[0], gradients[1e9])
    assert gradients[0].norm() > 100 * gradients[1e-3].norm()


@pytest.mark.parametrize("published_normaliser", [False, True])
@pytest.mark.parametrize("name", ["tiny", "tiny_star"])
def test_eighteen_steps_follow_the_published_program(name, published_normaliser):
    golden = np.load(GOLDEN / f"{name}.npz")
    model, batch = golden_model(name, drop_path=0.0), golden_batch(name)
    learner = new_learner(model, TrainConfig(published_normaliser=published_normaliser))
    trace = []
    for step in range(18):
        rate = learning_rate_at(step, 1e-3, 6, 18)
        losses, norm = learner.step([batch], rate, seed=0)
        trace.append((losses["loss total"], norm, rate))
    np.testing.assert_allclose(trace, golden["train_trace"], rtol=1e-3, atol=1e-6)
    for module, key in ((model, "final_param_sum"), (learner.ema, "final_ema_sum")):
        state = to_published(dict(module.named_parameters()))
        sums = [state[name].double().sum().item() for name, _ in META["parameters"][name]]
        np.testing.assert_allclose(sums, golden[key], atol=1e-3)


@pytest.mark.parametrize("limit", [0.05, 1e3])
@pytest.mark.parametrize("published_normaliser", [False, True])
def test_two_micro_batches_give_the_gradient_of_their_mean_loss_clipped(published_normaliser, limit):
    batch, model = golden_batch("tiny"), golden_model("tiny", drop_path=0.0).train()
    config = TrainConfig(clip_grad_norm=limit, published_normaliser=published_normaliser)
    learner = new_learner(golden_model("tiny", drop_path=0.0), config)
    _, norm = learner.step([batch, batch], rate=0.0, seed=0)
    criterion = Criterion(TrainConfig())
    terms, positives = criterion(model(batch), batch)
    total = sum(terms.values())
    if published_normaliser:  # the count runs on between the two
        loss = torch.zeros(())
        for _ in range(2):
            criterion.update(positives)
            loss = loss + total / criterion.normaliser.item() / 2
    else:
        criterion.update(2 * positives)
        loss = 2 * total / criterion.normaliser
    loss.backward()
    assert norm == pytest.approx(clip_grad_norm_(model.parameters(), limit).item(), rel=1e-5)
    assert (norm > limit) == (limit < 1)
    for found, expected in zip(learner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-7)
