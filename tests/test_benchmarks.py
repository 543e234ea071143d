"""What the speed claims rest on: the stand-in for the published program computes the same answers."""

from pathlib import Path

import pytest
import torch

from tests.golden_inputs import META, golden_batch, golden_model


@pytest.fixture
def standin(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import standin

    return standin


@pytest.mark.parametrize("name", ["tiny", "tiny_star"])
def test_the_stand_in_answers_and_learns_as_the_kit_does(standin, name):
    gradients, outputs = [], []
    batch = golden_batch(name).to("cpu", dtype=torch.float64)
    for wrap in (torch.nn.Identity(), lambda m: standin.StandIn(m, META["archs"][name]["max_seq_len"])):
        model = golden_model(name, drop_path=0.0).train().double()
        predictions = wrap(model)(batch)
        valid = predictions.logits[predictions.mask], predictions.offsets[predictions.mask]
        (valid[0].sum() + valid[1].sum()).backward()
        outputs.append(torch.cat([part.flatten().detach() for part in valid]))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_stand_in_reads_what_it_stored(standin):
    clip = torch.randn(7, 5)
    assert torch.equal(standin.inflate(standin.compress(clip)), clip)
