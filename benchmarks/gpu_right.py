"""Is the network right on this device: golden files, losses, NMS, averages, dropped paths, batches."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gpu_site  # noqa: F401  (first: the import path)
import numpy as np
import torch
from gpu_report import apart, excess, verdict
from gpu_setting import PRECISIONS, Setting, in_tf32, kit_precision, learner_of, predictor_of
from gpu_timing import first_use
from torch import Tensor

from groundnlq.config import DecodeConfig, TrainConfig
from groundnlq.data.dataset import Batch, clip_batches
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.data.records import read_records
from groundnlq.engine.predictor import open_dataset
from groundnlq.engine.step import learning_rate_at
from groundnlq.model.attention import attend_window
from groundnlq.model.blocks import TransformerBlock
from groundnlq.model.decode import decode, hard_nms, soft_nms, vote
from groundnlq.model.grounder import Grounder, Outputs
from groundnlq.model.points import assign_targets, make_points
from tests.golden_inputs import GOLDEN, GRID, META, golden_batch, golden_config, golden_model
from tests.published_layout import to_published
from tests.tiny_run import make_tiny_data, tiny_config

DECODE = DecodeConfig()
NAMES = ("tiny", "tiny_star", "champion")


def check_right(setting: Setting) -> None:
    """All checks; each says by how much it is off, in parts of what is allowed (1 is the limit)."""
    report, device = setting.report, setting.device
    largest = "tiny" if setting.is_quick else "champion"
    report.check("first use of the device", lambda: first_use(device))
    for name in NAMES[: 2 if setting.is_quick else 3]:
        report.check(f"golden outputs, {name}", lambda name=name: outputs(name, device))
        report.check(f"golden losses and gradients, {name}", lambda name=name: losses(name, device))
    for name in NAMES[:2]:
        report.check(f"18 steps, {name}", lambda name=name: trace(name, device))
        report.check(f"targets, {name}", lambda name=name: targets(name, device))
    report.check("NMS and voting", lambda: suppression(device))
    report.check("decoding of random scores, against the CPU", lambda: decoding(device))
    for name in (largest, "tiny_star"):
        report.check(f"steps with graphs, {name}", lambda name=name: graphs(name, device))
    report.check("graphs and dropped paths", lambda: graphs_drop(device))
    report.check(f"prediction, {largest}, against the CPU", lambda: prediction(largest, device))
    report.check("clips at once, and a batch for a GPU", lambda: together(device))
    report.check(f"batch compositions, {largest}", lambda: compositions(largest, device))
    report.check("dropped paths", lambda: dropped(device))
    report.check("window attention, float64", lambda: window(device))


def stored(name: str) -> Any:
    """A golden file."""
    return np.load(GOLDEN / f"{name}.npz", allow_pickle=False)


def fresh(name: str, drop_path: float | None = None) -> Grounder:
    """The golden file's network; its weights, which take seconds to draw, are drawn once."""
    return copy.deepcopy(_drawn(name, drop_path))


@cache
def _drawn(name: str, drop_path: float | None) -> Grounder:
    return golden_model(name, drop_path)


def predicted(model: Grounder, batch: Batch, precision: str) -> Outputs:
    """As prediction does it: every tensor in bfloat16, or float32 with and without TF32."""
    with in_tf32(precision == "tf32"):
        return predictor_of(model, precision).outputs(batch)


def outputs(name: str, device: torch.device) -> dict[str, Any]:
    """Pyramid, logits, offsets and moments against the golden file; TF32 and bfloat16 against float32."""
    golden, batch, model = stored(name), golden_batch(name), fresh(name).to(device)
    answers = {precision: predicted(model, batch, precision) for precision in PRECISIONS}
    exact, worst = answers["float32"], {"pyramid": 0.0, "logits": 0.0, "offsets": 0.0}
    found = _by_level(model, batch, exact, golden_config(name).num_levels)
    for key, value in found.items():
        if key in golden:
            kind = key.split("/")[0]
            worst[kind] = max(worst[kind], excess(value.float().cpu(), golden[key], 1e-4, 1e-5))
    moments = {p: decode(answer, GRID, batch.durations_sec, DECODE) for p, answer in answers.items()}
    wanted = [golden[f"moments/{b}"] for b in range(len(batch.query_ids))]
    worst["moments"] = _moments_off(moments["float32"], wanted) / 1e-3
    pairs = zip(moments["float32"], wanted, strict=True)
    worst["scores"] = max(excess(m[:, 2], w[:, 2], 1e-4, 1e-5) for m, w in pairs)
    others = {}
    for precision in PRECISIONS[1:]:
        other = answers[precision]
        off = {"logits": apart([other.logits[other.mask]], [exact.logits[exact.mask]])}
        off["offsets"] = apart([other.offsets[other.mask]], [exact.offsets[exact.mask]])
        off["first moment, s"] = _moments_off([m[:1] for m in moments[precision]], [w[:1] for w in wanted])
        others[f"{precision} against float32"] = off
    return verdict(worst, **others)


