"""Steps that are replayed as graphs learn what other steps learn; graphs are recorded on the CPU for it."""

import inspect
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from groundnlq.config import TrainConfig
from groundnlq.data.dataset import Batch, QueryDataset
from groundnlq.data.features import FeatureStore
from groundnlq.data.records import read_records
from groundnlq.data.tokens import TokenStore
from groundnlq.engine import graphs
from groundnlq.engine.distributed import World
from groundnlq.engine.graphs import StepGraphs, _few
from groundnlq.engine.step import Learner
from groundnlq.errors import ConfigError
from groundnlq.model.grounder import Grounder
from tests.learner import new_learner
from tests.recorded_graph import ReadsBack, recording
from tests.tiny_run import make_tiny_data, tiny_config, with_lengths


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Configuration and records of clips of 16 to 60 steps, with one to three moments, or none."""
    folder = with_lengths(make_tiny_data(tmp_path_factory.mktemp("graphs")), 16)
    records = []
    for i, record in enumerate(read_records(folder / "train.jsonl")):
        (moment,) = record.moments_sec
        records.append(replace(record, moments_sec=(moment, (1.0, 4.0), (3.0, 9.0))[: i % 4]))
    stores = FeatureStore(folder / "features.h5"), TokenStore(folder / "text.h5")
    config = tiny_config(folder)
    return config, lambda **options: QueryDataset(records, *stores, config.data.grid, **options)


def learner_of(config, has_graphs, **train) -> Learner:
    torch.manual_seed(0)
    model = Grounder(config.model)
    learner = new_learner(model, TrainConfig(ema_decay=0.9, initial_loss_normaliser=10.0, **train))
    for group in learner.optimizer.param_groups:
        # a softmax does not see the keys' biases: their gradients are rounding, of which AdamW would make whole steps
        group["eps"] = 1e-4
    if has_graphs:
        value = learner.task.normaliser.value
        capture = recording(lambda: [*(p.grad for p in model.parameters()), value])
        learner.graphs = StepGraphs(learner._backward, World().device, capture)
    return learner


def steps_of(number, sizes=(2, 4)):
    """Indices of a step's micro-batches; sizes take turns, clips are shared by some queries."""
    random = np.random.default_rng(1)
    return [random.integers(0, 24, sizes[step % len(sizes)]).tolist() for step in range(number)]


def trained(learner, batches, micro_batches=1):
    found = []
    for step in range(0, len(batches), micro_batches):
        found.append(learner.step(batches[step : step + micro_batches], 3e-3, seed=step))
    return found


@pytest.mark.parametrize(("micro_batches", "published"), [(1, False), (2, False), (2, True)])
def test_steps_with_graphs_give_the_weights_of_steps_without(world, monkeypatch, micro_batches, published):
    config, dataset = world
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    plain, graphed = (learner_of(config, has, published_normaliser=published) for has in (False, True))
    order, data = steps_of(14), dataset(row_multiple=4)
    expected = trained(plain, [data.batch(indices) for indices in order], micro_batches)
    found = trained(graphed, [data.batch(indices, for_gpu=True) for indices in order], micro_batches)
    assert 2 <= len(graphed.graphs._graphs) < len(graphed.graphs._seen)
    for (losses, norm), (others, other) in zip(found, expected, strict=True):
        assert [*losses.values(), norm] == pytest.approx([*others.values(), other], rel=2e-3, abs=1e-5)
    assert graphed.task.normaliser.value.item() == pytest.approx(plain.task.normaliser.value.item())
    for mine, theirs in ((graphed.model, plain.model), (graphed.ema, plain.ema)):
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_replays_of_one_batch_drop_other_paths_with_another_seed_and_the_same_with_the_same(world):
    config, dataset = world
    config = config.model_copy(update={"model": config.model.model_copy(update={"drop_path": 0.5})})
    learner, batch = learner_of(config, True), dataset().batch([0, 1, 2])
    losses = [learner.step([batch], 0.0, seed)[0]["loss total"] * 10 for seed in (0, 1, 2, 3, 2)]
    assert len(learner.graphs._graphs) == 1
    scale = learner_of(config, False)
    expected = [scale.step([batch], 0.0, seed)[0]["loss total"] * 10 for seed in (0, 1, 2, 3, 2)]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert len({round(loss, 4) for loss in losses[:4]}) == 4


def test_the_first_batch_of_a_shape_is_computed_the_second_captured_and_few_shapes_are(world, monkeypatch):
    _, dataset = world
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 1)
    captured, computed = [], []
    act = lambda batch: computed.append(len(batch.query_ids)) or torch.ones(1)  # noqa: E731
    replaying = StepGraphs(act, World().device, lambda act: captured.append(act) or (list, torch.zeros(1)))
    batches = {n: dataset().batch(list(range(n))) for n in (1, 2)}
    assert [replaying(batches[n]).item() for n in (1, 2, 1, 2, 1, 2)] == [1, 1, 0, 1, 0, 1]
    assert len(captured) == 1
    assert computed == [1, 2, 2, 2]


