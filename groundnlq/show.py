"""Kind, content and provenance of a file, as `groundnlq show` prints them."""

import json
from pathlib import Path
from typing import Any

import yaml

from groundnlq.errors import DataError
from groundnlq.files import refuse_stand_in, sha256_of

HDF5_MARK, ZIP_MARK = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"


def describe(path: Path) -> str:
    """YAML text: what a file or run directory holds, its hash, and its provenance; KitError for a file
    that is missing, damaged, or not of a kind that the kit writes."""
    folder = path if path.is_dir() else path.parent
    if (folder / "provenance.json").is_file() and (found := _diagnosis(folder, path)):
        tree = found
    elif path.is_dir() and next(path.glob("*.h5"), None):
        tree = {"folder": str(path)} | _features(path)
    elif path.is_dir():
        tree = _run_directory(path)
    else:
        refuse_stand_in(path)
        try:
            with open(path, "rb") as file:
                start = file.read(8)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror} -- check the path") from None
        read = _store if start == HDF5_MARK else _checkpoint if start.startswith(ZIP_MARK) else _text
        tree = {"file": str(path), "sha256": sha256_of(path)} | read(path)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120).rstrip()


def _diagnosis(folder: Path, path: Path) -> dict[str, Any]:
    """What ``provenance.json`` says about a folder that `write_report` wrote, or about a file in it."""
    from groundnlq.data.schema import read_json

    tree = read_json(folder / "provenance.json")
    if not isinstance(tree, dict) or "diagnosis" not in tree or (path != folder and path.name not in tree["files"]):
        return {}  # another program's
    found: dict[str, Any] = {"file": str(path), "kind": f"diagnosis of {tree['diagnosis']}"}
    if path != folder:
        found |= {"sha256": sha256_of(path), "as written": sha256_of(path) == tree["files"][path.name]}
    return found | {"provenance": tree["provenance"]}


def _run_directory(path: Path) -> dict[str, Any]:
    from groundnlq.engine.run_dir import read_status

    best = path / "best.pt"
    if not best.exists():
        raise DataError(f"{path}: no best.pt in it -- name a run directory or a file")
    return {"run": str(path), "status": read_status(path), "best weights": _checkpoint(best)}


def _store(path: Path) -> dict[str, Any]:
    from groundnlq.data.store import DAMAGE, StoreFile
    from groundnlq.data.tokens import TokenStore

    try:
        with StoreFile(path, "r") as root:
            kind, made_by = root.text("kind", ""), json.loads(root.text("made_by", "{}"))
    except DAMAGE as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error}) -- make it again") from None
    if kind != "tokens":
        return _features(path) | {"provenance": made_by}
    tokens = TokenStore(path)
    found = {"kind": "query tokens", "queries": len(tokens.query_ids), "encoder": tokens.encoder}
    return found | {"width": tokens.width, "sha256 of content": tokens.sha256, "provenance": made_by}


def _features(path: Path) -> dict[str, Any]:
    from groundnlq.data.features import FeatureStore

    store = FeatureStore(path)
    found = {"kind": "video features", "clips": len(store.clip_uids), "steps": sum(store.num_steps.values())}
    return found | {"dtype": store.dtype, **store.attributes, "width": store.width, "sha256 of content": store.sha256}


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
            raise DataError(f"{path}: not of a kind that this kit writes ({error}) -- check the path") from None
        tree = {}  # JSON lines
    if not isinstance(tree, dict):
        raise DataError(f"{path}: not a result of this kit -- check the path")
    origin = {"provenance": tree.get("provenance")}
    if "results" in tree:
        return {"kind": "predictions", "queries": len(tree["results"])} | origin
    if "strict" in tree:
        return {"kind": "metrics", "strict": tree["strict"]} | origin
    if "videos" in tree:
        file = read_nlq(path)
        return {"kind": f"official annotations, version {file.version}", "content": identity_of(file.records)}
    return {"kind": "records", "content": identity_of(read_records(path))}
