"""Training alone: it learns, it stops and goes on bit for bit, and it refuses what would go wrong."""

import hashlib
import json
import math
import shutil
import signal
import warnings
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from groundnlq.cli import main
from groundnlq.config import load_config
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.records import read_records, write_records
from groundnlq.data.tokens import TokenStore, write_tokens
from groundnlq.engine import launch as engine
from groundnlq.engine import trainer as trainer_module
from groundnlq.engine.checkpoint import States, load_model, read_checkpoint
from groundnlq.engine.distributed import StopRequest, World
from groundnlq.engine.grounding import start_from, task
from groundnlq.engine.launch import train
from groundnlq.engine.reporter import Reporter
from groundnlq.engine.run_dir import RunDirectory, read_history, read_status
from groundnlq.engine.trainer import Trainer
from groundnlq.errors import CheckpointError, ConfigError, FeatureError, KitError, Preempted, TrainingFailed
from tests.published_layout import to_published
from tests.tiny_run import make_tiny_data, same_weights, tiny_config, weights_of


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def calm(data, tmp_path_factory):
    """An uninterrupted run of three epochs of six steps."""
    return train(tiny_config(data), tmp_path_factory.mktemp("calm"))


def run_until(config, folder, step, **options):
    """Train and be asked to stop behind this step, as SIGTERM does."""

    class AskedToStop(Trainer):
        def _after_step(self, stop):
            stop.signal_number = signal.SIGTERM if self.step == step else 0
            super()._after_step(stop)

    original, engine.Trainer = engine.Trainer, AskedToStop
    try:
        with pytest.raises(Preempted):
            train(config, folder, **options)
    finally:
        engine.Trainer = original


def test_a_tiny_world_is_learned(data, tmp_path):
    result = train(tiny_config(data, epochs=20, validate_every_epochs=10), tmp_path)
    last = result.history[-1]
    assert last["loss total"] < 0.4 * result.history[0]["loss total"]
    assert last["raw R@1 IoU=0.3"] > 80
    assert read_status(tmp_path)["state"] == "finished"
    assert load_model(tmp_path)[1] == tiny_config(data, epochs=20, validate_every_epochs=10)


def test_two_runs_of_one_seed_are_bitwise_equal_and_of_another_are_not(data, calm, tmp_path):
    same = train(tiny_config(data), tmp_path / "same")
    other = train(tiny_config(data, seed=1), tmp_path / "other")
    assert same_weights(calm.last, same.last)
    assert not same_weights(calm.last, other.last)


@pytest.mark.parametrize("step", [1, 6, 11])
def test_a_run_that_was_stopped_anywhere_ends_as_the_calm_one(data, calm, tmp_path, step):
    run_until(tiny_config(data), tmp_path, step)
    status = read_status(tmp_path)
    assert (status["state"], status["step"], status["total_steps"]) == ("preempted", step, 18)
    assert "the same command continues" in status["reason"]
    result = train(tiny_config(data), tmp_path)
    assert result.resumed_from_step == step
    assert same_weights(calm.last, result.last)
    assert same_weights(calm.best, result.best)
    timeless = [
        [{k: v for k, v in row.items() if "second" not in k and "wait" not in k and "memory" not in k} for row in h]
        for h in (calm.history, result.history)
    ]
    assert timeless[0] == timeless[1]
    assert read_history(tmp_path) == result.history


def spoiled(state, name):
    """A state with one ingredient left out or wrong."""
    if name == "ema":
        state["ema"] = state["model"]
    elif name == "optimizer":
        state["optimizer"]["state"] = {}
    elif name == "loss_normaliser":
        state["loss_normaliser"] = [10.0]
    elif name == "position":
        state["step"] -= 1
    elif name == "weights":
        next(iter(state["model"].values())).add_(1e-3)
    return state


@pytest.mark.parametrize("name", ["ema", "optimizer", "loss_normaliser", "position", "weights"])
def test_leaving_out_any_part_of_the_state_changes_the_end(data, calm, tmp_path, monkeypatch, name):
    run_until(tiny_config(data), tmp_path, 11)
    monkeypatch.setattr(trainer_module, "read_checkpoint", lambda path: spoiled(read_checkpoint(path), name))
    result = train(tiny_config(data), tmp_path)
    assert not same_weights(calm.last, result.last)


