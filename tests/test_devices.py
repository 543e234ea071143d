"""All tensors lie where they belong on a GPU, and little waits for it: held without one by `tests.fake_gpu`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from groundnlq.analysis.candidates import LivePredictions
from groundnlq.config import DecodeConfig, TrainConfig
from groundnlq.data.dataset import QueryDataset
from groundnlq.data.features import FeatureStore
from groundnlq.data.records import read_records
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.distributed import World
from groundnlq.engine.graphs import StepGraphs
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.reporter import Reporter
from groundnlq.errors import FeatureError
from groundnlq.model import attention, decode, grounder
from groundnlq.model.grounder import Grounder
from groundnlq.model.losses import Criterion
from groundnlq.model.points import make_points
from tests.fake_gpu import CPU, GPU, WrongDevice, fake_gpu
from tests.golden_inputs import GRID, golden_batch, golden_model
from tests.learner import new_learner
from tests.tiny_run import make_tiny_data, tiny_config, with_lengths

NAMES = ["tiny", "tiny_star"]


@pytest.fixture
def gpu(monkeypatch):
    """Also for threads, which know nothing of the fake one."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with fake_gpu() as found:
        yield found


def without_device(function):
    """A function that creates tensors, on the CPU whatever it is asked for."""
    return lambda *args, device=None, **options: function(*args, **options)


def forgetful(name):
    """PyTorch as a module sees it that forgot the device of one function."""
    return SimpleNamespace(**vars(torch) | {name: without_device(getattr(torch, name))})


# ---- the network, its loss, decoding


@pytest.mark.parametrize("name", NAMES)
def test_network_criterion_and_decoding_stay_on_the_gpu_and_give_what_the_cpu_gives(name, gpu):
    model, batch = golden_model(name, drop_path=0.0), golden_batch(name)
    expected = model(batch)
    terms, count = Criterion(TrainConfig())(expected, batch)
    moments = decode.decode(expected, GRID, batch.durations_sec, DecodeConfig())
    model, batch = model.to(GPU), batch.to(GPU)
    text = model.encode_text(batch.text, batch.text_mask)
    clips = model.encode_video(batch.video, batch.video_mask)
    levels = model.fuse(clips, batch.clip_index, text, batch.text_mask)
    assert {x.device for x in (text, clips.attention, levels[-1].x, levels[-1].mask)} == {GPU}
    outputs = model.ground(clips, batch.clip_index, text, batch.text_mask)
    assert {outputs.logits.device, outputs.offsets.device, outputs.mask.device, outputs.points.level.device} == {GPU}
    found, found_count = Criterion(TrainConfig(), GPU)(outputs, batch)
    assert {found_count.device, *(term.device for term in found.values())} == {GPU}
    assert gpu.waits == []
    answers = decode.decode(outputs, GRID, batch.durations_sec, DecodeConfig())
    assert gpu.waits == ["copy to the CPU"]
    assert {answer.device for answer in answers} == {CPU}
    torch.testing.assert_close([x.cpu() for x in found.values()], list(terms.values()))
    assert found_count.cpu() == count
    for one, other in zip(answers, moments, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "voting"), [("soft", 0.0), ("hard", 0.0), ("none", 0.0), ("soft", 0.9)])
def test_decoding_of_every_kind_waits_once(kind, voting, gpu):
    batch = golden_batch("tiny").to(GPU)
    outputs = golden_model("tiny").to(GPU)(batch)
    decode.decode(outputs, GRID, batch.durations_sec, DecodeConfig(nms=kind, voting_iou=voting, pre_nms_topk=5))
    assert gpu.waits == ["copy to the CPU"]


# ---- a step


