"""Batches: clips padded to what the pyramid needs, each read once for all its queries."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from threading import Barrier
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from groundnlq.data.check import Incomplete, check_rate, whole_videos
from groundnlq.data.features import FeatureStore
from groundnlq.data.grid import StepGrid
from groundnlq.data.records import Record, identity_of
from groundnlq.data.tokens import TokenStore
from groundnlq.errors import FeatureError, sample_of

ROW_MULTIPLE = 16  # so that lengths are few, and what a kernel prepares for one of them serves again


@dataclass(frozen=True)
class TensorBatch:
    """Tensors, and plain values about them; what `Batch` has in common with the batches of other tasks."""

    def tensors(self) -> dict[str, Any]:
        """Those of the fields that are tensors, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch on another device."""
        return replace(self, **{name: x.to(device, non_blocking=non_blocking) for name, x in self.tensors().items()})

    def pin_memory(self) -> Self:
        """The same batch where a GPU can fetch it by itself."""
        return replace(self, **{name: x.pin_memory() for name, x in self.tensors().items()})


@dataclass(frozen=True)
class Batch(TensorBatch):
    """V clips and Q queries about them; query q looks at clip `clip_index[q]`.

    Rows behind the valid ones are zero. Every clip and every query has at least one such padded row: the published
    weights read it (see `_pad_length`), and without it a result would depend on its neighbours.
    """

    video: Tensor  # (V, T, video_dim) float32, or as stored where it is meant for a GPU
    video_mask: Tensor  # (V, T) bool, True = valid
    text: Tensor  # (Q, L, text_dim) float32
    text_mask: Tensor  # (Q, L) bool
    clip_index: Tensor  # (Q,) int64
    moments_grid: Tensor  # (Q, M, 2) start and end on the step grid, 0 behind a query's last; M = 0 in test
    query_ids: tuple[str, ...]
    clip_uids: tuple[str, ...]  # V
    durations_sec: tuple[float, ...]  # Q

    @classmethod
    def collate(
        cls, clips: Sequence[Tensor], texts: Sequence[Tensor], clip_index: Sequence[int],
        moments_grid: Sequence[Tensor], query_ids: Sequence[str], clip_uids: Sequence[str],
        durations_sec: Sequence[float], row_multiple: int = ROW_MULTIPLE,
    ) -> Self:  # fmt: skip
        """Pad V clips (T_v, video_dim) and Q queries (L_q, text_dim)."""
        num_rows = _pad_length(max(len(clip) for clip in clips), row_multiple)
        video = clips[0].new_zeros(len(clips), num_rows, clips[0].shape[1])
        for row, clip in zip(video, clips, strict=True):
            row[: len(clip)] = clip
        # a zero token behind every query: published answers depend on whether a longer neighbour put one there
        text = pad_sequence([torch.cat([t, t.new_zeros(1, t.shape[1])]) for t in texts], batch_first=True)
        video_mask, text_mask = _valid(clips, num_rows), _valid(texts, text.shape[1])
        moments = pad_sequence([m.reshape(-1, 2) for m in moments_grid], batch_first=True)
        about = tuple(query_ids), tuple(clip_uids), tuple(durations_sec)
        return cls(video, video_mask, text, text_mask, torch.tensor(clip_index), moments, *about)

    def to(self, device: torch.device | str, non_blocking: bool = False, dtype: torch.dtype = torch.float32) -> Self:
        """The same batch on another device; features and tokens change to another dtype there."""
        moved = super().to(device, non_blocking)
        return replace(moved, video=moved.video.to(dtype), text=moved.text.to(dtype))


def _pad_length(num_steps: int, row_multiple: int = ROW_MULTIPLE) -> int:
    """Rows that a clip is padded to: a multiple of `row_multiple`, at least one row spare.

    The published program pads to 2560. LayerNorm is not masked there, so the row behind the last valid one is part of
    the result: here it is kept, on the higher levels by the halving blocks and by the neck.

    >>> _pad_length(900), _pad_length(912)
    (912, 928)
    """
    return row_multiple * -(-(num_steps + 1) // row_multiple)


class QueryDataset:
    """Records with their features and tokens; makes the batches that the network takes.

    Args:
        jitter_max_scale: temporal jittering of moments (see `jitter`); 1 switches it off. Its random numbers depend on
            seed, epoch and index only, so neither order nor workers change them.
        max_seq_len: refuse longer clips (the position table of training); None takes any length.
        widths: of features and of tokens, as the network expects them; None checks no inputs.
        incomplete: what to do with clips whose features end early (see `check_rate`).

    A FeatureError names all clips without features or too long, queries without tokens, wrong widths and rates.
    """

    def __init__(
        self, records: Sequence[Record], store: FeatureStore, tokens: TokenStore, grid: StepGrid,
        jitter_max_scale: int = 1, seed: int = 0, max_seq_len: int | None = None,
        row_multiple: int = ROW_MULTIPLE, widths: tuple[int, int] | None = None, incomplete: Incomplete = "keep",
    ):  # fmt: skip
        self.records, self.store, self.tokens, self.grid = list(records), store, tokens, grid
        self.jitter_max_scale, self.seed, self.row_multiple = jitter_max_scale, seed, row_multiple
        if widths:
            self._require_inputs(widths)
            self.records = list(check_rate(store, self.records, grid, incomplete))
        num_steps = {record.clip_uid: store.num_steps[record.clip_uid] for record in self.records}
        if long := sorted(uid for uid, n in num_steps.items() if max_seq_len is not None and n > max_seq_len):
            raise FeatureError(
                f"{len(long)} clips are longer than max_seq_len = {max_seq_len} steps: {sample_of(long)} "
                "-- raise model.max_seq_len or leave them out of training"
            )
        self.lengths = [_pad_length(num_steps[record.clip_uid], row_multiple) for record in self.records]

    def _require_inputs(self, widths: tuple[int, int]) -> None:
        clips, queries = list(dict.fromkeys(r.clip_uid for r in self.records)), [r.query_id for r in self.records]
        sources: Any = ("features", "clips", clips, self.store), ("tokens", "queries", queries, self.tokens)
        faults = [
            f"{len(missing)} of {len(names)} {kind} have no {what} in {file.path}: {sample_of(missing)}"
            for what, kind, names, file in sources
            if (missing := [name for name in names if name not in file])
        ]
        faults += [
            f"{what} in {file.path} are {file.width} wide, the model expects {width}"
            for (what, _, _, file), width in zip(sources, widths, strict=True)
            if width != file.width
        ]
        if faults:
            faults[0] += whole_videos(self.store, self.records)
            raise FeatureError("; ".join(faults) + " -- import the features or encode the text, then start again")

    def __len__(self) -> int:
        return len(self.records)

    def sources(self) -> dict[str, dict[str, Any]]:
        """Identity of records, features and tokens, for the provenance of results."""
        store, tokens = self.store, self.tokens
        return {
            "records": identity_of(self.records),
            "features": {"path": str(store.path), "sha256": store.sha256},
            "text": {"path": str(tokens.path), "sha256": tokens.sha256, "encoder": tokens.encoder},
        }

    def batch(self, indices: Sequence[int], epoch: int = 0, for_gpu: bool = False) -> Batch:
        """Collate the records of these indices; a clip that several of them share is read once.

        `for_gpu`: pinned, and with features as they are stored, which are half the bytes.
        """
        read = partial(self.store.read, as_stored=True) if for_gpu else self.store.read
        records = [self.records[i] for i in indices]
        clip_uids = list(dict.fromkeys(record.clip_uid for record in records))
        batch = Batch.collate(
            clips=[read(uid) for uid in clip_uids],
            texts=[self.tokens.read(record.query_id) for record in records],
            clip_index=[clip_uids.index(record.clip_uid) for record in records],
            moments_grid=[self._moments(i, epoch) for i in indices],
            query_ids=[record.query_id for record in records],
            clip_uids=clip_uids,
            durations_sec=[record.duration_sec for record in records],
            row_multiple=self.row_multiple,
        )
        return batch.pin_memory() if for_gpu else batch

    def _moments(self, index: int, epoch: int) -> Tensor:
        record = self.records[index]
        moments = np.array(record.moments_sec, dtype=np.float64).reshape(-1, 2)
        if self.jitter_max_scale > 1:
            moments = jitter(moments, self.jitter_max_scale, np.random.default_rng([self.seed, epoch, index]))
        # annotated moments may end beyond the clip; the part outside can not be seen
        moments = moments.clip(0, record.duration_sec)
        return torch.from_numpy(self.grid.to_grid(moments)).float()


def jitter(moments_sec: np.ndarray, max_scale: int, random: np.random.Generator) -> np.ndarray:
    """(M, 2) moments, temporally jittered (GroundNLQ, pretraining): a narration's true action lies around its time.

    For a moment with centre c and duration d draw an integer k from 1 ... `max_scale` and u from [-1, 1]; it becomes
    centre c - u (k - 1) d / 2 and duration k d, which always contains the annotated moment.
    """
    center, duration = moments_sec.mean(axis=1), moments_sec[:, 1] - moments_sec[:, 0]
    scale = random.integers(1, max_scale, size=len(moments_sec), endpoint=True)
    shifted = center - random.uniform(-1, 1, size=len(moments_sec)) * (scale - 1) * duration / 2
    half = scale * duration / 2
    return np.stack([shifted - half, shifted + half], axis=1)


def shuffled_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """A random order of all samples in batches of like length, so that little is spent on padding.

    Samples are shuffled, sorted by length within windows of 50 batches, cut, and the batches shuffled again. Give
    padded lengths: samples of equal length stay in random order, while exact lengths would put the queries of one clip
    side by side. The last incomplete batch is dropped, unless it is the only one.

    >>> sorted(sum(shuffled_batches([5, 9, 5, 9], 2, seed=0, epoch=0), []))
    [0, 1, 2, 3]
    """
    random = np.random.default_rng([seed, epoch])
    order, of_all = random.permutation(len(lengths)), np.asarray(lengths)
    window = 50 * batch_size
    for first in range(0, len(order), window):
        part = order[first : first + window]
        order[first : first + window] = part[np.argsort(of_all[part], kind="stable")]
    batches = [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]
    if len(batches) > 1 and len(batches[-1]) < batch_size:
        batches.pop()
    return [batches[i] for i in random.permutation(len(batches))]


def clip_batches(
    records: Sequence[Record], max_queries: int = 16, lengths: Sequence[int] = (), max_rows: int = 0
) -> list[list[int]]:
    """Indices grouped by clip, at most `max_queries` each: every clip is read once, in record order.

    With `max_rows`, clips of neighbouring `lengths` (padded, of the records) share a batch as long as its queries have
    no more rows; shorter clips come first.
    """
    by_clip: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        by_clip.setdefault(record.clip_uid, []).append(index)
    groups = by_clip.values()
    batches = [group[i : i + max_queries] for group in groups for i in range(0, len(group), max_queries)]
    if not max_rows:
        return batches
    merged: list[list[int]] = [[]]
    for batch in sorted(batches, key=lambda batch: lengths[batch[0]]):
        if len(merged[-1]) + len(batch) <= min(max_queries, max_rows // lengths[batch[0]]):
            merged[-1] += batch
        else:
            merged.append(batch)
    return [batch for batch in merged if batch]


def read_ahead(read: Callable[[Any], Any], items: Iterable[Any], device: torch.device) -> Iterator[tuple[Any, float]]:
    """`read` of every item, in order, and the seconds waited for it; one thread reads ahead, two for a GPU."""
    left, num_readers, threads = iter(items), 2 if device.type == "cuda" else 1, torch.get_num_threads()
    together = Barrier(num_readers)

    def begin() -> None:
        together.wait()  # each reader does this once
        # OpenMP would give a reader threads of its own, whose idle ones spin where the network computes
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread takes up its number when it first asks for it
        if device.type == "cuda":
            torch.cuda.set_device(device)  # else it would take memory of the first GPU to pin batches

    with ThreadPoolExecutor(num_readers) as readers:
        for begun in [readers.submit(begin) for _ in range(num_readers)]:
            begun.result()
        torch.set_num_threads(threads)  # what a reader sets is also what other threads begin with
        pending = deque(readers.submit(read, item) for item in islice(left, num_readers))
        while pending:
            began = time.perf_counter()
            value = pending.popleft().result()
            waited = time.perf_counter() - began
            pending.extend(readers.submit(read, item) for item in islice(left, 1))
            yield value, waited


def _valid(rows: Sequence[Tensor], num_rows: int) -> Tensor:
    return torch.arange(num_rows) < torch.tensor([len(row) for row in rows])[:, None]