def test_jitter_and_dropped_paths_follow_the_step_and_not_the_past(data, tmp_path):
    config = tiny_config(data)
    config = config.model_copy(update={"data": config.data.model_copy(update={"jitter_max_scale": 5})})
    whole = train(config, tmp_path / "whole")
    run_until(config, tmp_path / "parts", 8)
    torch.manual_seed(123)  # whatever happened to the global random state meanwhile
    np.random.seed(123)  # noqa: NPY002
    parts = train(config, tmp_path / "parts")
    assert same_weights(whole.last, parts.last)


def test_a_finished_run_does_nothing_and_warns_of_nothing(data, calm, monkeypatch):
    before = calm.last.read_bytes()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 17)  # of no interest: nothing goes on
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = train(tiny_config(data), calm.run_dir)
    assert again.history == calm.history
    assert calm.last.read_bytes() == before


def test_another_configuration_is_refused_with_the_keys_that_differ(data, calm):
    with pytest.raises(ConfigError, match=r"train\.learning_rate, train\.seed differ"):
        train(tiny_config(data, learning_rate=1e-3, seed=5), calm.run_dir)


def test_a_second_run_in_the_folder_is_refused(data, tmp_path):
    with RunDirectory(tmp_path).locked(), pytest.raises(KitError, match="in use by process"):
        train(tiny_config(data), tmp_path)


MANIFESTS = {"manifest empty": b"", "manifest null": b"null"}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "zeros", "empty", "gone", "no manifest", *MANIFESTS])
def test_a_damaged_newest_state_is_passed_over_with_a_warning(data, calm, tmp_path, damage):
    run_until(tiny_config(data, checkpoint_every_steps=2), tmp_path, 11)
    newest = States(tmp_path / "checkpoints").committed()[0]
    content = newest.read_bytes()
    if damage == "truncated":
        newest.write_bytes(content[:-1])
    elif damage == "flipped":
        middle = len(content) // 2
        newest.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "zeros":
        newest.write_bytes(bytes(len(content)))
    elif damage == "empty":
        newest.write_bytes(b"")
    elif damage == "gone":
        newest.unlink()
    elif damage in MANIFESTS:
        newest.with_suffix(".json").write_bytes(MANIFESTS[damage])
    else:
        newest.with_suffix(".json").unlink()
    config = tiny_config(data, checkpoint_every_steps=2)
    if damage == "no manifest":
        result = train(config, tmp_path)
    else:
        with pytest.warns(UserWarning, match="not usable"):
            result = train(config, tmp_path)
    assert result.resumed_from_step == 10
    assert same_weights(calm.last, result.last)


def test_where_no_state_is_whole_nothing_is_overwritten(data, tmp_path):
    run_until(tiny_config(data), tmp_path, 7)
    for state in (tmp_path / "checkpoints").glob("*.pt"):
        state.write_bytes(b"damaged")
    before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "checkpoints").iterdir())
    with pytest.warns(match="not usable"), pytest.raises(CheckpointError, match="no usable checkpoint"):
        train(tiny_config(data), tmp_path)
    assert sorted((p.name, p.read_bytes()) for p in (tmp_path / "checkpoints").iterdir()) == before


def test_as_many_states_are_kept_as_asked_for(data, tmp_path):
    train(tiny_config(data, checkpoint_every_steps=2, keep_checkpoints=3), tmp_path)
    kept = [path.name for path in States(tmp_path / "checkpoints").committed()]
    assert kept == ["step-00000018.pt", "step-00000016.pt", "step-00000014.pt"]
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 3


def test_a_disk_that_is_full_is_reported_and_keeps_what_is_there(data, tmp_path, monkeypatch):
    run_until(tiny_config(data), tmp_path, 7)
    before = States(tmp_path / "checkpoints").committed()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("groundnlq.files.os.fsync", full)
    with pytest.raises(KitError, match="No space left on device"):
        train(tiny_config(data), tmp_path)
    monkeypatch.undo()
    assert States(tmp_path / "checkpoints").committed() == before
    assert not list(tmp_path.rglob("*.tmp"))
    assert train(tiny_config(data), tmp_path).resumed_from_step == 7


