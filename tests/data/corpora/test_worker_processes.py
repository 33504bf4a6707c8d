"""Tasks are done in other processes, and whatever becomes of these is told."""

import importlib
import os
import sys
import time

import pytest

from alexatm_jax.data.corpora import worker_processes
from alexatm_jax.data.corpora.worker_processes import can_travel, in_processes

TASKS = """
import os, time

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__("cannot be unpickled")

def double(task, report):
    report(("began", task))
    time.sleep(0.01 * task)
    return 2 * task

def process(task, report):
    time.sleep(0.05)
    return os.getpid()

def fail(task, report):
    if task == 2:
        raise KeyError("task 2")
    if task == 3:
        raise Odd(1, 2)
    time.sleep(60)

def exit_at_2(task, report):
    if task == 2:
        os._exit(7)
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A module that other processes can import."""
    (tmp_path / "tasks_of_this_test.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tasks_of_this_test", raising=False)
    return importlib.import_module("tasks_of_this_test")


def test_every_task_is_done_once_and_may_report(tasks):
    news = []
    results = dict(in_processes(tasks.double, range(9), 3, news.append))
    assert results == {task: 2 * task for task in range(9)}
    assert sorted(news) == [("began", task) for task in range(9)]


@pytest.mark.parametrize("num_workers", [1, 3, 9])
def test_no_more_processes_start_than_there_is_work_for(tasks, num_workers):
    pids = {pid for _, pid in in_processes(tasks.process, range(4), num_workers)}
    assert len(pids) <= min(num_workers, 4) and os.getpid() not in pids


@pytest.mark.parametrize("task, kind, text", [(2, KeyError, "task 2"), (3, RuntimeError, "Odd")])
def test_an_error_comes_back_at_once_with_its_traceback(tasks, task, kind, text):
    start = time.monotonic()
    with pytest.raises(kind, match=text) as caught:
        list(in_processes(tasks.fail, [0, task], 2))
    told = str(getattr(caught.value, "__notes__", caught.value))
    assert "tasks_of_this_test.py" in told
    assert time.monotonic() - start < 30


def test_a_dead_process_is_told_of_with_its_task(tasks, monkeypatch):
    with pytest.raises(RuntimeError, match="the process at work on 2 died"):
        list(in_processes(tasks.exit_at_2, range(4), 2))
    monkeypatch.setattr(worker_processes, "_BOOT", "import sys; sys.exit(1)")
    with pytest.raises(RuntimeError, match="the process at work on 0 died"):
        list(in_processes(tasks.double, range(200_000), 1))  # more than a pipe holds


def test_what_another_process_cannot_import_is_told_of(tasks, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "test_what_another" not in path])
    with pytest.raises(ModuleNotFoundError, match="tasks_of_this_test"):
        list(in_processes(tasks.double, range(2), 2))


def test_functions_of_functions_cannot_travel(tasks):
    assert can_travel((tasks.double, [1, "two"]))
    assert not can_travel(lambda: 1)
    assert not can_travel(type("Local", (), {"__module__": "__main__"}))
