"""What all tests share: no network, no windows, and one tiny sample world."""

import json
import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads would only wait for each other

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))  # of each property; `make test-all` draws more
settings.register_profile("kit", deadline=None, max_examples=EXAMPLES)  # a slow machine is no failure
settings.load_profile("kit")

QUICK = "train.epochs=2 train.warmup_epochs=1 train.validate_every_epochs=1"


# How two workers share the tests: a file goes to one of them, for the sake of its fixtures; but
ONE_BY_ONE = ("tests/test_faults.py",)
TOGETHER = {"tests/test_notebooks.py": "walk", "tests/test_browser.py": "walk"}  # users of one long fixture
LONGEST = ("walk", "tests/test_study.py", "tests/test_faults.py")  # to begin with, in this order


def _share(nodeid: str) -> str:
    """What of the tests goes to one worker together."""
    path = nodeid.partition("::")[0]
    return nodeid if path in ONE_BY_ONE else TOGETHER.get(path, path)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):
        places = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(_share(item.nodeid).partition("::")[0], len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Shares(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return _share(nodeid)

    config.option.loadscopereorder = False  # the longest first, not the most numerous
    return Shares(config, log)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """The kit's folder of cached frames and features, for the tests of one file alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROUNDNLQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """A prepared sample world of 20 short clips, the same for all workers; read it, never write into it."""
    from groundnlq.sample.make import make_sample, prepare_sample

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, is_whole = shared / "tiny" / "world", shared / "tiny is whole"
    with FileLock(shared / "tiny.lock"):
        if not is_whole.exists():
            make_sample(folder, scale="tiny", progress=False)
            prepare_sample(folder, progress=False)
            is_whole.touch()
    return folder


def walk_parameters(home):
    """Parameters of a walk through all notebooks that takes a minute or two."""
    values = {"data_folder": str(home / "data"), "scale": "tiny", "overrides": QUICK}
    return values | {"num_videos": 2, "epochs": 2, "world_folder": str(home / "ask")}


@pytest.fixture(scope="session")
def walk(tmp_path_factory):
    """Run folder, data folder and executed notebooks, by name, of a walk through all on a tiny world; with a
    space and an umlaut on the way."""
    from groundnlq.notebook_runs import run_notebooks

    home = tmp_path_factory.mktemp("Räume und Wege")
    executed = run_notebooks(run_dir=home / "run", parameters=walk_parameters(home), progress=False)
    return home / "run", home / "data", {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in executed}