def test_lengths_are_few_and_not_much_longer():
    found = {n: _few(torch.Size((3, n, 5)))[1] for n in range(1, 4000)}
    assert all(n <= padded <= max(n + 15, 9 / 8 * n) for n, padded in found.items())
    assert len(set(found.values())) <= 16 + 8 * 4
    assert _few(torch.Size((7,))) == (7,)
    assert _few(torch.Size((2, 0, 2))) == (2, 0, 2)


def test_a_batch_for_a_gpu_has_its_features_as_they_are_stored(world, monkeypatch):
    _, dataset = world
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    raw, plain = dataset().batch([0, 7, 14], for_gpu=True), dataset().batch([0, 7, 14])
    assert (raw.video.dtype, plain.video.dtype) == (torch.float16, torch.float32)
    for one, other in zip(raw.to("cpu").tensors().values(), plain.tensors().values(), strict=True):
        assert torch.equal(one, other)


def test_several_processes_are_refused():
    with pytest.raises(ConfigError, match=r"train\.cuda_graphs: several processes .* -- set it to false"):
        Learner(None, TrainConfig(cuda_graphs=True), World(rank=0, size=2))


def test_without_a_gpu_nothing_is_captured(world):
    config, _ = world
    assert new_learner(Grounder(config.model), TrainConfig(cuda_graphs=True)).graphs is None


def test_captures_share_memory_allow_other_threads_to_pin_and_run_on_a_stream_that_is_not_the_default(monkeypatch):
    """What a GPU would be told; the functions of PyTorch that need one only note it."""
    real, streams, captured = torch.cuda.graph.__init__, ["default"], []

    class Graph:
        def replay(self):
            captured.append("replayed")

        def pool(self):
            return "pool"

    @contextmanager
    def graph(*args, **options):
        told = inspect.signature(real).bind(None, *args, **options).arguments
        captured.append({key: told.get(key) for key in ("pool", "stream", "capture_error_mode")})
        yield

    stubs = {"CUDAGraph": Graph, "graph": graph, "synchronize": lambda device: None, "Stream": lambda device: "own"}
    stubs |= {"set_stream": streams.append, "current_stream": lambda: streams[-1]}
    for name, stub in stubs.items():
        monkeypatch.setattr(torch.cuda, name, stub)
    replaying = StepGraphs(lambda batch: batch.video.sum()[None], World().device)
    batches = [Batch.collate([torch.ones(n, 1)], [torch.ones(1, 1)], [0], [torch.ones(1, 2)], "q", "c", [1.0])
               for n in (5, 40)]  # fmt: skip
    assert [replaying(batch).item() for batch in batches * 3] == [5, 40] * 3
    made = {"stream": "own", "capture_error_mode": "thread_local"}
    once = [made | {"pool": None}, "replayed", made | {"pool": "pool"}, "replayed"]
    assert captured == [*once, "replayed", "replayed"]


# ---- the recorder itself


def test_the_recorder_repeats_operations_not_python_and_leaves_no_trace():
    total, x, called = torch.zeros(2), torch.ones(2), []

    def act():
        called.append(len(called))
        total.add_(x * len(called) + torch.rand(2))
        return total.sum()[None]

    random = torch.get_rng_state()
    replay, result = recording(lambda: [total])(act)
    assert torch.equal(random, torch.get_rng_state())
    assert total.tolist() == [0, 0]
    torch.manual_seed(5)
    x.fill_(3.0)
    replay()
    assert result.item() == total.sum()
    torch.manual_seed(5)
    torch.testing.assert_close(total, 3 + torch.rand(2))
    assert called == [0]


@pytest.mark.parametrize("read", [lambda x: x[x > 0].sum(), lambda x: x.nonzero(), lambda x: x * x.sum().item()])
def test_what_is_read_back_is_refused(read):
    with pytest.raises(ReadsBack):
        recording(lambda: [])(lambda: read(torch.ones(3)))


def test_a_criterion_that_picks_points_would_be_refused(world):
    config, dataset = world
    learner, batch = learner_of(config, True), dataset().batch([0, 1])

    def picking(outputs, batch):
        picked = outputs.logits[outputs.mask].sum()
        return {"classification": picked, "regression": outputs.offsets.sum()}, outputs.mask.sum().double()

    learner.task = replace(learner.task, loss=picking)
    learner.step([batch], 0.0, 0)
    with pytest.raises(ReadsBack, match="index"):
        learner.step([batch], 0.0, 0)