def test_what_is_not_finite_stops_before_the_update_and_names_the_queries(data, tmp_path, monkeypatch):
    whole = FeatureStore.read

    def broken(self, clip_uid):
        features = whole(self, clip_uid)
        return features * math.nan if clip_uid == "c3" else features

    run_until(tiny_config(data), tmp_path, 6)
    monkeypatch.setattr(FeatureStore, "read", broken)
    with pytest.raises(TrainingFailed, match=r"queries .*a3_"):
        train(tiny_config(data), tmp_path)
    assert read_status(tmp_path)["state"] == "failed"
    state = read_checkpoint(States(tmp_path / "checkpoints").latest())
    assert all(value.isfinite().all() for value in state["model"].values())


def test_micro_batches_give_what_one_batch_gives(data):
    trainers = [new_trainer(still(tiny_config(data, batch_size=b, accumulate_steps=a))) for b, a in ((4, 1), (2, 2))]
    for trainer in trainers:
        for micro_batches, _ in islice(trainer.batches_of(0), 2):
            trainer.train_step(micro_batches)
    for one, other in zip(*(t.learner.model.parameters() for t in trainers), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)
    assert trainers[0].task.normaliser.value == trainers[1].task.normaliser.value


def new_trainer(config, folder="unused"):
    return Trainer(task(config, World()), config, RunDirectory(folder), World(), Reporter())


def still(config):
    return config.model_copy(update={"model": config.model.model_copy(update={"drop_path": 0.0})})


def test_fine_tuning_keeps_all_but_the_heads(data, calm):
    config = tiny_config(data, init_from=str(calm.best))
    trainer = new_trainer(config)
    names = start_from(task(config, World()).model, config)
    assert all(name.startswith("heads.") for name in names["fresh"])
    assert not any(name.startswith("heads.") for name in names["loaded"])
    source = load_model(calm.best)[0].state_dict()
    for state in (trainer.learner.model.state_dict(), trainer.learner.ema.state_dict()):
        assert all(torch.equal(state[name], source[name]) for name in names["loaded"])
        assert not torch.equal(state["heads.classification.convs.0.weight"],
                               source["heads.classification.convs.0.weight"])  # fmt: skip


def test_fine_tuning_takes_the_heads_where_asked_to(data, calm):
    config = tiny_config(data, init_from=str(calm.best), init_heads=True)
    messages = []
    reporter = Reporter()
    reporter.message = messages.append
    trainer = Trainer(task(config, World()), config, RunDirectory("unused"), World(), reporter)
    source = load_model(calm.best)[0].state_dict()
    assert all(torch.equal(trainer.learner.model.state_dict()[name], value) for name, value in source.items())
    assert messages == [f"{calm.best}: {len(source)} tensors loaded, 0 start fresh"]


