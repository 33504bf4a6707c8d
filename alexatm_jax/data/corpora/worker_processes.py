"""Does tasks in other processes, which end when this one does.

A process is a fresh interpreter that imports what its tasks need, no more: it neither inherits
threads nor runs the caller's script again, as `multiprocessing` would.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

_T = TypeVar("_T")
_R = TypeVar("_R")

Report = Callable[[Any], None]
"""Called by a task as it goes, with something for whoever waits for it."""

_BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from alexatm_jax.data.corpora.worker_processes import work; work(int(sys.argv[1]))"
)


def can_travel(content: object) -> bool:
    """Tells whether other processes can read something: not, if it is defined in a script."""
    try:
        return b"__main__" not in pickle.dumps(content)
    except Exception:  # pickling raises whatever the object's own methods do
        return False


def in_processes(
    function: Callable[[_T, Report], _R],
    tasks: Sequence[_T],
    num_workers: int,
    report: Report = lambda news: None,
) -> Iterator[tuple[_T, _R]]:
    """Yields each task with its result as soon as it is there; they start in order.

    Args:
      function: what to do; a function of some module. It may report at any time.
      tasks: pickled once for each process.
      num_workers: the most processes to start.
      report: called in this process with what tasks report.

    Raises:
      RuntimeError: if a process dies; it names the task.
      Exception: what a task raised. Other tasks are given up.
    """
    numbers = iter(range(len(tasks)))
    doing: dict[Connection, int] = {}
    with contextlib.ExitStack() as stack:
        # All start before the first is waited for.
        idle = [stack.enter_context(_worker()) for _ in tasks[:num_workers]]
        job = pickle.dumps((function, list(tasks)))
        for connection, number in zip(idle, numbers, strict=False):
            _send(connection, job, pickle.dumps(number))
            doing[connection] = number
        while doing:
            for connection in cast(list[Connection], wait(list(doing))):
                task = tasks[doing[connection]]
                kind, content = _received(connection, task)
                if kind == "news":
                    report(content)
                    continue
                del doing[connection]
                for number in itertools.islice(numbers, 1):
                    _send(connection, pickle.dumps(number))
                    doing[connection] = number
                yield task, content


@contextlib.contextmanager
def _worker() -> Iterator[Connection]:
    """Starts a process, and ends it in whatever state it is then."""
    ours, theirs = multiprocessing.Pipe()
    command = [sys.executable, "-P", "-c", _BOOT, str(theirs.fileno()), *sys.path]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        try:
            yield ours
        finally:
            process.kill()


def _send(connection: Connection, *pickles: bytes) -> None:
    # A process that has died is found out when it is listened to next.
    with contextlib.suppress(ConnectionError):
        for content in pickles:
            connection.send_bytes(content)


def _received(connection: Connection, task: object) -> tuple[str, Any]:
    """Gives the next message of a process; raises what it failed with."""
    try:
        kind, content = connection.recv()
    except (EOFError, ConnectionError) as error:
        raise RuntimeError(
            f"the process at work on {task} died, perhaps of too little memory; what is finished "
            "is kept: start again with fewer workers."
        ) from error
    if kind == "failed":
        raise content
    return kind, content


def work(descriptor: int) -> None:
    """Does tasks in a process that `in_processes` started, until it is killed."""
    # An interrupt from the keyboard reaches all processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    function, tasks = inbox.get()
    with contextlib.suppress(ConnectionError):
        while True:
            task = tasks[inbox.get()]
            connection.send(_outcome(function, task, lambda news: connection.send(("news", news))))


def _receive(connection: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    """Hands on what comes; ends the process, busy or not, once its starter is gone."""
    try:
        while True:
            inbox.put(pickle.loads(connection.recv_bytes()))
    except (EOFError, ConnectionError):
        pass
    except Exception as error:  # what arrived cannot be unpickled here
        connection.send(("failed", _sendable(error)))
    os._exit(1)


def _outcome(function: Callable[[Any, Report], Any], task: Any, report: Report) -> tuple[str, Any]:
    try:
        return "done", function(task, report)
    except Exception as error:  # of any kind: it is raised where the tasks came from
        return "failed", _sendable(error)


def _sendable(error: Exception) -> Exception:
    """Gives the error with its traceback as a note, or both as text where it cannot be pickled."""
    text = "".join(traceback.format_exception(error))
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # as in can_travel
        return RuntimeError(text)
    copy.add_note(f"In another process:\n{text}")
    return copy
