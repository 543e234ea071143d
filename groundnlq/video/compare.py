"""Own features beside published ones: the order of the parts, the shift in steps, the correlation of each part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from groundnlq.data.features import FeatureStore, checked_array
from groundnlq.data.importers import _open_source
from groundnlq.errors import FeatureError
from groundnlq.files import load_tensors

AGREEMENT = 0.9  # correlation over time from which a part counts as found
MOST_STEPS = 4000  # of all clips together; a few clips suffice


@dataclass(frozen=True)
class PartMatch:
    """Where the features of one encoder lie among the published channels."""

    encoder: str
    channels: tuple[int, int]  # own ones, first and last
    published: tuple[int, int]
    shift_steps: int  # own step t + shift is the published step t
    correlation: float  # over time, median of the channels
    scale: float  # published by own values, median of the channels

    @property
    def agrees(self) -> bool:
        return self.correlation >= AGREEMENT

    def __str__(self) -> str:
        (first, last), (there, end) = self.channels, self.published
        numbers = f"shift {self.shift_steps:+d} steps, correlation {self.correlation:.4f}, scale {self.scale:.3f}"
        verdict = "agrees" if self.agrees else "does not agree; this is the best place"
        return f"{self.encoder}: channels {first}-{last} are published {there}-{end}, {numbers}: {verdict}"


def compare_features(features: str | Path, published: str | Path, max_shift_steps: int = 5) -> list[PartMatch]:
    """Where each part of a feature store lies in a published archive: a folder, LMDB, HDF5 file, or the .pt of a clip.

    Every own channel is correlated over time with every published one, at every shift; a part lies where its channels,
    in their order, correlate best on average. A FeatureError where no clip is in both, or a part is too wide.
    """
    store = FeatureStore(features)
    clips = _shared_clips(store, Path(published))
    widths = {name: about["width"] for name, about in store.attributes.get("settings", {}).items()}
    if sum(widths.values()) != store.width:  # of another origin
        widths = {"features": store.width}
    if max(widths.values()) > (there := clips[0][1].shape[1]):
        raise FeatureError(f"{published}: has {there} channels, here are {widths} -- extract an encoder that it has")
    farthest = min(max_shift_steps, min(len(own) for own, _ in clips) // 2)
    every = [_matches(clips, widths, shift) for shift in range(-farthest, farthest + 1)]
    return [max(part, key=lambda match: match.correlation) for part in zip(*every, strict=True)]


def _shared_clips(store: FeatureStore, published: Path) -> list[tuple[Tensor, Tensor]]:
    """Own and published (T, D) features of clips that both have, about `MOST_STEPS` in all."""
    if published.is_file() and published.suffix in (".pt", ".pth"):
        read: Callable = lambda _: load_tensors(published, FeatureError)  # noqa: E731
        uids = store.clip_uids if len(store.clip_uids) == 1 else [published.stem]  # one clip may have any name
    else:
        source = _open_source(published)
        read, uids = source.read, source.keys
    clips: list[tuple[Tensor, Tensor]] = []
    for uid in (uid for uid in uids if uid in store):
        clips.append((store.read(uid), torch.from_numpy(checked_array(read(uid), f"{uid} of {published}", None))))
        if sum(len(own) for own, _ in clips) > MOST_STEPS:
            break
    if not clips:
        raise FeatureError(f"{published}: none of the clips in {store.path} -- extract a published clip under its name")
    return clips


def _matches(clips: Sequence[tuple[Tensor, Tensor]], widths: Mapping[str, int], shift: int) -> list[PartMatch]:
    """The best place of each part at one shift."""
    correlations, scales = _correlations(clips, shift)
    matches, first, there = [], 0, correlations.shape[1]
    for name, width in widths.items():
        # (width, places): the part's channels beside as many published ones, from every place on
        places = correlations[first:].as_strided((width, there - width + 1), (there + 1, 1), first * there)
        start = int(places.mean(0).argmax())
        own, found = torch.arange(width) + first, torch.arange(width) + start
        numbers = float(places[:, start].median()), float(scales[own, found].median())
        matches.append(PartMatch(name, (first, first + width - 1), (start, start + width - 1), shift, *numbers))
        first += width
    return matches


def _correlations(clips: Sequence[tuple[Tensor, Tensor]], shift: int) -> tuple[Tensor, Tensor]:
    """(D, D') correlations over time of own with published channels, and factors from own to published values."""
    products, own_squares, squares = (torch.zeros(()) for _ in range(3))
    for own, published in clips:
        own, published = own[max(0, -shift) :], published[max(0, shift) :]
        num_steps = min(len(own), len(published))
        own, published = (x[:num_steps] - x[:num_steps].mean(0) for x in (own, published))
        products = products + own.T @ published
        own_squares, squares = own_squares + own.square().sum(0), squares + published.square().sum(0)
    tiny = torch.finfo(products.dtype).tiny
    own_squares = own_squares[:, None]
    return products / (own_squares * squares).sqrt().clamp_min(tiny), products / own_squares.clamp_min(tiny)