def test_fine_tuning_from_nowhere_or_from_another_architecture_is_refused(data, calm, tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        train(tiny_config(data, init_from=str(tmp_path / "absent.pt")), tmp_path / "a")
    config = tiny_config(data, init_from=str(calm.best))
    wider = config.model_copy(update={"model": config.model.model_copy(update={"width": 32})})
    with pytest.raises(CheckpointError, match="another architecture"):
        train(wider, tmp_path / "b")


def test_missing_inputs_are_listed_before_any_work(data, tmp_path):
    records = read_records(data / "train.jsonl")
    foreign = [type(r)(r.query_id + "0", "x" + r.clip_uid, r.query, 40.0, r.moments_sec) for r in records[:2]]
    write_records(data / "foreign.jsonl", records + foreign)
    config = tiny_config(data)
    config = config.model_copy(update={"data": config.data.model_copy(update={"train_records": ("foreign.jsonl",)})})
    with pytest.raises(FeatureError, match=r"1 of 9 clips have no features .*xc0.*2 of 26 queries have no tokens"):
        train(config, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_odd_moments_are_left_out_of_training_told_once_and_misses_of_the_validation(tmp_path):
    class Told(Reporter):
        def __init__(self):
            self.texts = []

        def message(self, text):
            self.texts.append(text)

    config, told = tiny_config(make_tiny_data(tmp_path / "data")), Told()
    whole = task(config, World(), told)
    assert told.texts == []
    train_records, val_records = (read_records(tmp_path / "data" / f"{name}.jsonl") for name in ("train", "val"))
    odd = [((5.0, 5.0),), ((9.0, 4.0),), ((45.0, 49.0),), ((-9.0, -5.0), (7.0, 7.0))]
    more = [replace(train_records[i], query_id=f"odd_{i}", moments_sec=moments) for i, moments in enumerate(odd)]
    write_records(tmp_path / "data" / "train.jsonl", [more[0], *train_records, *more[1:]])
    write_records(tmp_path / "data" / "val.jsonl", [replace(r, moments_sec=((5.0, 5.0),)) for r in val_records])
    part = task(config, World(), told)
    assert part.train_set.records == whole.train_set.records
    assert part.inputs["records"] == whole.inputs["records"]
    kinds = "1 moments of 0 s (odd_0), 1 moments that end before they start (odd_1), 2 moments outside the clip"
    assert told.texts == [f"left out of training: {kinds} (odd_2, odd_3)"]
    assert set(part.validate(part.model).values()) == {0.0}
    write_records(tmp_path / "data" / "train.jsonl", more)
    with pytest.raises(ConfigError, match="no moments to learn from"):
        task(config, World(), told)


def test_the_log_has_a_line_an_epoch_with_what_one_wants_to_know(calm):
    lines = (calm.run_dir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for key in ("loss total", "learning_rate", "ema mean R@1", "steps_per_second", "peak_memory_mb"):
        assert all(key in row for row in rows)
    assert weights_of(calm.last).keys() == weights_of(calm.best).keys()


def test_patience_ends_a_run_that_no_longer_improves(data, tmp_path):
    patient = {"epochs": 40, "patience_epochs": 2, "learning_rate": 1e-9}
    assert len(train(tiny_config(data, **patient), tmp_path).history) == 3
    more = tiny_config(data, **patient | {"patience_epochs": 3})
    assert len(train(more, tmp_path, extend=True).history) == 4


def test_a_signal_is_only_noted_until_the_step_is_done():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# ---- choices of the engine


def test_bfloat16_trains_with_losses_in_float32_and_comes_near(data, calm, tmp_path):
    result = train(tiny_config(data, precision="bfloat16"), tmp_path)
    assert not same_weights(calm.last, result.last)
    assert all(value.dtype == torch.float32 for value in weights_of(result.last).values())
    for low, full in zip(result.history, calm.history, strict=True):
        assert low["loss total"] == pytest.approx(full["loss total"], rel=0.05)


def test_tensorboard_gets_the_numbers_of_the_log(data, tmp_path):
    pytest.importorskip("tensorboard", reason="the optional extra is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(tiny_config(data, tensorboard=True), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss total")]
    assert logged == [(row["step"], pytest.approx(row["loss total"])) for row in result.history]


def test_the_kernels_are_chosen_as_configured(data, tmp_path):
    try:
        train(tiny_config(data, epochs=2, deterministic=True, tf32=True), tmp_path / "a")
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        train(tiny_config(data, epochs=2), tmp_path / "b")
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(("key", "prefix"), [("state_dict", "module."), ("state_dict_ema", "_orig_mod.module.")])
@pytest.mark.filterwarnings("ignore:.*only averaged weights")
def test_a_published_checkpoint_can_be_fine_tuned(data, calm, tmp_path, key, prefix):
    state = to_published(load_model(calm.best)[0].state_dict())
    published = {"epoch": 3, key: {f"{prefix}{name}": value for name, value in state.items()}}
    torch.save(published, tmp_path / "p.pth.tar")
    config = tiny_config(data, init_from=str(tmp_path / "p.pth.tar"))
    trainer = new_trainer(config, tmp_path / "unused")
    source = load_model(calm.best)[0].state_dict()
    loaded = start_from(task(config, World()).model, config)["loaded"]
    assert len(loaded) > 50
    assert all(torch.equal(trainer.learner.model.state_dict()[name], source[name]) for name in loaded)


def test_settings_that_do_not_shape_the_weights_may_change_between_stops(data, calm, tmp_path):
    run_until(tiny_config(data), tmp_path, 7)
    changed = tiny_config(data, checkpoint_every_steps=2, keep_checkpoints=5, timeout_sec=30.0)
    assert same_weights(calm.last, train(changed, tmp_path).last)
    with pytest.raises(ConfigError, match=r"train\.batch_size differ"):
        train(tiny_config(data, batch_size=2), tmp_path)


@pytest.mark.parametrize("ingredient", ["dropped paths", "order of samples", "jitter"])
def test_leaving_out_any_random_number_changes_the_end(data, calm, tmp_path, monkeypatch, ingredient):
    """What is no saved state but follows from seed and step: drawn otherwise behind a stop, it would show."""
    config = tiny_config(data)
    config = config.model_copy(update={"data": config.data.model_copy(update={"jitter_max_scale": 3})})
    whole = train(config, tmp_path / "whole")
    run_until(config, tmp_path / "parts", 8)
    if ingredient == "dropped paths":
        monkeypatch.setattr(trainer_module, "_mix", lambda seed, step, rank: 1)
    elif ingredient == "order of samples":
        shuffled = trainer_module.shuffled_batches
        monkeypatch.setattr(trainer_module, "shuffled_batches", lambda n, b, s, e: shuffled(n, b, s + 1, e))
    else:
        monkeypatch.setattr("groundnlq.data.dataset.jitter", lambda moments, scale, random: moments)
    assert not same_weights(whole.last, train(config, tmp_path / "parts").last)


def test_reading_ahead_has_one_thread_and_leaves_the_others_theirs(data, monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        trainer = new_trainer(tiny_config(data))
        monkeypatch.setattr(trainer, "_micro_batches", lambda indices, epoch: torch.get_num_threads())
        seen = [(item, torch.get_num_threads()) for item, _ in trainer.batches_of(0)]
        assert seen == [(1, 2)] * 6
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_gradients_of_queries_that_share_a_clip_are_summed_in_order_by_several_threads():
    """In parallel they would be added as they come, and two runs of one seed would differ."""
    from groundnlq.model.blocks import ClipEncoding

    before, index = torch.get_num_threads(), torch.zeros(64, dtype=torch.int64)
    torch.manual_seed(0)
    weight, skip = torch.randn(64, 256, 64), torch.zeros(1, 256, 64, requires_grad=True)
    clips = ClipEncoding(skip, skip.detach(), torch.ones(1, 256, dtype=torch.bool))
    try:
        torch.set_num_threads(2)
        found = [torch.autograd.grad((clips.for_queries(index).skip * weight).sum(), skip)[0] for _ in range(20)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found)


# ---- what a crash leaves of the run's files


@pytest.fixture
def crashed(calm, tmp_path):
    """A copy of the finished run."""
    return RunDirectory(shutil.copytree(calm.run_dir, tmp_path / "run"))


DAMAGES = {
    "empty": lambda b: b"",
    "cut": lambda b: b[:40],
    "zeros": lambda b: bytes(len(b)),
    "bytes": lambda b: b"\xff{",
}


@pytest.mark.parametrize(
    ("name", "damage"), [*(("status.json", damage) for damage in DAMAGES), ("metrics.jsonl", "empty")]
)
def test_a_file_that_only_informs_is_written_again_with_a_warning(data, calm, crashed, name, damage):
    path = crashed.path / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.warns(UserWarning, match=rf"{name}: damaged; left out until the run writes it again"):
        _ = read_status(crashed.path), read_history(crashed.path), train(tiny_config(data), crashed.path)
    assert read_status(crashed.path)["state"] == "finished"
    assert read_history(crashed.path) == calm.history


def test_whole_lines_of_a_damaged_log_are_kept(calm, crashed):
    crashed.metrics.write_bytes(crashed.metrics.read_bytes()[:-40])
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: damaged"):
        assert read_history(crashed.path) == calm.history[:-1]


def test_a_log_of_processes_and_a_holder_that_are_damaged_do_not_matter(data, crashed):
    for path in (crashed.log, crashed.path / ".pid", crashed.path / ".lock"):
        path.write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tiny_config(data), crashed.path)


def test_a_configuration_that_is_damaged_is_named_with_what_to_do(data, crashed):
    (crashed.path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"config\.yaml: .*not NoneType -- remove it .*groundnlq show"):
        train(tiny_config(data), crashed.path)
    (crashed.path / "config.yaml").unlink()
    assert train(tiny_config(data), crashed.path).resumed_from_step == 18


@pytest.mark.parametrize("damage", ["empty", "cut"])
def test_weights_that_a_crash_damaged_are_exported_again(data, calm, crashed, damage):
    for path in (crashed.best, crashed.last):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.warns(UserWarning, match=r"best\.pt: damaged; the next validated weights replace it"):
        train(tiny_config(data), crashed.path)
    assert same_weights(crashed.last, calm.last)
    assert load_model(crashed.best)[2]["epoch"] == 3


# ---- more epochs, another rate


def extended_config(data, **more):
    return tiny_config(data, **{"epochs": 4} | more)


def rates(history):
    return [row["learning_rate"] for row in history]


def test_a_finished_run_goes_on_for_more_epochs_when_asked(data, calm, crashed):
    """The steps that were taken stay; the cosine of the others is laid over the new total."""
    messages = []
    reporter = Reporter()
    reporter.message = messages.append
    result = train(extended_config(data), crashed.path, extend=True, reporter=reporter)
    assert result.resumed_from_step == 18
    assert result.history[:3] == calm.history
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
    whole = new_trainer(extended_config(data))
    assert rates(result.history)[3:] == [whole.learning_rate(23)]
    assert rates(result.history)[2] < whole.learning_rate(18)  # it jumps
    changes = "epochs 3 -> 4, learning_rate 0.003 -> 0.003; the cosine is laid over all epochs"
    rate = f"{whole.learning_rate(18):.3g}"
    assert messages == [f"{crashed.path}: {changes}, so the rate goes on with {rate}"]
    before = [{"step": 18, "epochs": 3, "learning_rate": 0.003}]
    assert load_model(crashed.last)[2]["extended"] == before
    assert load_model(calm.last)[2]["extended"] == []


def test_an_extended_run_that_is_interrupted_ends_as_one_that_is_not(data, calm, crashed, tmp_path):
    """Behind the extension, the same command without it goes on; so does the one with it."""
    other = RunDirectory(shutil.copytree(calm.run_dir, tmp_path / "other"))
    whole = train(extended_config(data), other.path, extend=True)
    with pytest.raises(ConfigError, match=r"train\.epochs differ .*--extend goes on for more epochs"):
        train(extended_config(data), crashed.path)
    run_until(extended_config(data), crashed.path, 20, extend=True)
    run_until(extended_config(data), crashed.path, 22)
    result = train(extended_config(data), crashed.path, extend=True)
    assert result.resumed_from_step == 22
    assert same_weights(whole.last, result.last)
    assert load_model(other.last)[2]["extended"] == load_model(crashed.last)[2]["extended"]


@pytest.mark.parametrize(("step", "is_equal"), [(6, True), (8, False)])
def test_an_extension_during_the_warmup_equals_a_longer_run(data, calm, tmp_path, step, is_equal):
    """No step had a rate of the shorter schedule; two steps more, and one had."""
    run_until(tiny_config(data, epochs=2), tmp_path, step)
    result = train(tiny_config(data), tmp_path, extend=True)
    assert result.resumed_from_step == step
    assert same_weights(calm.last, result.last) == is_equal


def test_a_run_goes_on_with_another_rate_when_asked(data, crashed):
    result = train(extended_config(data, learning_rate=1e-4), crashed.path, extend=True)
    assert max(rates(result.history)[3:]) < 1e-4


def test_several_processes_find_the_extended_configuration(data, crashed, monkeypatch):
    monkeypatch.setattr(engine, "_start", lambda folder, *_: load_config(folder.path / "config.yaml"))
    monkeypatch.setattr(engine, "_follow", lambda folder, started, reporter: started)
    assert train(extended_config(data), crashed.path, processes=2, extend=True) == extended_config(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"epochs": 2}, r"train\.epochs differ"), ({"epochs": 5, "seed": 1}, r"train\.seed differ -- \D*settings$")],
)
def test_an_extension_adds_epochs_and_changes_nothing_else(data, crashed, change, message):
    with pytest.raises(ConfigError, match=message):
        train(tiny_config(data, **change), crashed.path, extend=True)


