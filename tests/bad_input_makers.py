"""The folder that every case of bad input starts from, and ways to break what is in it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from groundnlq.cli import main
from groundnlq.data.features import FeatureStore, write_features, write_shards
from groundnlq.data.records import read_records
from groundnlq.data.submission import write_submission
from groundnlq.data.tokens import TokenStore, write_tokens
from groundnlq.engine.checkpoint import save_model
from groundnlq.model.grounder import Grounder
from tests.published_layout import to_published
from tests.tiny_encoders import egovlp_file
from tests.tiny_run import WIDTH, make_tiny_data, tiny_config


def make_world(folder: Path) -> None:
    """Records, features, tokens, official files, sources to import, a checkpoint and its predictions."""
    make_tiny_data(folder, num_clips=6)
    with chdir(folder):
        config = tiny_config(Path("."), epochs=1, warmup_epochs=0)
        config.save("run.yaml")
        store, rate = FeatureStore("features.h5"), {"fps": 1.0, "snippet_stride_frames": 1.0}
        clips = [(uid, store.read(uid)) for uid in store.clip_uids]
        del store  # closes its file
        write_features("features.h5", clips, attributes=rate, dtype="float32")
        records = read_records("val.jsonl")
        _write_json("nlq.json", _official(records))
        torch.manual_seed(0)
        model = Grounder(config.model)
        weights = model.state_dict()
        save_model(Path("best.pt"), config, {"raw": weights, "ema": weights}, "raw", encoder="directions")
        torch.save({"epoch": 3, "state_dict": to_published(weights)}, "model.pth.tar")
        answers = {r.query_id: np.array([[1.0, 4.0, 0.9], [2.0, 6.0, 0.5]]) for r in records}
        write_submission("p.json", answers, records)
        for source, width in (("pt", 3), ("pt2", 2)):
            Path(source).mkdir()
            for name in ("c0", "c1", "c2"):
                torch.save(torch.ones(20, width) * torch.arange(20.0)[:, None], f"{source}/{name}.pt")
        rows = ["video_uid\tnarration_source\tnarration_ind\tclip_start\tclip_end\tclip_text"]
        rows += [f"v{i}\tnarration_pass_1\t{i}\t{i + 1}\t{i + 3}\t#C C picks a cup" for i in range(4, 6)]
        Path("egoclip.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _official(records) -> dict[str, Any]:
    videos: dict[str, dict] = {}
    for record in records:
        number = record.clip_uid.removeprefix("c")
        clip = {"clip_uid": record.clip_uid, "video_start_sec": 0.0, "video_end_sec": record.duration_sec}
        annotations = [{"annotation_uid": record.annotation_uid, "language_queries": []}]
        video = videos.setdefault(number, {"video_uid": f"v{number}", "clips": [clip | {"annotations": annotations}]})
        start, end = record.moments_sec[0]
        query = {"query": record.query, "clip_start_sec": start, "clip_end_sec": end, "template": "kind"}
        video["clips"][0]["annotations"][0]["language_queries"].append(query)
    return {"version": "2.0", "videos": list(videos.values())}


def _write_json(name: str, tree: Any) -> None:
    Path(name).write_text(json.dumps(tree), encoding="utf-8")


# ---- ways to break a file


def nothing() -> None:
    """The command itself is what is wrong."""


def egovlp() -> None:
    egovlp_file(Path())


def text(name: str, content: str | bytes) -> Callable[[], Any]:
    data = content.encode() if isinstance(content, str) else content
    return lambda: Path(name).write_bytes(data)


def cut(name: str, share: float = 0.5) -> Callable[[], Any]:
    def make() -> None:
        data = Path(name).read_bytes()
        Path(name).write_bytes(data[: int(len(data) * share)])

    return make


def recode(name: str, encoding: str) -> Callable[[], Any]:
    return lambda: Path(name).write_bytes(Path(name).read_text("utf-8").replace("?", "é?").encode(encoding))


def remove(name: str) -> Callable[[], Any]:
    return lambda: Path(name).unlink()


def query(**changes: Any) -> Callable[[], Any]:
    """Change the first question of the official file; `...` removes a key."""
    return nlq(lambda tree: _change(first_queries(tree)[0], changes))


def clip(**changes: Any) -> Callable[[], Any]:
    return nlq(lambda tree: _change(tree["videos"][0]["clips"][0], changes))


def first_queries(tree: dict) -> list[dict]:
    return tree["videos"][0]["clips"][0]["annotations"][0]["language_queries"]


def nlq(change: Callable[[Any], Any]) -> Callable[[], Any]:
    return edit_json("nlq.json", change)


def answers(change: Callable[[list], Any]) -> Callable[[], Any]:
    return edit_json("p.json", lambda tree: change(tree["results"]))


def edit_json(name: str, change: Callable[[Any], Any]) -> Callable[[], Any]:
    def make() -> None:
        tree = json.loads(Path(name).read_text("utf-8"))
        change(tree)
        _write_json(name, tree)

    return make


def _change(tree: dict, changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if value is ...:
            del tree[key]
        else:
            tree[key] = value


def line(number: int, old: str, new: str, name: str = "val.jsonl") -> Callable[[], Any]:
    def make() -> None:
        lines = Path(name).read_text("utf-8").split("\n")
        assert old in lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(old, new)
        Path(name).write_text("\n".join(lines), encoding="utf-8")

    return make


def edit_lines(name: str, old: str, new: str) -> None:
    """In all lines."""
    Path(name).write_text(Path(name).read_text("utf-8").replace(old, new), encoding="utf-8")


def record(**changes: Any) -> Callable[[], Any]:
    """Change the first record."""

    def make() -> None:
        first, rest = Path("val.jsonl").read_text("utf-8").split("\n", 1)
        Path("val.jsonl").write_text(json.dumps(json.loads(first) | changes) + "\n" + rest, encoding="utf-8")

    return make


def tensor(value: Any, name: str = "pt/c1.pt") -> Callable[[], Any]:
    return lambda: torch.save(value, name)


def with_value(value: float) -> torch.Tensor:
    features = torch.ones(20, 3)
    features[7, 2] = value
    return features


def hdf5(name: str, change: Callable[[h5py.File], Any]) -> Callable[[], Any]:
    def make() -> None:
        with h5py.File(name, "r+") as root:
            change(root)

    return make


def replace_dataset(path: str, value: Any) -> Callable[[h5py.File], None]:
    def change(root: h5py.File) -> None:
        del root[path]
        root[path] = value

    return change


def held_open() -> None:
    """Another process writes into the feature store; it ends with its input."""
    code = "import sys, h5py; f = h5py.File('features.h5', 'r+'); print('open', flush=True); sys.stdin.read()"
    writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    AFTER.append(writer.communicate)
    writer.stdout.readline()


def in_use() -> None:
    """Another process works in the run folder."""
    code = (
        "import sys\nfrom groundnlq.engine.run_dir import RunDirectory\n"
        "with RunDirectory('out').locked():\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    AFTER.append(worker.communicate)
    worker.stdout.readline()


def full_disk() -> None:
    """No file may grow beyond 64 bytes: the system's words differ, its refusal does not."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    AFTER.append(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))


