"""What the speed claims rest on: the stand-in computes the same answers, the GPU checks run and record all."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.golden_inputs import META, golden_batch, golden_model

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def standin(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
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


def test_the_arithmetic_of_a_small_step_is_counted_with_all_of_its_queries(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import small_step

    one, two, four = (small_step.flop(small_step.grounding_step(size)) for size in (1, 2, 4))
    assert one > 1e8
    assert (four - two) / (two - one) == pytest.approx(2, rel=0.05)  # later queries have more tokens


@pytest.fixture
def report(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_report

    monkeypatch.setattr(gpu_report, "GRACE_SEC", 1)
    return gpu_report.Report(tmp_path, {"device": "none"})


def test_a_gpu_check_that_breaks_off_is_recorded_and_the_others_go_on(report, tmp_path):
    def breaks():
        raise ValueError("broken")

    def part():
        report.check("broken check", breaks)
        report.check("wrong check", lambda: {"passed": False})
        report.check("broken alternative", lambda: {"one way": {"error": "no such kernel"}})
        report.check("check behind it", lambda: {"passed": True})
        breaks()

    report.part("first", 60, part)
    report.part("second", 60, lambda: report.check("right check", lambda: {"ms": 1.0}))
    checks = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["checks"]
    assert "ValueError: broken" in checks["first"]["broken check"]["error"]
    assert "in breaks" in checks["first"]["broken check"]["traceback"]
    assert checks["first"]["check behind it"]["result"] == {"passed": True}
    assert checks["second"]["right check"]["result"] == {"ms": 1.0}
    bad = ["broken check", "wrong check", "broken alternative", "(outside of the checks)"]
    assert report.failures() == [f"first: {name}" for name in bad]
    table = (tmp_path / "table.txt").read_text(encoding="utf-8")
    assert "broken check: ERROR ValueError: broken" in table
    assert "right check: ms 1" in table


def test_a_gpu_check_that_takes_too_long_is_interrupted_and_those_without_time_are_skipped(report):
    report.part("slow", 1, lambda: report.check("endless", lambda: time.sleep(60), needs=0))
    report.part("late", 0, lambda: report.check("no time", lambda: 1 / 0))
    assert report.content["checks"]["slow"]["endless"]["error"].startswith("TimeoutError")
    assert "skipped" in report.content["checks"]["late"]["no time"]


@pytest.mark.slow
def test_the_gpu_checks_all_run_on_a_cpu(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    checks = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["checks"]
    assert list(checks) == ["right", "runs", "fast", "steps", "video", "ways"]
    has_video = importlib.util.find_spec("groundnlq.video") is not None
    skipped = [name for part in checks.values() for name, entry in part.items() if "skipped" in entry]
    assert skipped == ["extraction"] * (not has_video)