def _by_level(model: Grounder, batch: Batch, exact: Outputs, num_levels: int) -> dict[str, Tensor]:
    found = {}
    model.eval()
    with torch.no_grad():
        batch = batch.to(next(model.parameters()).device)
        text = model.encode_text(batch.text, batch.text_mask)
        clips = model.encode_video(batch.video, batch.video_mask)
        x, mask, lengths = model.neck(model.fuse(clips, batch.clip_index, text, batch.text_mask))
    rows, masks = (joined.split([n + 2 for n in lengths], dim=1) for joined in (x, mask))
    for b in range(len(batch.query_ids)):
        for i in range(num_levels):
            valid = exact.mask[b] & (exact.points.level == i)
            found[f"logits/{b}/{i}"] = exact.logits[b, valid]
            found[f"offsets/{b}/{i}"] = exact.offsets[b, valid]
            found[f"pyramid/{b}/{i}"] = rows[i][b][masks[i][b]]
    return found


def _moments_off(moments: Iterable[Any], wanted: Iterable[Any]) -> float:
    """Largest difference of a start or end in seconds."""
    return max(
        float(np.abs(np.asarray(m)[:, :2] - np.asarray(w)[:, :2]).max()) if len(m) == len(w) else float("inf")
        for m, w in zip(moments, wanted, strict=True)
    )


def losses(name: str, device: torch.device) -> dict[str, Any]:
    """Losses and every parameter's gradient norm against the golden file, then in the other precisions."""
    golden, found, gradients = stored(name), {}, {}
    for precision in PRECISIONS:
        values, gradients[precision] = _loss_and_gradients(name, device, precision)
        if precision == "float32":
            norms = to_published(gradients[precision])
            norms = [norms[key].norm().item() for key, _ in META["parameters"][name]]
            exact = values
            found["losses"] = excess(values, golden["loss"], 1e-4, 1e-5)
            found["gradient norms"] = excess(norms, golden["grad_norm"], 1e-3, 1e-6)
    others = {
        f"{p} against float32": {"gradients": apart(gradients[p].values(), gradients["float32"].values())}
        for p in PRECISIONS[1:]
    }
    return verdict(found, **others, total_loss=exact[2])


def _loss_and_gradients(name: str, device: torch.device, precision: str) -> tuple[list[float], dict[str, Tensor]]:
    model, options = fresh(name, drop_path=0.0), {"clip_grad_norm": 1e9}  # of which nothing is clipped
    learner = learner_of(model, device, precision=kit_precision(precision), **options)
    with in_tf32(precision == "tf32"):
        found, _ = learner.step([golden_batch(name)], rate=0.0, seed=0)
    values = [found[f"loss {kind}"] for kind in ("classification", "regression", "total")]
    return [*values, learner.task.normaliser.value.item()], {key: p.grad for key, p in model.named_parameters()}


def trace(name: str, device: torch.device) -> dict[str, Any]:
    """Eighteen steps of the trainer's own, with the sums of weights and of their average."""
    golden, found, others = stored(name), {}, {}
    for precision in PRECISIONS:
        with in_tf32(precision == "tf32"):
            steps, sums = _eighteen(name, device, kit_precision(precision))
        off = {"trace": excess(steps, golden["train_trace"], 1e-3, 1e-6)}
        off |= {key: excess(sums[key], golden[f"final_{key}"], 1e-7, 1e-3) for key in sums}
        if precision == "float32":
            found = off
        else:
            others[f"{precision}, of float32's limit"] = off
    return verdict(found, **others)


def _eighteen(name: str, device: torch.device, precision: str) -> tuple[list[Any], dict[str, list[float]]]:
    learner = learner_of(fresh(name, drop_path=0.0), device, precision=precision)
    steps, batch = [], golden_batch(name)
    for step in range(18):
        rate = learning_rate_at(step, 1e-3, 6, 18)
        values, norm = learner.step([batch], rate, seed=0)
        steps.append((values["loss total"], norm, rate))
    sums = {}
    for module, key in ((learner.model, "param_sum"), (learner.ema, "ema_sum")):
        state = to_published(dict(module.named_parameters()))
        sums[key] = [state[n].double().sum().item() for n, _ in META["parameters"][name]]
    return steps, sums