def test_a_run_can_be_extended_from_the_command_line(data, crashed, capsys):
    words = ["train", str(crashed.path / "config.yaml"), "train.epochs=4", "--run", str(crashed.path)]
    assert main(words) == 2
    assert "--extend goes on for more epochs" in capsys.readouterr().err
    assert main([*words, "--extend"]) == 0
    assert "epochs 3 -> 4" in capsys.readouterr().out
    assert main(words) == 0
    assert "nothing to do (for more epochs: --extend)" in capsys.readouterr().out


# ---- data are known by their content


def test_a_run_goes_on_where_its_data_were_moved_to(data, calm, tmp_path):
    run_until(tiny_config(data), tmp_path / "run", 8)
    moved = shutil.copytree(data, tmp_path / "moved")
    (moved / "train.jsonl").rename(moved / "renamed.jsonl")
    config = tiny_config(moved)
    config = config.model_copy(update={"data": config.data.model_copy(update={"train_records": ("renamed.jsonl",)})})
    result = train(config, tmp_path / "run")
    assert result.resumed_from_step == 8
    assert same_weights(calm.last, result.last)


def other_features(folder):
    store = FeatureStore(folder / "features.h5")
    clips = [(uid, store.read(uid) + 1e-3) for uid in store.clip_uids]
    write_features(folder / "features.h5", clips, dtype="float32")