def test_a_training_step_waits_once_and_learns_what_the_cpu_learns(gpu):
    learners = []
    for device in (CPU, GPU):
        learner = new_learner(golden_model("tiny"), TrainConfig(published_normaliser=True), World(device=device))
        for seed in range(3):  # in the first one, tables are made and copied
            gpu.waits, gpu.uploads = [], 0
            learner.step([golden_batch("tiny", [0, 1]), golden_batch("tiny", [2])], 1e-3, seed)
            assert gpu.waits == ["tolist"] * (device == GPU)
        assert gpu.uploads == 2 * 6 * (device == GPU)  # the tensors of two batches
        learners.append(learner)
    state = [p for module in (learners[1].model, learners[1].ema) for p in module.parameters()]
    expected = [p for module in (learners[0].model, learners[0].ema) for p in module.parameters()]
    kept = [x for value in learners[1].optimizer.state.values() for x in value.values()]
    assert {x.device for x in (*state, *kept)} == {GPU}
    for one, other in zip(state, expected, strict=True):
        torch.testing.assert_close(one.detach().cpu(), other.detach(), rtol=1e-4, atol=1e-5)


def test_what_a_graph_would_capture_stays_on_the_gpu_and_reads_nothing_back(gpu):
    learner = new_learner(golden_model("tiny"), TrainConfig(), World(device=GPU))
    learner.graphs = StepGraphs(learner._backward, GPU, lambda act: (list, act()))
    for _ in range(3):
        gpu.waits = []
        learner.step([golden_batch("tiny")], 1e-3, 0)
        assert gpu.waits == ["tolist"]
    assert {p.grad.device for p in learner.model.parameters()} == {GPU}
    ((fixed, _, _),) = learner.graphs._graphs.values()
    assert {x.device for x in fixed.tensors().values()} == {GPU}