def graphs(name: str, device: torch.device) -> dict[str, Any]:
    """Five steps of two micro-batches with dropped paths: replayed as graphs, and launched kernel by kernel."""
    found = {}
    every = list(range(len(golden_batch(name).query_ids)))
    batches = [[golden_batch(name, order), golden_batch(name, [0])] for order in (every, every[::-1])]
    for precision in PRECISIONS[::2]:
        steps, weights = [], []
        for is_used in (False, True):
            learner = learner_of(fresh(name), device, precision=precision, cuda_graphs=is_used, ema_decay=0.9)
            done = [learner.step(batches[i % 2], 1e-4, seed=i) for i in range(5)]
            steps.append([[norm, *losses.values()] for losses, norm in done])
            weights.append([*learner.model.parameters(), *learner.ema.parameters()])
        found[precision] = {"losses and norms": excess(steps[1], steps[0], 1e-3, 1e-6)}
        # gradients of key biases are noise (a softmax does not see them), and AdamW makes whole steps of it
        found[precision]["weights and averages"] = apart(weights[1], weights[0]) / 2e-4
        found[precision]["number of graphs"] = abs(len(learner.graphs._graphs) - 2) * 2.0
    return verdict(found["float32"], **{"bfloat16, of float32's limit": found["bfloat16"]})


def graphs_drop(device: torch.device) -> dict[str, Any]:
    """Replays follow the seed: other paths are dropped with another one, the same with the same."""
    learner, batch = learner_of(golden_model("tiny", 0.5), device, cuda_graphs=True), golden_batch("tiny")
    seeds, normaliser = (0, 0, 1, 2, 1), learner.task.normaliser.value  # which changes from step to step
    norms = [learner.step([batch], 0.0, seed)[1] * normaliser.item() for seed in seeds]
    found = {"first and replayed": excess(norms[1], norms[0], 1e-3, 0), "same": excess(norms[4], norms[2], 1e-3, 0)}
    found["other"] = 2.0 * (len({f"{norm:.3g}" for norm in norms[1:4]}) < 3)
    return verdict(found, norms=norms)


def together(device: torch.device) -> dict[str, Any]:
    """A split of clips of many lengths against each clip alone; float16 features by way of pinned memory, bitwise."""
    with tempfile.TemporaryDirectory() as folder:
        home = make_tiny_data(Path(folder))
        store, config = FeatureStore(home / "features.h5"), tiny_config(home)
        clips = {uid: store.read(uid)[: 18 + 2 * i].numpy() for i, uid in enumerate(store.clip_uids)}
        write_features(home / "features.h5", clips.items(), dtype="float16")
        records = read_records(home / "train.jsonl")
        dataset = open_dataset(config, [replace(r, duration_sec=float(len(clips[r.clip_uid]))) for r in records])
        torch.manual_seed(0)
        predictor = predictor_of(Grounder(config.model).eval().to(device), "float32", config)
        with in_tf32(False):
            every, alone = predictor.predict_dataset(dataset), {}
            for indices in clip_batches(dataset.records):
                alone |= predictor.answer(dataset.batch(indices))
        off = {"moments": _moments_off([every[q] for q in alone], alone.values()) / 1e-3}
        if device.type == "cuda":
            pairs = zip(dataset.batch([0, 5, 9], for_gpu=True).to(device, True).tensors().values(),
                        dataset.batch([0, 5, 9]).to(device).tensors().values(), strict=True)  # fmt: skip
            off["batch"] = 2.0 * any(not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)
    return verdict(off)


def targets(name: str, device: torch.device) -> dict[str, Any]:
    """Labels and distances of all points."""
    config, golden, worst = golden_config(name), stored(name), 0.0
    lengths = tuple(config.max_seq_len >> level for level in range(config.num_levels))
    points = make_points(lengths, config.regression_ranges_grid, device)
    for b, moments in enumerate(golden_batch(name).moments_grid):
        labels, distances = assign_targets(points, moments.to(device), TrainConfig().center_radius)
        worst = max(worst, excess(labels.cpu(), golden[f"target_cls/{b}"], 0, 1e-9))
        worst = max(worst, excess(distances[labels > 0].cpu(), golden[f"target_reg/{b}"], 1e-4, 1e-5))
    return verdict({"targets": worst})


def suppression(device: torch.device) -> dict[str, Any]:
    """Soft and hard NMS, and voting, against the golden file."""
    cases, worst = stored("nms"), {"soft": 0.0, "hard": 0.0, "voted": 0.0}
    for i in range(5):
        segments = torch.from_numpy(cases[f"segments/{i}"])[None].to(device)
        scores = torch.from_numpy(cases[f"scores/{i}"])[None].to(device)
        soft = soft_nms(segments, scores, 50, DECODE.sigma, DECODE.min_score)
        hard = hard_nms(segments, scores, 50, DECODE.iou_threshold, DECODE.min_score)
        voted = vote(soft[0], segments, scores, 0.9), soft[1]
        for kind, (kept, score), atol in (("soft", soft, 1e-5), ("hard", hard, 1e-5), ("voted", voted, 1e-4)):
            rows = torch.cat([kept[0], score[0][:, None]], dim=1)[score[0] > 0].cpu()
            worst[kind] = max(worst[kind], excess(rows, cases[f"{kind}/{i}"], 1e-4, atol))
    return verdict(worst)


