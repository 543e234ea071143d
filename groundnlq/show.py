"""What a file is and what it was made of, in the words of `groundnlq show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from groundnlq.errors import DataError
from groundnlq.files import sha256_of

HDF5_MARK, ZIP_MARK = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"


def describe(path: Path) -> str:
    """YAML text: what the file holds, its hash, and its provenance.

    Raises:
        KitError: no such file, damaged, or of no kind that the kit writes.
    """
    if path.is_dir():
        return _yaml(_run_folder(path))
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror} -- check the path") from None
    known = {HDF5_MARK: _store, ZIP_MARK: _checkpoint}
    reader = next((read for mark, read in known.items() if start.startswith(mark)), _text)
    return _yaml({"file": str(path), "sha256": sha256_of(path)} | reader(path))


def _yaml(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120).rstrip()


def _run_folder(path: Path) -> dict[str, Any]:
    from groundnlq.engine.run_dir import read_status

    best = path / "best.pt"
    if not best.exists():
        raise DataError(f"{path}: no best.pt in it -- name a run folder or a file")
    return {"run": str(path), "status": read_status(path), "best weights": _checkpoint(best)}


def _store(path: Path) -> dict[str, Any]:

    from groundnlq.data.features import FeatureStore
    from groundnlq.data.store import StoreFile
    from groundnlq.data.tokens import TokenStore

    try:
        with StoreFile(path, "r") as root:
            kind, made_by = root.text("kind", ""), json.loads(root.text("made_by", "{}"))
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error}) -- make it again") from None
    if kind == "tokens":
        tokens = TokenStore(path)
        held = {"queries": len(tokens.query_ids), "width": tokens.width, "encoder": tokens.encoder}
        return {"kind": "query tokens"} | held | {"sha256 of content": tokens.sha256, "provenance": made_by}
    store = FeatureStore(path)
    held = {"clips": len(store.clip_uids), "steps": sum(store.num_steps.values()), "width": store.width}
    held |= {"dtype": store.dtype, **store.attributes, "sha256 of content": store.sha256}
    return {"kind": "video features"} | held | {"provenance": made_by}


def _checkpoint(path: Path) -> dict[str, Any]:
    from groundnlq.engine.checkpoint import read_checkpoint

    content = read_checkpoint(path)
    plain = {key: content[key] for key in ("use", "info", "step", "history", "config") if key in content}
    kind = "weights" if "weights" in content else "training state" if "optimizer" in content else "published"
    return {"kind": f"checkpoint ({kind})"} | plain


def _text(path: Path) -> dict[str, Any]:
    from groundnlq.data.annotations import read_nlq
    from groundnlq.data.records import identity_of, read_records
    from groundnlq.data.schema import read_json

    try:
        tree = read_json(path)
    except DataError as error:
        if not path.read_bytes()[:200].lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(b"{"):
            raise DataError(f"{path}: of no kind that this kit writes ({error}) -- check the path") from None
        return {"kind": "records", "content": identity_of(read_records(path))}
    if not isinstance(tree, dict):
        raise DataError(f"{path}: no result of this kit -- check the path")
    if "results" in tree:
        return {"kind": "predictions", "queries": len(tree["results"]), "provenance": tree.get("provenance")}
    if "strict" in tree:
        return {"kind": "metrics", "strict": tree["strict"], "provenance": tree.get("provenance")}
    if "videos" in tree:
        file = read_nlq(path)
        return {"kind": f"official annotations, version {file.version}", "content": identity_of(file.records)}
    return {"kind": "records", "content": identity_of(read_records(path))}
