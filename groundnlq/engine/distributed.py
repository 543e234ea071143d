"""Several processes that train as one, and the signals that stop them; alone, every exchange is a no-op."""

import ctypes
import json
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groundnlq.errors import ConfigError, KitError

Value = TypeVar("Value")
CPU = torch.device("cpu")
LAUNCHER = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what a process of several needs
PATIENCE_SEC = 3.0  # for what the others have to say when one has failed
SETTLE_SEC = 0.2
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # closed terminal; SLURM and others before a kill


@dataclass(frozen=True)
class World:
    """This process among all processes of a run; `store` holds a few words that all of them can read."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    store: dist.Store | None = None
    launcher: int | None = None  # process id of torchrun, where it started this process

    @classmethod
    @contextmanager
    def join(cls, timeout_sec: float = 600.0, tf32: bool = False) -> Iterator[Self]:
        """The world that torchrun's environment describes; a world of one without it.

        A process that lets the others wait for longer than `timeout_sec` is taken for dead. `tf32` says whether CUDA
        may round float32 to 10 bits in products and convolutions; PyTorch would round in the latter. Variables that
        contradict each other are a ConfigError; processes that do not come are a KitError.
        """
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        rank, size, local_rank = _place()
        launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        if launcher is not None:
            die_with_parent(signal.SIGKILL)
        device = _own_device(local_rank)
        if size == 1:
            yield cls(device=device, launcher=launcher)
            return
        store = _meet(rank, size, "nccl" if device.type == "cuda" else "gloo", timeout_sec)
        try:
            yield cls(rank, size, device, dist.PrefixStore("kit", store), launcher)
        finally:
            # A thread of gloo takes the interpreter's lock to free the tensors of a finished call; the
            # group's end waits for that thread while it holds the lock (torch 2.13): let it finish first.
            time.sleep(SETTLE_SEC)
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The tensor added up over all processes."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def gather_rows(self, rows: Tensor) -> Tensor:
        """(B, D) rows of all processes from (b, D) of each, with gradients; b is the same everywhere.

        Row i of process r becomes row ``i size + r``, as if one process had taken the whole batch.
        """
        return rows if self.size == 1 else _GatherRows.apply(rows, self.rank, self.size)

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, in order of rank, on every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_main(self, act: Callable[[], Value]) -> Value:
        """What `act` gives in the main process, on every process; a `KitError` of it is raised in all."""
        result: Any = None
        try:
            result = act() if self.is_main else None
        except KitError as error:
            result = error
        result = self.gather(result)[0]
        if isinstance(result, KitError):
            raise result
        return result

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all processes; to be called once per run."""
        if self.size == 1:
            return model
        # a dimension of size 1 has no order; nothing is copied for it
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        network = nn.parallel.DistributedDataParallel(model)
        network.broadcast_buffers = False  # the position table never changes; as an argument it is deprecated
        return network

    def explain(self, error: BaseException) -> tuple[str, bool]:
        """Why a run failed, as far as the processes can tell each other, and whether it would fail again.

        An error of one process breaks the connections of all; the others learn its reason through the store.
        A process without a reason within some seconds hangs, or was killed.
        """
        mine, is_lasting = f"{type(error).__name__}: {error}", isinstance(error, KitError)
        if self.store is None:
            return mine, is_lasting
        mine = f"process {self.rank}: {mine}"
        with suppress(RuntimeError):  # the store is gone when its host is
            self.store.set(f"failure/{self.rank}", json.dumps([is_lasting, mine]))
        if is_lasting:
            return mine, True
        causes, silent = [], []
        for rank in range(self.size):
            try:
                self.store.wait([f"failure/{rank}"], timedelta(seconds=PATIENCE_SEC))
                is_cause, reason = json.loads(self.store.get(f"failure/{rank}"))
                causes += [reason] if is_cause else []
            except RuntimeError:
                silent.append(f"process {rank} hangs, or was killed")
        return "; ".join(causes or [*silent, mine]), bool(causes)


class _GatherRows(torch.autograd.Function):
    """Every process's loss depends on the rows of all: its gradients are added up over the processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, size: int) -> Tensor:
        ctx.mine = slice(rank, None, size)
        parts = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[ctx.mine], None, None


def _place() -> tuple[int, int, int]:
    """Rank, number of processes, and rank on this machine, from a launcher's variables.

    Without WORLD_SIZE this is the only process, whatever SLURM or a shell has set beside it.
    """
    if (size := os.environ.get("WORLD_SIZE")) is None:
        return 0, 1, 0
    default, names = ("0", LAUNCHER[:3]) if size == "1" else ("", LAUNCHER)
    values = {name: os.environ.get(name) or default for name in names}
    numbers = [text for name, text in values.items() if name != "MASTER_ADDR"]
    if not (all(values.values()) and all(map(str.isdecimal, numbers)) and int(values["RANK"]) < int(size)):
        shown = " ".join(f"{name}={text:.40}" for name, text in values.items())
        rule = "a launcher sets all of these, RANK from 0 to WORLD_SIZE - 1"
        raise ConfigError(f"{shown}: {rule} -- unset WORLD_SIZE to run one process, or start all with torchrun")
    return int(values["RANK"]), int(size), int(values["LOCAL_RANK"])


def _meet(rank: int, size: int, backend: str, timeout_sec: float) -> dist.Store:
    """The store of a process group that all processes have joined."""
    timeout, attempt = timedelta(seconds=timeout_sec), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store, *_ = next(dist.rendezvous("env://", rank, size, timeout=timeout))
        # The server of torchrun's store outlives a restart, keys and all, and new processes would look for each other
        # at the addresses of dead ones (torch 2.13; it says that the store is new each time).
        store = dist.PrefixStore(f"attempt_{attempt}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except (dist.DistError, ValueError) as error:  # the latter for a port that cannot be
        place, reason = "{MASTER_ADDR}:{MASTER_PORT}".format_map(os.environ), str(error).partition("\n")[0].rstrip(".")
        came = re.search(r"(\d+)/\d+ clients joined", reason)
        what = f"{came[1]} of {size} came within {timeout_sec:g} s" if came else f"process {rank} of {size}: {reason}"
        raise KitError(f"processes that meet at {place}: {what} -- start all of them, best with torchrun") from None
    return store


def _own_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return CPU
    if local_rank >= (count := torch.cuda.device_count()):
        raise ConfigError(f"process {local_rank} of this machine has no GPU: there are {count} -- start fewer")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


class StopRequest:
    """SIGTERM, SIGINT, or one of `WARNINGS`, noted in `signal_number` (0: none) instead of ending the process.

    A run obeys at the end of a step, when its state can be saved; a second SIGINT interrupts at once.
    """

    def __init__(self) -> None:
        self.signal_number = 0

    def __enter__(self) -> Self:
        try:
            warnings = [number for number in WARNINGS if signal.getsignal(number) is not signal.SIG_IGN]  # as by nohup
            numbers = (signal.SIGTERM, signal.SIGINT, *warnings)
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        except ValueError:  # not the main thread, which alone can handle signals
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.signal_number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal_number = number


def die_with_parent(number: int) -> None:
    """Have the system send this signal to this process when its parent dies (Linux; elsewhere nothing).

    A process that torchrun started would otherwise train on when torchrun is killed, beside the next start.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG of <sys/prctl.h>
    if os.getppid() == 1:  # it died before the call above
        os.kill(os.getpid(), number)
