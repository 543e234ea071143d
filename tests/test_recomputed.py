"""What is computed again in the backward pass changes no number, and is not kept."""

import pytest
import torch
from torch import nn

from groundnlq.model import layers as kit
from groundnlq.model.layers import LayerNorm, Linear, _gelu_linear, normed_linear


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(kit, "LARGE", 0)


def layers(width=6, out=5, dtype=torch.float32):
    torch.manual_seed(0)
    norm, linear = LayerNorm(width), Linear(width, out)
    for parameter in (*norm.parameters(), *linear.parameters()):
        nn.init.normal_(parameter)
    return norm.to(dtype), linear.to(dtype)


def ways(norm, linear):
    return {
        "norm": (lambda x: normed_linear(x, norm, linear), lambda x: linear(norm(x))),
        "gelu": (lambda x: _gelu_linear(x, linear), lambda x: linear(nn.functional.gelu(x))),
    }


@pytest.mark.parametrize("name", ["norm", "gelu"])
def test_derivatives_are_those_of_differences(name):
    norm, linear = layers(dtype=torch.float64)
    again, _ = ways(norm, linear)[name]
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    parameters = [p for layer in (norm, linear) for p in layer.parameters()]
    assert torch.autograd.gradcheck(lambda x, *_: again(x), (x, *parameters), nondet_tol=0.0)


@pytest.mark.parametrize("name", ["norm", "gelu"])
@pytest.mark.parametrize("is_bfloat16", [False, True])
def test_results_and_gradients_are_those_of_keeping_everything(name, is_bfloat16):
    norm, linear = layers(width=64, out=48)
    found = []
    for way in ways(norm, linear)[name]:
        torch.manual_seed(1)
        x = torch.randn(2, 30, 64, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16):
            y = way(x.bfloat16() if is_bfloat16 else x)
        y.float().square().sum().backward()
        used = [p for p in (*norm.parameters(), *linear.parameters()) if p.grad is not None]
        found.append([y, x.grad, *(p.grad for p in used)])
        norm.zero_grad()
        linear.zero_grad()
    assert len(found[0]) == (6 if name == "norm" else 4)
    assert found[0][0].dtype == (torch.bfloat16 if is_bfloat16 else torch.float32)
    for again, kept in zip(*found, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["norm", "gelu"])
@pytest.mark.parametrize("is_large", [False, True])
def test_what_the_linear_map_reads_is_kept_only_where_it_is_small(name, is_large, monkeypatch):
    norm, linear = layers(width=64, out=48)
    monkeypatch.setattr(kit, "LARGE", 100 * 64 + (not is_large))
    kept_bytes = []
    for way in ways(norm, linear)[name]:
        x, kept = torch.randn(100, 64, requires_grad=True), {}

        def pack(tensor, kept=kept):
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            way(x).sum().backward()
        kept_bytes.append(sum(kept.values()))
    assert kept_bytes[1] - kept_bytes[0] == is_large * 100 * 64 * 4
