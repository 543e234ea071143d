"""What is drawn of training is what training does."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch

from groundnlq.config import TrainConfig
from groundnlq.data.dataset import Batch
from groundnlq.data.records import Record
from groundnlq.engine.step import learning_rate_at
from groundnlq.model.losses import Criterion
from groundnlq.model.points import assign_targets, make_points
from notebooks.lessons import learning
from tests.stub_network import config_of
from tests.tiny_run import SMALL_RANGES, small_network

RANGES = SMALL_RANGES
CONFIG = config_of(ranges=RANGES)
GRID = CONFIG.data.grid


@pytest.fixture(scope="module")
def model():
    return small_network(num_stem_layers=1)


@pytest.fixture(scope="module")
def batch():
    random = torch.Generator().manual_seed(1)
    clips = [torch.randn(length, 8, generator=random) for length in (60, 41)]
    texts = [torch.randn(length, 8, generator=random) for length in (5, 3)]
    moments = [torch.tensor([[20.3, 27.8]]), torch.tensor([[5.0, 9.0]])]
    return Batch.collate(clips, texts, [0, 1], moments, ["a_0", "b_0"], ["c", "d"], [60.0, 41.0], 4)


def drawn(figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def test_the_losses_of_all_points_sum_to_those_of_training(model, batch):
    criterion = Criterion(TrainConfig())
    terms, positives = criterion(model(batch), batch)
    tables = [learning.point_losses(model, batch, criterion, query) for query in range(2)]
    every = pd.concat(tables)
    assert every["focal"].sum() == pytest.approx(terms["classification"].item(), rel=1e-5)
    assert every["diou"].sum() == pytest.approx(terms["regression"].item(), rel=1e-5)
    assert every["is_positive"].sum() == positives.item() > 0
    assert [len(table) for table in tables] == [60 + 30 + 15, 41 + 21 + 11]


def test_a_positive_points_overlap_is_that_of_its_segment_with_the_moment(model, batch):
    table = learning.point_losses(model, batch, Criterion(TrainConfig()))
    positive = table[table["is_positive"]]
    start, end = batch.moments_grid[0][0].tolist()
    inter = np.clip(np.minimum(positive["end"], end) - np.maximum(positive["start"], start), 0, None)
    hull = np.maximum(positive["end"], end) - np.minimum(positive["start"], start)
    assert positive["tiou"].to_numpy() == pytest.approx((inter / hull).to_numpy(), abs=1e-5)
    assert table.loc[~table["is_positive"], ["tiou", "diou"]].isna().all(axis=None)


def test_the_table_of_losses_adds_up_to_the_total(model, batch):
    criterion = Criterion(TrainConfig())
    terms, positives = criterion(model(batch), batch)
    column = learning.loss_table({"one": model}, batch, criterion)["one"]
    total = sum(terms.values()).item() / positives.item()
    assert column.iloc[:3].sum() == pytest.approx(total, rel=1e-5)


def test_shares_count_the_draws_that_make_a_point_positive():
    draws = np.array([[10.0, 14.0], [11.0, 19.0], [2.0, 3.0]])
    points, shares = learning.positive_shares(draws, 40, CONFIG)
    count = np.zeros(len(points))
    for moment in draws:
        labels, _ = assign_targets(points, torch.tensor(GRID.to_grid(moment)).float()[None], 1.5)
        count += labels.numpy()
    assert shares == pytest.approx(count / 3)
    assert 0 < shares.max() < 1
    assert len(make_points((40, 20, 10), RANGES)) == len(points)


def test_the_jitter_is_drawn_where_it_is_and_only_positive_points_are_lit(tmp_path):
    record = Record("a_0", "c", "C puts $5", 40.0, ((12.0, 13.0),))
    draws = np.array([[11.0, 14.0], [12.0, 16.0]])
    above, below, *_ = learning.jitter_figure(record, draws, CONFIG, (11.0, 15.0)).axes
    lines = [tuple(line.get_xdata()) for line in above.lines if len(line.get_xdata())]
    assert lines == [(11.0, 14.0), (12.0, 16.0)]
    points, shares = learning.positive_shares(draws, 40, CONFIG)
    lit = below.collections[0].get_offsets().data
    assert len(lit) == (shares > 0).sum()
    assert sorted(lit[:, 0]) == pytest.approx(sorted(GRID.to_sec(points.time_grid).numpy()[shares > 0]))


def test_the_schedule_is_that_of_training():
    config = TrainConfig(epochs=6, warmup_epochs=2, ema_decay=0.9, learning_rate=0.01)
    history = [{"step": 4 * n, "learning_rate": learning_rate_at(4 * n - 1, 0.01, 8, 24)} for n in range(1, 7)]
    (axis,) = learning.schedule_figure(config, 4, history).axes
    curve, dots = (line.get_ydata() for line in axis.lines)
    assert list(curve) == [learning_rate_at(step, 0.01, 8, 24) for step in range(24)]
    assert list(dots) == pytest.approx([curve[4 * n - 1] for n in range(1, 7)])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("moment", [[20.3, 27.8], [20.1, 20.2]])
def test_before_and_after_are_drawn_with_and_without_positive_points(model, batch, moment):
    one = Batch.collate(
        [batch.video[0, :60]], [batch.text[0, :5]], [0], [torch.tensor([moment])], ["a_0"], ["c"], [60.0], 4
    )
    tables = {name: learning.point_losses(model, one, Criterion(TrainConfig())) for name in ("before", "after $")}
    record = Record("a_0", "c", "C puts", 60.0, (tuple(GRID.to_sec(np.array(moment))),))
    figure = learning.losses_figure(tables, record, one.moments_grid[0], GRID)
    count = int(tables["before"]["is_positive"].sum())
    assert f"of {count} positive" in figure.axes[4].get_title()
    assert drawn(figure)
