"""Every analysis follows the numbers of the run: none has targets or decode settings of its own."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from groundnlq.analysis.candidates import FixedPredictions, LivePredictions, levels_reached
from groundnlq.analysis.diagnosis import Diagnosis
from groundnlq.analysis.outcomes import diagnose, outcome_codes
from groundnlq.config import DecodeConfig, TrainConfig
from groundnlq.data.dataset import Batch, QueryDataset
from groundnlq.data.features import FeatureStore
from groundnlq.data.records import Record, read_records
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.predictor import Predictor
from groundnlq.model.grounder import Grounder
from groundnlq.model.losses import Criterion, sigmoid_focal_loss
from groundnlq.view.explorer import Explorer
from notebooks.lessons import inspection, learning, targets
from notebooks.lessons.levels import level_table
from tests.stub_network import RANGES, config_of, live_predictions
from tests.tiny_run import make_tiny_data, small_network, tiny_config

ROOT = Path(__file__).resolve().parents[1]
MOMENTS = [(10.0, 14.0), (20.3, 20.9), (30.0, 45.0)]
RECORDS = [Record(f"a_{i}", "c", "?", 64.0, (moment,)) for i, moment in enumerate(MOMENTS)]
# fields of the configuration that make targets, and others of their values
TARGETS = {
    "center_radius": {"train": {"center_radius": 0.2}},
    "regression_ranges_grid": {"ranges": [[3, 9], [9, 18], [18, 36], [36, 10000]]},
}


def run_of(config):
    return live_predictions(RECORDS, {"a_0": [(50, 60, 0.5)]}, config)


def lit(axis):
    """Times of the points that are drawn as positive."""
    return sorted(map(tuple, axis.lines[1].get_xydata().tolist()))


ANALYSES_OF_TARGETS = {
    "levels reached": lambda config: [levels_reached(record, config) for record in RECORDS],
    "outcomes": lambda config: outcome_codes(run_of(config), 0.3, config.decode).tolist(),
    "levels of a diagnosis": lambda config: level_table(Diagnosis("run", run_of(config)))["moments"].tolist(),
    "moments per level": lambda config: [
        bar.get_height() for bar in inspection.moments_per_level(RECORDS, config).axes[0].patches
    ],
    "jitter": lambda config: learning.jitter_figure(RECORDS[2], np.array(MOMENTS), config).axes[1]
    .collections[0].get_offsets().data.tolist(),
    "assignment": lambda config: lit(targets.assignment_figure(config, 64.0, 3.0).axes[0]),
}  # fmt: skip


@pytest.mark.parametrize("number", TARGETS)
@pytest.mark.parametrize("analysis", ANALYSES_OF_TARGETS)
def test_an_analysis_follows_the_targets_of_the_run(analysis, number):
    find = ANALYSES_OF_TARGETS[analysis]
    assert find(config_of()) == find(config_of(ranges=RANGES))
    assert find(config_of(**TARGETS[number])) != find(config_of())


CRITERIA = {
    "center_radius": ({"center_radius": 0.3}, "is_positive"),
    "label_smoothing": ({"label_smoothing": 0.4}, "focal"),
}


@pytest.fixture(scope="module")
def network_and_batch():
    random = torch.Generator().manual_seed(1)
    video, text = torch.randn(60, 8, generator=random), torch.randn(5, 8, generator=random)
    batch = Batch.collate([video], [text], [0], [torch.tensor([[20.3, 27.8]])], ["a_0"], ["c"], [60.0], 4)
    return small_network(num_stem_layers=1), batch


@pytest.mark.parametrize("number", CRITERIA)
def test_the_losses_of_points_follow_the_training_of_the_run(network_and_batch, number):
    changes, column = CRITERIA[number]
    own, usual = (
        learning.point_losses(*network_and_batch, Criterion(TrainConfig(**settings)))[column]
        for settings in (changes, {})
    )
    assert not own.equals(usual)


def test_the_table_of_losses_weighs_regression_as_training_does(network_and_batch):
    model, batch = network_and_batch
    row = "regression: positive points"
    once, thrice = (
        learning.loss_table({"run": model}, batch, Criterion(TrainConfig(regression_weight=w))) for w in (1.0, 3.0)
    )
    assert thrice.loc[row, "run"] == pytest.approx(3 * once.loc[row, "run"])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_figure_of_losses_has_the_label_smoothing_of_the_run(smoothing):
    positive, negative, _ = targets.loss_figure(smoothing).axes[1].lines
    for line, target in ((positive, 1 - smoothing / 2), (negative, smoothing / 2)):
        logits = torch.logit(torch.as_tensor(line.get_xdata()))
        expected = sigmoid_focal_loss(logits, torch.full_like(logits, target))
        assert np.asarray(line.get_ydata()) == pytest.approx(expected.numpy(), abs=1e-6)


# ---- decoding

DECODING = {  # other values of every field, with which the predictions differ
    "min_score": {"min_score": 0.66},
    "pre_nms_topk": {"pre_nms_topk": 2},
    "min_duration_grid": {"min_duration_grid": 4.0},
    "nms": {"nms": "none"},
    "sigma": {"sigma": 0.05},
    "iou_threshold": {"nms": "hard", "iou_threshold": 0.6},
    "voting_iou": {"voting_iou": 0.3},
    "top_k": {"top_k": 2},
}
BESIDE = {"iou_threshold": {"nms": "hard"}}  # what else a run has with which the field has a meaning


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """Makes `LivePredictions` of a network whose scores vary, with these decode settings, and its dataset."""
    folder = make_tiny_data(tmp_path_factory.mktemp("own") / "data")
    config = tiny_config(folder)
    stores = FeatureStore(folder / "features.h5"), TokenStore(folder / "text.h5")
    dataset = QueryDataset(read_records(folder / "val.jsonl"), *stores, config.data.grid)
    torch.manual_seed(0)
    model = Grounder(config.model).eval()
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.4)

    def make(**decode):
        own = config.model_copy(update={"decode": DecodeConfig(**decode)})
        return LivePredictions(Predictor(model, own), dataset)

    return make


def as_predicted(run):
    """The predictions that `groundnlq predict` gives for the run, as those of a file."""
    return FixedPredictions(run.records, run.predictor.predict_dataset(run.dataset))


def test_every_decode_setting_is_tried():
    assert DECODING.keys() == DecodeConfig.model_fields.keys()


@pytest.mark.parametrize("field", DECODING)
def test_an_analysis_follows_the_decode_settings_of_the_run(make_run, field):
    run, usual = make_run(**DECODING[field]), make_run(**BESIDE.get(field, {}))
    columns = ["first tIoU", "best tIoU", "score"]
    found, expected = diagnose(run)[columns], diagnose(as_predicted(run), settings=run.settings)[columns]
    assert found.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-5)
    rows = range(len(run.records))
    own, others = ([one.decode().of(i, one.settings.top_k) for i in rows] for one in (run, usual))
    assert any(a.shape != b.shape or not np.allclose(a, b, atol=1e-4) for a, b in zip(own, others, strict=True))


@pytest.mark.parametrize("field", DECODING)
def test_the_explorer_opens_with_the_decode_settings_of_the_run(make_run, field):
    run = make_run(**DECODING[field])
    explorer = Explorer({"run": run})
    assert explorer._settings("run") == run.settings
    segments = run.decode().of(0, run.settings.top_k)
    assert len([value for _, value in explorer.prediction.options if value > 0]) == len(segments)


@pytest.mark.parametrize("folder", ["groundnlq/analysis", "groundnlq/view", "notebooks/lessons"])
def test_no_analysis_has_a_literal_default_for_a_number_of_the_run(folder):
    names = {*DecodeConfig.model_fields, "center_radius", "label_smoothing", "regression_weight", "keep"}
    for path in (ROOT / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                options = node.args
                positional = [*options.posonlyargs, *options.args][::-1]
                pairs = [*zip(positional, options.defaults[::-1], strict=False)]
                pairs += [p for p in zip(options.kwonlyargs, options.kw_defaults, strict=True) if p[1]]
                own = [a.arg for a, d in pairs if a.arg in names and isinstance(d, ast.Constant) and d.value]
                assert own == [], path.name