def other_tokens(folder):
    store = TokenStore(folder / "text.h5")
    write_tokens(folder / "text.h5", [(i, store.read(i) + 1e-3) for i in store.query_ids], encoder="directions")


def other_records(name):
    def change(folder):
        records = read_records(folder / name)
        write_records(folder / name, [replace(records[0], query="another?"), *records[1:]])

    return change


OTHERS = {
    "features": other_features,
    "text": other_tokens,
    "records": other_records("train.jsonl"),
    "validation records": other_records("val.jsonl"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_data_are_refused_by_name_under_either_path(data, crashed, tmp_path, name):
    folder = shutil.copytree(data, tmp_path / "moved")
    if name == "features":  # the same path as in the run before
        assert train(tiny_config(folder), crashed.path).resumed_from_step == 18
    OTHERS[name](folder)
    with pytest.raises(CheckpointError, match=rf"begun with other {name} \(\w{{8}}, now \w{{8}}\) -- use those"):
        train(tiny_config(folder), crashed.path)


def test_a_state_of_version_0_2_knows_its_data_by_one_hash(data, crashed, monkeypatch):
    def former(path):
        state = read_checkpoint(path)
        inputs = list(state.pop("inputs").values())[:3]
        return state | {"records": hashlib.sha256("\n".join(inputs).encode()).hexdigest()}

    monkeypatch.setattr(trainer_module, "read_checkpoint", former)
    train(tiny_config(data), crashed.path)
    folder = shutil.copytree(data, crashed.path / "moved")
    other_features(folder)
    with pytest.raises(CheckpointError, match=r"begun with other data \(\w{8}, now \w{8}\)"):
        train(tiny_config(folder), crashed.path)


def test_a_run_that_is_followed_stays_with_the_data_it_was_begun_with(data, crashed, tmp_path):
    before = (crashed.path / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"data\.folder differ"):
        crashed.open(tiny_config(tmp_path), is_running=True)
    crashed.open(tiny_config(data, keep_checkpoints=5), is_running=True)
    assert (crashed.path / "config.yaml").read_bytes() == before
