"""Own features beside published ones: the order of the parts, the shift in steps, the correlation of each part.

python -m benchmarks.published_features own.h5 published/CLIP.pt

Exit code 0 if all parts agree, 1 if one does not, 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from groundnlq.data.features import FeatureStore, checked_array
from groundnlq.data.importers import _open_source
from groundnlq.errors import FeatureError, KitError
from groundnlq.files import load_tensors

AGREEMENT = 0.9  # correlation over time from which a part counts as found
MOST_STEPS = 4000  # of all clips together; a few clips suffice


@dataclass(frozen=True)
class _PartMatch:
    """Where the features of one encoder lie among the published channels, and how well they agree there."""

    encoder: str
    channels: tuple[int, int]  # own ones, first and last
    published: tuple[int, int]
    shift_steps: int  # own step t is the published step t + shift
    correlation: float  # over time, median of the channels
    scale: float  # factor to the published values, median of the channels

    @property
    def agrees(self) -> bool:
        return self.correlation >= AGREEMENT

    def __str__(self) -> str:
        own, published = ("{}-{}".format(*span) for span in (self.channels, self.published))
        verdict = "agrees" if self.agrees else "does not agree; this is the best place"
        place = f"{self.encoder}: channels {own} are published {published}, shift {self.shift_steps:+d} steps"
        return f"{place}, correlation {self.correlation:.4f}, scale {self.scale:.3f}: {verdict}"


def compare_features(features: str | Path, published: str | Path, max_shift_steps: int = 5) -> list[_PartMatch]:
    """Where each part of a feature store lies in a published archive: a folder, LMDB, HDF5 file, or the .pt of a clip.

    Every own channel is correlated over time with every published one, at every shift. A part lies where its channels,
    in their order, correlate best. A FeatureError where no clip is in both, or a part is too wide.
    """
    store = FeatureStore(features)
    clips = list(_shared_clips(store, Path(published)))
    if not clips:
        raise FeatureError(f"{published}: none of the clips in {store.path} -- extract a published clip under its name")
    widths = {name: about["width"] for name, about in store.attributes.get("settings", {}).items()}
    if sum(widths.values()) != store.width:  # of another origin
        widths = {"features": store.width}
    if max(widths.values()) > (there := clips[0][1].shape[1]):
        raise FeatureError(f"{published}: has {there} channels, here are {widths} -- extract an encoder that it has")
    farthest = min(max_shift_steps, min(len(own) for own, _ in clips) // 2)
    every = [_matches(clips, widths, shift) for shift in range(-farthest, farthest + 1)]
    return [max(part, key=lambda match: match.correlation) for part in zip(*every, strict=True)]


def _shared_clips(store: FeatureStore, published: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Own and published (T, D) features of clips that both have, about `MOST_STEPS` in all."""
    if published.is_file() and published.suffix in (".pt", ".pth"):
        uids = store.clip_uids if len(store.clip_uids) == 1 else [published.stem]  # a single clip may have any name
        read = lambda _: load_tensors(published, FeatureError)  # noqa: E731
    else:
        source = _open_source(published)
        uids, read = source.keys, source.read
    num_steps = 0
    for uid in uids:
        if uid in store and num_steps < MOST_STEPS:
            num_steps += store.num_steps[uid]
            yield store.read(uid), torch.from_numpy(checked_array(read(uid), f"{uid} of {published}", None))


def _matches(clips: Sequence[tuple[Tensor, Tensor]], widths: Mapping[str, int], shift: int) -> list[_PartMatch]:
    """The best place of each part at one shift."""
    products, own_squares, squares = (torch.zeros(()) for _ in range(3))
    for own, there in clips:
        own, there = own[max(0, -shift) :], there[max(0, shift) :]
        num_steps = min(len(own), len(there))
        own, there = (values[:num_steps] - values[:num_steps].mean(0) for values in (own, there))
        products = products + own.T @ there  # (D, D')
        own_squares, squares = own_squares + own.square().sum(0)[:, None], squares + there.square().sum(0)
    correlations = products / (own_squares * squares).sqrt().clamp_min(1e-30)
    matches, first, num_there = [], 0, products.shape[1]
    for name, width in widths.items():
        # (width, places): a part's channels beside as many published ones, from every place on
        places = correlations.as_strided((width, num_there - width + 1), (num_there + 1, 1), first * num_there)
        start, channels = int(places.mean(0).argmax()), torch.arange(width)
        scale = products[first + channels, start + channels] / own_squares[first : first + width, 0].clamp_min(1e-30)
        spans = (first, first + width - 1), (start, start + width - 1)
        matches.append(_PartMatch(name, *spans, shift, float(places[:, start].median()), float(scale.median())))
        first += width
    return matches


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, metavar="F.h5", help="as 'groundnlq features extract' writes it")
    parser.add_argument(
        "published", type=Path, help="folder of .pt files, the .pt of one clip, LMDB folder or HDF5 file"
    )
    parser.add_argument("--max-shift", type=int, default=5, help="steps by which the two may be shifted (default 5)")
    options = parser.parse_args(argv)
    try:
        parts = compare_features(options.features, options.published, options.max_shift)
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, parts)))
    order = sorted(parts, key=lambda part: part.published)
    print("order of the published parts: " + ", ".join(part.encoder if part.agrees else "?" for part in order))
    return 0 if all(part.agrees for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
