"""The processes of a run while it runs: what they agree on, and how all end when one does.

All talk to process 0, over the lines that the roll call opened. jax has services for much of
this, but its watch over heartbeats aborts with a stack trace, and tells late.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from alexatm_jax.cluster.lines import Line, encoded

REFUSED = 2
"""The exit code of what would end alike if started again; other codes are worth another try."""

_LINGER_SECONDS = 5.0
_GO_ON = (
    "Start all processes again with the same command: training goes on from the last checkpoint."
)


class Peers:
    """This process among the others.

    Args:
      process_id: this one's number.
      hosts: machine of each process.
      lines: process 0's to all others, another's to process 0.
    """

    def __init__(self, process_id: int, hosts: Sequence[str], lines: Mapping[int, Line]):
        self.process_id, self.hosts = process_id, hosts
        self._lines = lines
        self._changed = threading.Condition()
        self._given: dict[str, dict[int, Any]] = {}
        self._complete: dict[str, list[Any]] = {}
        self._rounds = 0
        self._step = -1
        self._stop_asked = self._stopping = False
        self._leaving = threading.Event()
        self._ears = [
            threading.Thread(target=self._listen, args=(sender,), daemon=True) for sender in lines
        ]
        for ear in self._ears:
            ear.start()

    def name(self, process: int) -> str:
        """A process for messages, such as `process 1 (node002)`."""
        return f"process {process} ({self.hosts[process]})"

    def gathered(self, value: Any) -> list[Any]:
        """Waits until every process has called this; gives the values of all, in order."""
        self._rounds += 1
        topic = f"gathered {self._rounds}"
        self._tell_first("give", topic, value)
        with self._changed:
            self._changed.wait_for(lambda: topic in self._complete)
            return self._complete.pop(topic)

    def ask_to_stop(self) -> None:
        """Asks all to stop behind a step that none has passed."""
        if not self._stop_asked:
            self._stop_asked = True
            self._tell_first("stop")

    def stops_at(self, step: int) -> bool:
        """Whether all stop behind this step; every process calls it behind every step.

        Somebody's wish to stop asks every process which step it was last at; they agree on the
        one after the furthest, or, if none has made any, on their first. Whoever calls in between
        waits for that, which none of the others needs to finish a step for. Otherwise nothing is
        sent and nobody waits.
        """
        with self._changed:
            self._step = step
            self._changed.wait_for(lambda: not self._stopping or "stop" in self._complete)
            return self._stopping and step > max(self._complete["stop"])

    def leave(self) -> None:
        """Says goodbye, so that the others do not take the end of this process for its death."""
        if not self._leaving.is_set():
            self._leaving.set()
            self._send_all("bye")

    def abandon(self, code: int, reason: str) -> NoReturn:
        """Ends this process, and tells the others why, so that they end too."""
        self._leaving.set()
        who = self.name(self.process_id)
        refused = code == REFUSED
        self._send_all("end", code, f"{who} ended: {reason}" + ("" if refused else f"\n{_GO_ON}"))
        self._exit(code)

    def _listen(self, sender: int) -> None:
        try:
            while True:
                kind, *content = self._lines[sender].receive()
                if kind == "bye":
                    return
                if kind == "end":
                    self._end(*content)
                self._hear(sender, kind, *content)
        except (OSError, ValueError):
            self._end(
                1,
                f"{self.name(sender)} is gone: it was killed, or its machine or network failed; "
                f"{self.name(self.process_id)} cannot go on alone.\n{_GO_ON}",
            )
        except BaseException:  # a mistake here must not leave the run without its watch
            traceback.print_exc()
            self._end(1, f"the watch of {self.name(self.process_id)} failed.")

    def _hear(self, sender: int, kind: str, *content: Any) -> None:
        match kind, content:
            case "give", (topic, value):
                self._collect(sender, topic, value)
            case "all", (topic, values):
                with self._changed:
                    self._complete[topic] = values
                    self._changed.notify_all()
            case "stop", ():
                self._send_where()
            case "where", ():
                with self._changed:
                    self._stopping = True
                    step = self._step
                self._tell_first("give", "stop", step)

    def _collect(self, sender: int, topic: str, value: Any) -> None:
        """Process 0: passes on what all have given, once all have."""
        with self._changed:
            given = self._given.setdefault(topic, {})
            given[sender] = value
            if len(given) < len(self.hosts):
                return
            del self._given[topic]
        values = [given[process] for process in range(len(self.hosts))]
        self._send_all("all", topic, values)
        self._hear(0, "all", topic, values)

    def _send_where(self) -> None:
        """Process 0: asks, once, which step everybody is at."""
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
        self._send_all("where")
        self._hear(0, "where")

    def _tell_first(self, *message: Any) -> None:
        if self.process_id == 0:
            self._hear(0, *message)
        else:
            self._send_all(*message)

    def _send_all(self, *message: Any) -> None:
        """Sends to all at the other ends: at process 0 everybody, elsewhere process 0."""
        data = encoded(message)
        for line in self._lines.values():
            with contextlib.suppress(OSError):  # whoever listens there ends this process
                line.send_encoded(data)

    def _end(self, code: int, message: str) -> None:
        """Ends this process for what happened to another; process 0 passes it on."""
        with self._changed:
            if self._leaving.is_set():
                return
            self._leaving.set()
        print(f"alexatm: {message}", file=sys.stderr, flush=True)
        if self.process_id == 0:
            self._send_all("end", code, message)
        self._exit(code)

    def _exit(self, code: int) -> NoReturn:
        """Exits without jax's goodbye, which waits for processes that are gone.

        It stays until the others have read why: they have jax's service here, and abort once it
        is away.
        """
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        deadline = time.monotonic() + _LINGER_SECONDS
        for ear in self._ears:
            if ear.is_alive() and ear is not threading.current_thread():
                ear.join(max(deadline - time.monotonic(), 0))
        os._exit(code)
