import numpy as np
import pytest
import torch

from groundnlq.engine.optim import Ema, learning_rate_at, make_optimizer, parameter_groups, set_rate
from groundnlq.model.losses import Criterion
from groundnlq.model.published import to_published
from tests.golden_inputs import GOLDEN, META, golden_batch, golden_model


def test_the_rate_of_every_step_is_the_published_one():
    golden = np.load(GOLDEN / "schedule.npz")
    warmup, total, base = (golden[key].item() for key in ("warmup_steps", "total_steps", "base_lr"))
    rates = [learning_rate_at(step, base, warmup, total) for step in range(len(golden["lr"]))]
    np.testing.assert_allclose(rates, golden["lr"], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["tiny", "tiny_star"])
def test_only_the_published_weights_decay(name):
    model = golden_model(name)
    groups = parameter_groups(model, 0.05)
    decaying = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    ours = {key: p for key, p in model.named_parameters() if id(p) in decaying}
    assert sorted(to_published(ours)) == sorted(META["weight_decay_parameters"][name])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_the_backbone_factor_leaves_the_heads_alone():
    model = golden_model("tiny")
    optimizer = make_optimizer(model, 0.05, backbone_rate_factor=0.1)
    set_rate(optimizer, 1e-3)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in model.heads.parameters()} == {1e-3}
    assert all(rates[id(p)] == pytest.approx(1e-4) for p in model.video_encoder.parameters())


@pytest.mark.parametrize("name", ["tiny", "tiny_star"])
def test_eighteen_steps_follow_the_published_program(name):
    golden = np.load(GOLDEN / f"{name}.npz")
    model, batch = golden_model(name, drop_path=0.0).train(), golden_batch(name)
    criterion, optimizer, ema = Criterion().train(), make_optimizer(model, 0.05), Ema(model, 0.999)
    trace = []
    for step in range(18):
        set_rate(optimizer, learning_rate_at(step, 1e-3, 6, 18))
        optimizer.zero_grad()
        losses = criterion(model(batch), batch)
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trace.append((losses.total.item(), norm.item(), optimizer.param_groups[0]["lr"]))
        optimizer.step()
        ema.update(model)
    np.testing.assert_allclose(trace, golden["train_trace"], rtol=1e-3, atol=1e-6)
    for module, key in ((model, "final_param_sum"), (ema.module, "final_ema_sum")):
        state = to_published(dict(module.named_parameters()))
        sums = [state[name].double().sum().item() for name, _ in META["parameters"][name]]
        np.testing.assert_allclose(sums, golden[key], atol=1e-3)
