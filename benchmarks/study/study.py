"""Networks of several seeds on sample worlds, the evidence for the claims about them (see `claims`).

Every network is a run folder of its own, so a study that is stopped goes on where it was.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from groundnlq.analysis.evaluation import Evaluation, evaluate
from groundnlq.config import load_config
from groundnlq.data.annotations import read_nlq
from groundnlq.data.records import Record, read_records, write_records
from groundnlq.data.submission import Predictions, read_submission, write_submission
from groundnlq.data.text import encode_records
from groundnlq.engine.distributed import die_with_parent
from groundnlq.engine.launch import train
from groundnlq.engine.predictor import Predictor
from groundnlq.engine.reporter import Reporter, TerminalReporter
from groundnlq.errors import Preempted
from groundnlq.sample.make import make_sample, prepare_sample
from groundnlq.sample.world import WorldConfig
from groundnlq.video.encoders import LITE, load_encoder
from groundnlq.video.extract import extract_features
from notebooks.lessons.word_oracles import WordOracles

UNTRAINED = "random encoder"
NEVER = 1000  # epochs between looks at the val split: the last weights are taken, so none is needed
MOST = 4  # times the usual number of narrated clips, in the world that a study makes


@dataclass(frozen=True)
class Arm:
    """One network: its preset, what is changed in it, the arm whose weights it starts from.

    `narrations` is the share of the usual number of narrated clips that it reads. It takes the usual number
    of steps, so that what differs is how much there is to learn from and not for how long; or, `as_often`, it
    reads each narration as often as is usual, which takes as many times the steps. `encoder` made its features: one of
    `ENCODERS`.
    """

    preset: str
    changes: tuple[str, ...] = ()
    start: str | None = None
    narrations: float = 1.0
    as_often: bool = False
    encoder: str = "align"


def _pair(
    name: str, *both: str, narrations: float = 1.0, as_often: bool = False, pretrain: tuple[str, ...] = (),
    encoder: str = "align",
) -> dict[str, Arm]:  # fmt: skip
    first = Arm("sample_pretrain", (*both, *pretrain), narrations=narrations, as_often=as_often, encoder=encoder)
    second = Arm("sample_finetune", both, start=f"{name} pretrain", encoder=encoder)
    return {f"{name} pretrain": first, name: second}


ARMS: dict[str, Arm] = {
    "scratch": Arm("sample_scratch"),
    "scratch twice as long": Arm("sample_scratch", ("train.epochs=32",)),
    **_pair("finetune"),
    **_pair("quarter of the narrations", narrations=0.25),
    **_pair("quarter of the narrations as often", narrations=0.25, as_often=True),
    **_pair("four times the narrations", narrations=4.0),
    **_pair("four times the narrations as often", narrations=4.0, as_often=True),
    **_pair("no jitter", pretrain=("data.jitter_max_scale=1",)),
    **_pair("star", "model.num_cross_levels=3", "model.num_self_levels=0"),
    **_pair("legacy half window", "data.half_window=legacy"),
    **_pair("finetune again", "train.seed=1000"),  # the same but for its random numbers: what trainings differ by
    **_pair("scene negatives", encoder="scene negatives"),
    **_pair(UNTRAINED, encoder="random"),
    **_pair("image encoder", "model.video_dim=1280", "model.text_map_width=0", encoder=LITE),
    **_pair("no text map", "model.text_map_width=0"),
}
# what makes features of the films -> changes of stage one; None: not trained here
ENCODERS: dict[str, tuple[str, ...] | None] = {
    "align": (),
    "random": ("train.learning_rate=1e-12",),  # features are still brought to unit variance
    "scene negatives": ("align.scene_negatives=true",),
    LITE: None,
}
FROM_SCRATCH = ("scratch", "scratch twice as long")  # the better one is what pretraining has to beat
COMPARED = {  # what is held against `finetune`, paired -> arm, weights
    "no-jitter": ("no jitter", "ema"),
    "star": ("star", "ema"),
    "half-window": ("legacy half window", "ema"),
    "raw": ("finetune", "raw"),
    "again": ("finetune again", "ema"),
    "scene-negatives": ("scene negatives", "ema"),
    "text-map": ("no text map", "ema"),
    "image-encoder": ("image encoder", "ema"),
}
AMOUNTS = {  # what stays equal while the amount of narrations grows -> amount -> arm
    "steps": {0.0: "scratch", 0.25: "quarter of the narrations", 1.0: "finetune", 4.0: "four times the narrations"},
    "passes": {
        0.0: "scratch",
        0.25: "quarter of the narrations as often",
        1.0: "finetune",
        4.0: "four times the narrations as often",
    },
}


class Study:
    """Worlds, networks and predictions of a study, made at the first use and kept in its folder.

    Args:
        folder: where worlds (``world-SEED``) and runs (``run-SEED``) go.
        scale, changes: of the world (see `make_sample`).
        overrides: changes of every network's configuration, such as ``train.epochs=2``.
        most: times the usual number of narrated clips, of the amounts to come (`MOST` for all of them).
    """

    def __init__(
        self,
        folder: str | Path,
        scale: str = "demo",
        overrides: Iterable[str] = (),
        progress: bool = True,
        most: float = 1,
        **changes: float,
    ):
        self.most = most
        self.folder, self.scale, self.overrides = Path(folder), scale, tuple(overrides)
        self.changes, self.progress = changes, progress

    def world(self, seed: int) -> Path:
        """The prepared world of a seed, with enough narrated clips for the largest amount."""
        usual = WorldConfig.of_scale(self.scale, seed=seed, **self.changes)
        clips = round(self.most * (usual.num_train_clips + usual.num_narrated_clips)) - usual.num_train_clips
        folder = self.folder / f"world-{seed}"
        changes = {**self.changes, "num_narrated_clips": clips}
        make_sample(folder, seed=seed, scale=self.scale, progress=self.progress, **changes)
        prepare_sample(folder, encoder="", progress=self.progress)
        for share in {arm.narrations for arm in ARMS.values() if arm.narrations <= self.most}:
            path = folder / _narrations(share)
            if not path.exists():
                write_records(path, _share(read_records(folder / "narrations.jsonl"), share / self.most))
        return folder

    def features(self, seed: int, encoder: str = "align") -> Path:
        """Features of all films of a seed, by one of `ENCODERS`; stage one is trained on the usual narrations."""
        world, changes = self.world(seed), ENCODERS[encoder]
        output, run = world / f"features-{encoder.replace(' ', '_')}.h5", self.folder / f"run-{seed}" / encoder
        if not output.exists():
            if changes is not None:
                usual = [f"data.folder={world}", f"train.seed={seed}", f"data.train_records=[{_narrations(1)}]"]
                config = load_config("sample_align", [*usual, *self.overrides, *changes])
                train(config, run, reporter=self._reporter())
            made = load_encoder(encoder if changes is None else str(run))
            stride = load_config("sample_finetune").data.snippet_stride_frames
            made = replace(made, stride_frames=stride)  # the same steps for all; each sees what it was trained to see
            extract_features([world / "official" / "clips"], [made], output, progress=self.progress)
        return output

    def evaluation(self, seed: int, name: str, weights: str = "ema") -> Evaluation:
        """A trained arm on the val split, with its ``ema`` or ``raw`` weights."""
        return evaluate(self._predicted(seed, name, "nlq_val", "text.h5", weights), self.truth(seed))

    def evaluation_of_swapped(self, seed: int, name: str) -> Evaluation:
        """A trained arm on the queries with another object, scored by the original moments."""
        world = self.world(seed)
        swapped = WordOracles(world, self.truth(seed)).with_swapped_objects(seed)
        if not (world / "swapped.h5").exists():
            write_records(world / "swapped.jsonl", swapped)
            encode_records([world / "swapped.jsonl"], "sample", world / "swapped.h5", progress=False)
        return evaluate(self._predicted(seed, name, "swapped", "swapped.h5"), swapped)

    def prepare(self, seeds: Sequence[int], names: Sequence[str], jobs: int) -> None:
        """Train these arms of these seeds and evaluate them on the val split, `jobs` networks at a time.

        Each has a process with its share of the cores: small networks learn faster side by side than with
        many threads each.
        """
        context, threads = multiprocessing.get_context("spawn"), max(1, (os.cpu_count() or 1) // jobs)
        quiet = Study(self.folder, self.scale, self.overrides, progress=False, most=self.most, **self.changes)
        with ProcessPoolExecutor(jobs, context, _start_job, (threads,)) as pool:
            list(pool.map(partial(_job, quiet.features), seeds))
            waiting = [pool.submit(_job, quiet.evaluation, seed, name) for name in names for seed in seeds]
            shown = {"desc": "networks", "total": len(waiting), "disable": None if self.progress else True}
            try:
                for done in tqdm(as_completed(waiting), **shown):
                    done.result()
            finally:  # at an error those in training are finished, and no further one begins
                pool.shutdown(wait=False, cancel_futures=True)

    def truth(self, seed: int) -> list[Record]:
        return read_nlq(self.world(seed) / "official" / "nlq_val.json").records

    def train(self, seed: int, name: str) -> Path:
        """Train an arm, after the one that it starts from; the run folder."""
        arm, folder = ARMS[name], self.folder / f"run-{seed}" / name.replace(" ", "_")
        changes = [f"data.folder={self.world(seed)}", f"train.seed={seed}"]
        changes.append(f"data.features={self.features(seed, arm.encoder).name}")
        changes.append(f"train.validate_every_epochs={NEVER}")
        if arm.preset == "sample_pretrain":
            usual, times = load_config(arm.preset).train, 1 if arm.as_often else 1 / arm.narrations
            changes.append(f"data.train_records=[{_narrations(arm.narrations)}]")
            changes.append(f"train.epochs={round(times * usual.epochs)}")
            changes.append(f"train.warmup_epochs={times * usual.warmup_epochs:g}")
        if arm.start is not None:
            changes.append(f"train.init_from={self.train(seed, arm.start) / 'last.pt'}")
        elif load_config(arm.preset, arm.changes).model.text_map_width:
            changes.append(f"train.init_from={self.folder / f'run-{seed}' / arm.encoder / 'best.pt'}")
        else:
            changes.append("train.init_from=null")
        config = load_config(arm.preset, [*changes, *arm.changes, *self.overrides])
        train(config, folder, reporter=self._reporter())
        return folder

    def _predicted(self, seed: int, name: str, records: str, text: str, weights: str = "ema") -> Predictions:
        run, world = self.train(seed, name), self.world(seed)
        path = run / f"{records}-{weights}.json"
        if not path.exists():
            questions = read_records(world / f"{records}.jsonl")
            # the weights of the last epoch: nothing was chosen by looking at the val split
            predictor = Predictor.load(run / "last.pt", weights=weights, top_k=10)
            predictor.reporter = self._reporter()
            ranked = predictor.predict(questions, self.features(seed, ARMS[name].encoder), world / text)
            write_submission(path, ranked, questions)
        return read_submission(path)

    def _reporter(self) -> Reporter:
        return TerminalReporter() if self.progress else Reporter()


def _start_job(threads: int) -> None:
    torch.set_num_threads(threads)
    die_with_parent(signal.SIGTERM)  # at which a network in training is saved


def _job(work: Callable[..., object], *arguments: object) -> None:
    """A job of the pool; without the study that waits for it, the process ends instead of taking the next."""
    parent = os.getppid()
    try:
        work(*arguments)
    except Preempted:
        if os.getppid() != parent:
            os._exit(Preempted.exit_code)
        raise


def _narrations(share: float) -> str:
    return f"narrations-{share:g}.jsonl"


def _share(records: Sequence[Record], share: float) -> list[Record]:
    """The records of the first clips, that many of them; a smaller share is part of every larger one."""
    clips = list(dict.fromkeys(record.clip_uid for record in records))
    chosen = set(clips[: max(1, round(share * len(clips)))])
    return [record for record in records if record.clip_uid in chosen]
