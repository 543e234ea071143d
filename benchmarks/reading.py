"""Reading clips of 900 steps in random order, warm and cold, against compressed npz.

    python benchmarks/reading.py

Cold: the file's pages are dropped from memory before every clip (Linux; where the disk keeps a cache of its
own, that one stays warm). The store stays open, as in training and prediction; npz files are opened for each
clip. What is timed ends with a float32 tensor of a whole clip.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import torch
from standin import compress, inflate
from timing import PUBLISHED_SEC, options

from groundnlq.data.features import FeatureStore, write_features


def in_turns(
    readers: Mapping[str, Callable[[str], torch.Tensor]], order: list[str], cold: Mapping[str, Callable[[str], Path]]
) -> dict[str, np.ndarray]:
    """Milliseconds of every reader for every clip; readers take turns, so that a busy while meets both."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    for uid in order:
        for name, read in readers.items():
            if cold:
                drop_pages(cold[name](uid))
            began = time.perf_counter()
            read(uid)
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: np.array(taken) for name, taken in times.items()}


def drop_pages(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def main() -> None:
    chosen = options(clips=12, reads=60)
    uids = [f"clip{i}" for i in range(chosen.clips)]
    # like real features: half precision, and a tenth of the values zero
    clips = {uid: torch.randn(900, 2304).half().float() for uid in uids}
    clips = {uid: clip * (torch.rand_like(clip) > 0.1) for uid, clip in clips.items()}
    order = np.random.default_rng(0).choice(uids, chosen.reads).tolist()
    with tempfile.TemporaryDirectory() as folder:
        for uid, clip in clips.items():
            Path(folder, uid).write_bytes(compress(clip))
        write_features(Path(folder, "f.h5"), clips.items())
        store = FeatureStore(Path(folder, "f.h5"))
        with h5py.File(Path(folder, "f.h5"), "r") as root:
            begins = {uid: root["clips"][uid].id.get_offset() for uid in uids}

        def inflated(uid: str) -> torch.Tensor:
            return inflate(Path(folder, uid).read_bytes())

        def plain_bytes(uid: str) -> None:
            """As many bytes of the same file with one call of the system, and nothing else."""
            first, size = begins[uid], clips[uid].numel() * 2
            file = os.open(whole(uid), os.O_RDONLY)
            os.preadv(file, [bytearray(size)], first)
            os.close(file)

        def whole(_: str) -> Path:
            return Path(folder, "f.h5")

        assert torch.equal(store.read(uids[0]), inflated(uids[0]))
        size = [sum(Path(folder, uid).stat().st_size for uid in uids), Path(folder, "f.h5").stat().st_size]
        print(f"bytes against raw float32: npz {size[0] / raw(clips):.2f}, kit {size[1] / raw(clips):.2f}")
        readers = {"npz": inflated, "kit": store.read, "bytes": plain_bytes}
        files = {"npz": lambda uid: Path(folder, uid), "kit": whole, "bytes": whole}
        for name, cold in (("warm", {}), ("cold", files)):
            npz, kit, plain = in_turns(readers, order, cold).values()
            print(
                f"{name}: npz {np.median(npz):6.1f} ms, kit {np.median(kit):5.2f} ms: "
                f"{np.median(npz / kit):.1f} x; the bytes alone, {np.median(plain):.2f} ms, would be "
                f"{np.median(npz / plain):.1f} x"
            )
    print(f"known of the published program, warm: {1e3 * PUBLISHED_SEC['reading']:.0f} ms")


def raw(clips: dict[str, torch.Tensor]) -> int:
    return sum(4 * clip.numel() for clip in clips.values())


if __name__ == "__main__":
    main()
