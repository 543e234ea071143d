"""A second kind of learning trains with the same engine: pairs whose loss is over the whole batch."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from groundnlq.engine.distributed import StopRequest, World
from groundnlq.engine.reporter import Reporter, TerminalReporter
from groundnlq.engine.run_dir import RunDirectory, read_history, read_status
from groundnlq.engine.task import Normaliser, Task
from groundnlq.engine.trainer import Trainer
from tests.tiny_run import tiny_config


class Pairs:
    """Vectors and the same vectors turned; sample i has its own direction."""

    def __init__(self):
        self.values = torch.eye(8)
        self.lengths = [1] * 8

    def __len__(self):
        return 8

    def batch(self, indices, epoch, for_gpu=False):
        chosen = self.values[indices]
        return SimpleNamespace(
            left=chosen, right=chosen.roll(1, dims=1), query_ids=[str(i) for i in indices],
            to=lambda device, non_blocking: self.batch(indices, epoch),
        )  # fmt: skip


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.head = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, batch):
        return self.head(self.trunk(batch.left)) @ batch.right.T


def alignment_task():
    torch.manual_seed(0)
    model, pairs, size = Towers(), Pairs(), torch.ones((), dtype=torch.float64)

    def loss(scores, batch):
        term = nn.functional.cross_entropy(scores, torch.arange(len(scores)), reduction="sum")
        return {"alignment": term}, torch.tensor(len(scores), dtype=torch.float64)

    def validate(network):
        with torch.no_grad():
            scores = network(pairs.batch(list(range(8)), 0))
        return {"accuracy": 100 * (scores.argmax(1) == torch.arange(8)).float().mean().item()}

    return Task(
        model=model,
        loss=loss,
        loss_weights={"alignment": 1.0},
        normaliser=Normaliser(size, size.copy_),  # the batch's own size
        own_rate=lambda name: name.startswith("head."),
        train_set=pairs,
        validate=validate,
        select_by="accuracy",
    )


class Recorded(Reporter):
    def __init__(self):
        self.states, self.epochs = [], []

    def status(self, status):
        self.states.append((status["state"], status["step"], status["epochs"]))

    def epoch(self, history):
        self.epochs.append(len(history))


@pytest.fixture
def config(tmp_path):
    return tiny_config(tmp_path, epochs=30, batch_size=4, learning_rate=0.05, initial_loss_normaliser=1.0)


def fit(config, folder, reporter=None):
    trainer = Trainer(alignment_task(), config, RunDirectory(folder), World(), reporter or Reporter())
    trainer.fit(StopRequest())
    return trainer


def test_another_task_learns_logs_and_keeps_its_best_weights(config, tmp_path):
    trainer = fit(config, tmp_path / "run")
    first, *_, last = read_history(tmp_path / "run")
    assert last["loss alignment"] == last["loss total"] < 0.5 * first["loss total"]
    assert last["raw accuracy"] == 100.0
    assert last["loss_normaliser"] == 4
    assert trainer.best["accuracy"] == 100.0
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert best["use"] == trainer.best["use"]


def test_another_task_resumes_bitwise(config, tmp_path):
    whole = fit(config, tmp_path / "whole")
    half = Trainer(alignment_task(), config, RunDirectory(tmp_path / "half"), World(), Reporter())
    half.train_epoch(StopRequest())
    half.save()
    resumed = fit(config, tmp_path / "half")
    assert resumed.resumed_from_step == 2
    for one, other in zip(whole.learner.model.parameters(), resumed.learner.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_reporter_is_told_of_states_and_epochs(config, tmp_path):
    reporter = Recorded()
    fit(config, tmp_path / "run", reporter)
    assert reporter.epochs == list(range(1, 31))
    assert reporter.states[0] == ("running", 0, 30)
    assert reporter.states[-1] == ("finished", 60, 30)
    assert read_status(tmp_path / "run")["state"] == "finished"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_bars_are_shown_in_a_terminal_only(is_terminal, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    reporter = TerminalReporter()
    running = {"state": "running", "total_steps": 60, "epochs": 30, "loss": 0.25}
    reporter.status(running | {"step": 0, "epoch": 1})
    reporter.status({"state": "predicting", "step": 1, "total_steps": 3})
    reporter.status({"state": "predicting", "step": 3, "total_steps": 3})
    reporter.status(running | {"step": 31, "epoch": 16})
    reporter.status({"state": "failed", "step": 31, "total_steps": 60, "reason": "no reason"})
    reporter.message("12 tensors loaded")
    printed = capsys.readouterr()
    assert printed.out == "12 tensors loaded\n"
    for text in ("epoch 1/30", "epoch 16/30", "31/60", "loss=0.250", "predicting:  33%", "1/3"):
        assert (text in printed.err) == is_terminal
