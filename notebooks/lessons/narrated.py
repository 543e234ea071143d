"""What stage one reads in validation, through the towers of a run or of none; and the features that it is for."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from groundnlq.config import AlignConfig, RunConfig
from groundnlq.data.records import read_records
from groundnlq.data.text import TextEncoder
from groundnlq.data.tokens import TokenStore
from groundnlq.engine.checkpoint import trained_state
from groundnlq.engine.distributed import World
from groundnlq.engine.reporter import Reporter
from groundnlq.video.answer import cache_folder
from groundnlq.video.extract import extract_features, find_videos
from groundnlq.video.frame_cache import FrameCache
from groundnlq.video.narrated import NarratedFrames, wanted_frames
from groundnlq.video.towers import Towers
from groundnlq.view.film import film_strip

BATCH = 64


class Narrated:
    """The validation narrations of stage one, with the frames and the texts that the towers take.

    Args:
        encoder: text encoder of typed sentences, where `align.text_encoder` names none.
    """

    def __init__(self, config: RunConfig, encoder: str = "sample"):
        self.config, self.align = config, config.align or AlignConfig()
        self.films = find_videos([config.data.path(config.data.videos)])
        every = [r for name in config.data.val_records for r in read_records(config.data.path(name))]
        usable = [r for r in every if r.moments_sec and not r.oddity and r.clip_uid in self.films]
        wanted = {uid: (self.films[uid], numbers) for uid, numbers in wanted_frames(usable, self.align).items()}
        cache = FrameCache(cache_folder() / "frames", wanted, self.align.short_side, 1e9 * self.align.cache_gb)
        broken = cache.fill(World(), Reporter())
        self.records = [record for record in usable if record.clip_uid not in broken]
        self.encoder = TextEncoder.load(self.align.text_encoder or encoder)
        store = None if self.align.text_encoder else TokenStore(config.data.path(config.data.text))
        self.text_model: Any = store.width if store else self.encoder.model
        read = (lambda record: store.read(record.query_id)) if store else (lambda record: self._tokens(record.query))
        self.frames = NarratedFrames(self.records, config, cache, read)

    def towers(self, run: str | Path | None = None) -> Towers:
        """With the weights of a run of stage one; without one, as training begins."""
        torch.manual_seed(self.config.train.seed)
        model = copy.deepcopy(self.text_model)
        if not isinstance(model, int):
            model.pooler = None
        towers = Towers(self.align, model)
        if run is not None:
            towers.load_state_dict(trained_state(run)[1])
        return towers.eval()

    @torch.inference_mode()
    def features(self, towers: Towers, places: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(N, width) features of length 1 of the frames and of the texts of all records, or of those in some places."""
        places = range(len(self.records)) if places is None else places
        batches = [self.frames.batch(places[i : i + BATCH]) for i in range(0, len(places), BATCH)]
        pairs = zip(*(towers(batch) for batch in batches), strict=True)
        videos, texts = (normalize(torch.cat(rows), dim=1).numpy() for rows in pairs)
        return videos, texts

    @torch.inference_mode()
    def text(self, towers: Towers, sentence: str) -> np.ndarray:
        """(width,) feature of length 1 of a sentence."""
        rows = self._tokens(sentence)
        return normalize(towers.text(rows[None], torch.ones(1, len(rows), dtype=torch.bool)), dim=1)[0].numpy()

    def pictures(self, place: int, num_frames: int = 3, height: int = 96) -> np.ndarray:
        """(F, H, W, 3) frames of the moment of a narration, from the middles of equal parts of it."""
        record = self.records[place]
        (start, end), path = record.moments_sec[0], self.films[record.clip_uid]
        margin = (end - start) / num_frames / 2
        return film_strip(path, start + margin, end - margin, num_frames, height)[1]

    def dozen(self, count: int = 12) -> list[int]:
        """Places of the first narrations of different events of one clip, ordered by verb and noun."""
        clip_uid, events = self.records[0].clip_uid, dict[int, int]()
        for place, record in enumerate(self.records):
            if record.clip_uid == clip_uid and record.verbs:
                events.setdefault(record.query_idx, place)
        places = [*events.values()] or [place for place, r in enumerate(self.records) if r.clip_uid == clip_uid]
        key = lambda place: (self.records[place].verbs, self.records[place].nouns)  # noqa: E731
        return sorted(places[:count], key=key)

    def _tokens(self, text: str) -> torch.Tensor:
        if self.align.text_encoder:
            limit = {"truncation": True, "max_length": self.encoder.max_tokens}
            return torch.tensor(self.encoder.tokenizer(text, **limit)["input_ids"])
        return self.encoder.encode([text], are_questions=False)[0]


def extract(films: Path, run: Path, output: Path, processes: int = 1) -> None:
    """Features of all films by the encoder of a run, by one process or several; what is there already stays."""
    if processes == 1:
        extract_features([films], [str(run)], output)
        return
    command = [*("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "groundnlq")]
    command += ["features", "extract", str(films), "--encoder", str(run), "--output", str(output)]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    done = subprocess.run([sys.executable, *command], env=threads | os.environ, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"features extract failed:\n{done.stderr[-2000:]}")