AFTER: list[Callable[[], Any]] = []  # what ends the disturbance


def shards(change: Callable[[Path], Any]) -> Callable[[], Any]:
    """The features again in a folder of two files, and a change of that folder."""

    def make() -> None:
        store = FeatureStore("features.h5")
        write_shards("features", store.clip_uids, store.read, clips_per_file=3, attributes=store.attributes)
        change(Path("features"))

    return make


def mix(folder: Path) -> None:
    attributes = FeatureStore(folder / "00000.h5").attributes | {"fps": 2.0}
    write_features(folder / "more.h5", [("c0", np.ones((4, WIDTH)))], attributes=attributes)


def other_store(**options: Any) -> Callable[[], Any]:
    def make() -> None:
        store = FeatureStore("features.h5")
        kept, attributes = [(uid, store.read(uid).numpy()) for uid in store.clip_uids], store.attributes
        change = options.get("change", lambda uid, array: [(uid, array)])
        del store  # closes its file
        write_features(
            "features.h5", [pair for uid, array in kept for pair in change(uid, array)], attributes=attributes
        )

    return make


def other_tokens(encoder: str = "directions", change: Callable = lambda i, t: [(i, t)]) -> Callable[[], Any]:
    def make() -> None:
        store = TokenStore("text.h5")
        kept = [(i, store.read(i)) for i in store.query_ids]
        write_tokens("text.h5", [pair for i, t in kept for pair in change(i, t)], encoder=encoder)

    return make


def checkpoint(name: str, change: Callable[[dict], Any]) -> Callable[[], Any]:
    def make() -> None:
        content = torch.load(name, weights_only=True)
        change(content)
        torch.save(content, name)

    return make


def weights(change: Callable[[dict], Any]) -> Callable[[], Any]:
    return checkpoint("model.pth.tar", lambda content: change(content["state_dict"]))


def trained() -> None:
    """A finished run in the folder `out`."""
    with redirect_stdout(io.StringIO()):
        main(["train", "run.yaml", "--run", "out"])


def newest_state() -> str:
    return str(max(Path("out/checkpoints").glob("step-*.pt")))


def flip(name: str) -> None:
    data = bytearray(Path(name).read_bytes())
    data[len(data) // 2] ^= 1
    Path(name).write_bytes(data)


def replace_state(name: str) -> None:
    """Something else in place of a state; the checksum in the manifest is right."""
    torch.save([Payload()], name)
    data = Path(name).read_bytes()
    manifest = Path(name).with_suffix(".json")
    changes = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


class Payload:
    """An object whose unpickling makes the folder `harm`."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


def both(*makes: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: [make() for make in makes]


def lmdb_source(key: str = "c0", **arrays: Any) -> Callable[[], Any]:
    """An LMDB folder of the published layout with one entry; an array of objects is pickled by numpy."""

    def make() -> None:
        import lmdb

        data = io.BytesIO()
        np.savez_compressed(data, **arrays)
        with lmdb.open("lmdb", map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
            transaction.put(key.encode(), data.getvalue())

    return make


def hdf5_source(change: Callable[[h5py.File], Any]) -> None:
    with h5py.File("source.h5", "w") as root:
        root["c0"] = np.ones((2, 3), "f4")
        change(root)
