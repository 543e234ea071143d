"""What threads read ahead comes in order, from as many of them as the device wants, with its errors."""

import threading
import time

import pytest
import torch

from groundnlq.data.dataset import read_ahead


@pytest.mark.parametrize(("kind", "number"), [("cpu", 1), ("cuda", 2)])
def test_items_come_in_order_from_threads_of_one_core_that_know_their_gpu(kind, number, monkeypatch):
    chosen, names, before = [], set(), torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append((threading.current_thread(), device)))
    met = threading.Barrier(number)

    def read(item):
        met.wait(timeout=10)  # as many read at the same time
        time.sleep(0.002 * (item % 3))
        names.add(threading.current_thread())
        return item, torch.get_num_threads()

    device = torch.device(kind, 0) if kind == "cuda" else torch.device(kind)
    found = list(read_ahead(read, range(8), device))
    assert [value for value, _ in found] == [(item, 1) for item in range(8)]
    assert all(waited >= 0 for _, waited in found)
    assert len(names) == number
    assert torch.get_num_threads() == before
    assert {thread for thread, _ in chosen} == (names if kind == "cuda" else set())


def test_an_error_is_raised_where_its_item_would_come_and_no_thread_is_left(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    running = threading.active_count()
    found = read_ahead(lambda item: 6 // (3 - item), range(9), torch.device("cuda", 0))
    assert [next(found)[0] for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert threading.active_count() == running
    assert list(read_ahead(str, [], torch.device("cpu"))) == []