# ---- prediction


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A network, configuration and twelve clips of 18 to 62 steps with three queries each."""
    folder = with_lengths(make_tiny_data(tmp_path_factory.mktemp("devices")), 18)
    config, records = tiny_config(folder), read_records(folder / "train.jsonl") + read_records(folder / "val.jsonl")
    torch.manual_seed(0)
    order = np.random.default_rng(0).permutation(len(records))
    stores = FeatureStore(folder / "features.h5"), TokenStore(folder / "text.h5")
    dataset = QueryDataset([records[i] for i in order], *stores, config.data.grid)
    return Grounder(config.model).eval(), config, dataset


def predictor_of(world, device=CPU, **options):
    model, config, _ = world
    fresh = Grounder(config.model).eval()
    fresh.load_state_dict(model.state_dict())
    return Predictor(fresh.to(device), config, world=World(device=device), reporter=Reporter(), **options)


def test_several_clips_at_once_give_the_moments_of_clips_alone(world, gpu, monkeypatch):
    _, _, dataset = world
    monkeypatch.setattr("groundnlq.engine.predictor.BYTES_AT_ONCE", (1 << 20, 4 * 9 * 48))
    alone, predictor, passes, told = predictor_of(world), predictor_of(world, GPU), [], []
    expected = alone.predict_dataset(dataset)
    ground = predictor.model.ground
    monkeypatch.setattr(predictor.model, "ground", lambda clips, index, *rest: passes.append((clips, index)) or
                        ground(clips, index, *rest))  # fmt: skip
    predictor.reporter = SimpleNamespace(status=told.append)
    gpu.waits.clear()
    found = predictor.predict_dataset(dataset)
    assert list(found) == list(expected) == [record.query_id for record in dataset.records]
    for query_id, moments in expected.items():
        np.testing.assert_allclose(found[query_id], moments, rtol=1e-4, atol=1e-4)
    assert [len(clips.mask) for clips, _ in passes] == [4, 3, 2, 2, 1]
    lengths = [clips.mask.shape[1] for clips, _ in passes]
    assert lengths == sorted(lengths)
    assert told[-1] == {"state": "predicting", "step": 36, "total_steps": 36}
    waits = ["tolist", "copy to the CPU"] * len(passes)
    assert gpu.waits[: len(waits)] == waits


def test_no_more_rows_pass_a_gpu_at_once_than_was_set(world, gpu, monkeypatch):
    monkeypatch.setattr("groundnlq.engine.predictor.BYTES_AT_ONCE", (1, 4 * 6 * 48))
    predictor, rows = predictor_of(world, GPU), []
    ground = predictor.model.ground
    monkeypatch.setattr(predictor.model, "ground", lambda clips, index, *rest: rows.append(len(index) *
                        clips.mask.shape[1]) or ground(clips, index, *rest))  # fmt: skip
    predictor.predict_dataset(world[2])
    assert max(rows) == 6 * 48


def test_a_broken_clip_among_several_is_named_with_its_queries(world, gpu, monkeypatch):
    _, _, dataset = world
    read = dataset.store.read
    broken = lambda uid, **options: read(uid, **options) * (torch.nan if uid == "c5" else 1)  # noqa: E731
    monkeypatch.setattr(dataset.store, "read", broken)
    with pytest.raises(FeatureError, match=r"numbers for a5_\d, a5_\d, a5_\d \(clip c5\) are NaN or Inf"):
        predictor_of(world, GPU).predict_dataset(dataset)


def test_one_question_and_the_explorers_outputs_stay_on_the_gpu(world, gpu):
    _, _, dataset = world
    tokens = dataset.tokens.read(dataset.records[0].query_id)
    encoder = SimpleNamespace(name="directions", width=8, encode=lambda texts: [tokens])
    found = []
    for device in (CPU, GPU):
        predictor = predictor_of(world, device, encoder="directions")
        asked = [predictor.ask(dataset.records[0].clip_uid, "which?", encoder=encoder) for _ in range(2)]
        live = LivePredictions(predictor, dataset)
        ranked = [live.decode(s).ranked for s in (None, DecodeConfig(nms="hard", top_k=7, voting_iou=0.9))]
        found.append([*asked, *ranked, live.attention(3), live.candidates(2)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-3, atol=1e-3)


# ---- negative controls: what is left on the CPU is found


def test_a_tensor_that_the_network_leaves_on_the_cpu_is_found(gpu, monkeypatch):
    model, batch = golden_model("tiny").to(GPU), golden_batch("tiny").to(GPU)
    monkeypatch.setattr(attention, "torch", forgetful("arange"))
    with pytest.raises(WrongDevice, match=r"where of cpu .*, cuda"):
        model(batch)


def test_a_tensor_that_the_criterion_gets_from_the_cpu_is_found(gpu, monkeypatch):
    model, batch = golden_model("tiny").to(GPU), golden_batch("tiny").to(GPU)
    monkeypatch.setattr(grounder, "make_points", lambda lengths, ranges, device: make_points(lengths, ranges))
    with pytest.raises(WrongDevice, match=r"cuda .*, cpu|cpu .*, cuda"):
        Criterion(TrainConfig(), GPU)(model(batch), batch)


@pytest.mark.parametrize("nms", ["soft", "none"])  # in a pick; without picks, in the answer that there always is
def test_a_tensor_that_decoding_leaves_on_the_cpu_is_found(nms, gpu, monkeypatch):
    batch = golden_batch("tiny").to(GPU)
    outputs = golden_model("tiny").to(GPU)(batch)
    monkeypatch.setattr(decode, "torch", forgetful("arange"))
    with pytest.raises(WrongDevice, match=r"index of cuda .*, cpu"):
        decode.decode(outputs, GRID, batch.durations_sec, DecodeConfig(nms=nms))


def test_state_of_the_loss_that_stays_on_the_cpu_is_found(gpu):
    learner = new_learner(golden_model("tiny"), TrainConfig(), World(device=GPU))
    learner.ema.to(CPU)
    with pytest.raises(WrongDevice, match="_foreach_lerp_"):
        learner.step([golden_batch("tiny")], 1e-3, 0)


def test_what_waits_for_a_gpu_is_counted(gpu):
    x = torch.ones(3, device=GPU)
    x[x > 0].sum().item()
    x.cpu().tolist()
    bool((x > 1).any())
    assert gpu.waits == ["index", "_local_scalar_dense", "copy to the CPU", "_local_scalar_dense"]
    with pytest.raises(WrongDevice, match="numpy"):
        x.numpy()