def decoding(device: torch.device) -> dict[str, Any]:
    """The same random scores decoded here and there, by every kind of NMS; one query without candidates."""
    random, lengths = torch.Generator().manual_seed(0), tuple(2304 >> level for level in range(7))
    ranges = golden_config("champion").regression_ranges_grid
    logits = torch.randn(6, sum(lengths), generator=random)
    logits[5] = -20.0 + 0.1 * logits[5]
    offsets = 8 * torch.rand(6, sum(lengths), 2, generator=random)
    mask = torch.rand(6, sum(lengths), generator=random) > 0.1
    worst = {}
    for nms, voting in (("soft", 0.0), ("hard", 0.0), ("none", 0.0), ("soft", 0.9)):
        answers = []
        for place in (torch.device("cpu"), device):
            parts = (x.to(place) for x in (logits, offsets, mask))
            outputs = Outputs(*parts, make_points(lengths, ranges, place))
            answers.append(decode(outputs, GRID, [1200.0] * 6, DecodeConfig(nms=nms, voting_iou=voting)))
        pairs = zip(answers[1], answers[0], strict=True)
        worst[f"{nms}, voting {voting:g}"] = max(excess(a, b, 1e-4, 1e-3) for a, b in pairs)
    return verdict(worst)


def dropped(device: torch.device) -> dict[str, Any]:
    """The share of kept paths, their scale, and that the seed alone decides."""
    path = TransformerBlock(8, 1, drop_path=0.1, scale_init=1.0).attention_path.to(device).train()
    x, branch = torch.zeros(20000, 1, 8, device=device), torch.ones(20000, 1, 8, device=device)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(path(x, branch)[:, 0, 0].detach().cpu())
    share = float((drawn[0] > 0).float().mean())
    values = sorted(set(drawn[0].tolist()))
    found = {"share": abs(share - 0.9) / 0.01, "scale": abs(values[-1] - 1 / 0.9) / 1e-6}
    found |= {"same seed": float(not torch.equal(drawn[0], drawn[1])) * 2}
    found |= {"other seed": float(torch.equal(drawn[0], drawn[2])) * 2, "values": abs(len(values) - 2) * 2.0}
    return verdict(found, kept=share)


def prediction(name: str, device: torch.device) -> dict[str, Any]:
    """Ranked moments of this device against the CPU's, in parts of a millisecond."""
    ranked = [ranks(name, place, "float32") for place in (torch.device("cpu"), device)]
    off = _moments_off(ranked[1].values(), ranked[0].values())
    return verdict({"moments": off / 1e-3}, seconds_apart=off)


def ranks(name: str, device: torch.device, precision: str, parts: Iterable[list[int]] | None = None) -> dict[str, Any]:
    """Ranked moments of the golden queries, part by part or all at once."""
    predictor = predictor_of(fresh(name).to(device), precision)
    found: dict[str, Any] = {}
    with in_tf32(precision == "tf32"):
        for part in parts or [None]:
            found |= predictor.answer(golden_batch(name, part))
    return found


def compositions(name: str, device: torch.device) -> dict[str, Any]:
    """Each query alone, in pairs and all together: moments may not depend on the neighbours."""
    every = list(range(len(golden_batch(name).query_ids)))
    groups = {"alone": [[i] for i in every], "reversed": [every[::-1]]}
    groups["in pairs"] = [every[i : i + 2] for i in every[::2]]
    worst: dict[str, float] = {}
    for precision in PRECISIONS:
        together = ranks(name, device, precision)
        for kind, parts in groups.items():
            found = ranks(name, device, precision, parts)
            worst[f"{kind}, {precision}"] = _moments_off([found[q] for q in together], together.values())
    limits = {kind: value / 1e-3 for kind, value in worst.items() if kind.endswith("float32")}
    return verdict(limits, seconds_apart=worst)


def window(device: torch.device) -> dict[str, Any]:
    """Window attention in float32 and TF32 against the same in float64."""
    random, found = torch.Generator().manual_seed(0), {}
    q, k, v = (torch.randn(2, 203, 384, generator=random).to(device) for _ in range(3))
    mask = (torch.arange(203) < torch.tensor([[203], [150]])).to(device)
    true = attend_window(q.double(), k.double(), v.double(), mask, 4, 9)
    for precision in ("float32", "tf32"):
        with in_tf32(precision == "tf32"):
            found[precision] = apart([attend_window(q, k, v, mask, 4, 9)[mask]], [true[mask]])
    return verdict({"float32": found["float32"] / 1e-5}, relative=found)
