"""What surrounds a process: a launcher's variables, a file system without locks, how OpenMP waits."""

import errno
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from groundnlq.cli import main
from groundnlq.engine.distributed import LAUNCHER, World, _place
from groundnlq.errors import ConfigError, KitError

ROOT = Path(__file__).resolve().parents[1]
WHOLE = {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29501"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2", "SLURM_JOB_NUM_NODES": "2"}


@pytest.fixture
def launched(monkeypatch):
    """Sets the variables that a launcher left, and no others."""

    def launch(variables):
        for name in (*LAUNCHER, "TORCHELASTIC_RUN_ID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return launch


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "1"},
        {"RANK": "one", "LOCAL_RANK": "", "MASTER_PORT": "x"},
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "1", "RANK": "", "MASTER_PORT": "x"},
        SLURM,
        SLURM | {"RANK": "3", "MASTER_ADDR": "node1", "MASTER_PORT": "29501"},
    ],
    ids=str,
)
def test_without_several_processes_a_launchers_variables_mean_one_process(launched, variables):
    launched(variables)
    with World.join() as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 RANK= LOCAL_RANK= MASTER_ADDR= MASTER_PORT="),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE= RANK= LOCAL_RANK= "),
        (WHOLE | {"MASTER_ADDR": ""}, "RANK=0 LOCAL_RANK=0 MASTER_ADDR= MASTER_PORT=29501"),
        (WHOLE | {"LOCAL_RANK": ""}, "LOCAL_RANK= "),
        (WHOLE | {"MASTER_PORT": "http"}, "MASTER_PORT=http"),
        (WHOLE | {"WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
        (WHOLE | {"RANK": "-1"}, "RANK=-1"),
        (WHOLE | {"RANK": "3"}, "WORLD_SIZE=3 RANK=3"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "WORLD_SIZE=1 RANK=1"),
        (WHOLE | {"WORLD_SIZE": "0"}, "WORLD_SIZE=0 RANK=0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_variables_that_cannot_be_a_launchers_are_shown_with_the_remedy(launched, variables, shown):
    launched(WHOLE)
    assert _place() == (0, 3, 0)
    launched(variables)
    with pytest.raises(ConfigError, match=f"{shown}.*unset WORLD_SIZE to run one process"), World.join():
        pass


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, r"127\.0\.0\.1:\d+: 1 of 3 came within 0\.5 s -- start all of them"),
        ({"RANK": "2"}, r"process 2 of 3: .*timed out"),  # the main process is missing
        ({"MASTER_PORT": "70000"}, r"process 0 of 3: port must have value from 0 to 65535"),
    ],
)
def test_processes_that_do_not_come_are_counted_within_the_timeout(launched, variables, message):
    launched(WHOLE | {"MASTER_PORT": free_port()} | variables)
    with pytest.raises(KitError, match=message), World.join(timeout_sec=0.5):
        pass


@pytest.mark.parametrize(
    ("variables", "is_told"), [({"RANK": "1"}, True), (SLURM, True), (WHOLE, True), (WHOLE | {"RANK": "1"}, False)]
)
def test_one_process_prints_whatever_its_rank_and_of_several_the_first(
    launched, tiny_world, tmp_path, capsys, variables, is_told
):
    launched(variables)
    output = tmp_path / "val.jsonl"
    assert main(["prepare", "nlq", str(tiny_world / "official" / "nlq_val.json"), "--output", str(output)]) == 0
    assert (f"wrote {output}" in capsys.readouterr().out) == is_told


NO_FLOCK = """
#include <errno.h>
#include <stdlib.h>
int flock(int file, int operation) { (void)file; (void)operation; errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
"""
USE_STORES = """
import os, shutil, sys, warnings
import h5py, torch
from groundnlq.data.features import FeatureStore, write_features
from groundnlq.engine.run_dir import RunDirectory

for number in sys.argv[2:]:
    os.environ["FLOCK_ERRNO"], path = number, os.path.join(sys.argv[1], number + ".h5")
    write_features(path, {"a": torch.ones(3, 2), "b": torch.zeros(2, 2)}.items())
    with warnings.catch_warnings(record=True) as seen, RunDirectory(sys.argv[1]).locked():
        stores = [FeatureStore(path), FeatureStore(path)]
        assert all(store.read("a").sum() == 6 for store in stores)
    assert [str(w.message).count("no flock on this file system") for w in seen] == [1], seen
    try:
        h5py.File(shutil.copy(path, path + ".copy"), "r", locking=True)
    except OSError as error:
        print(error.errno)
"""


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs a C compiler, and Linux")
def test_features_are_written_and_read_where_the_file_system_has_no_locks(tmp_path):
    (tmp_path / "noflock.c").write_text(NO_FLOCK)
    library = tmp_path / "noflock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "noflock.c")], check=True)
    numbers = [str(number) for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)]
    environment = os.environ | {"LD_PRELOAD": str(library), "FLOCK_ERRNO": numbers[0]}

    def run(*command, **more):
        return subprocess.run(
            [sys.executable, *command], env=environment | more, capture_output=True, text=True, cwd=ROOT
        )

    done = run("-c", USE_STORES, str(tmp_path), *numbers)
    assert (done.stdout.split(), done.returncode) == (numbers, 0), done.stderr  # HDF5 itself cannot
    read = "import sys; from groundnlq.data.features import FeatureStore; FeatureStore(sys.argv[1])"
    asked_for = run("-c", read, str(tmp_path / f"{numbers[0]}.h5"), HDF5_USE_FILE_LOCKING="TRUE")
    assert "set HDF5_USE_FILE_LOCKING=FALSE" in asked_for.stderr
