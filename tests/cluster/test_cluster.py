"""Processes that start together, agree, and end together."""

from __future__ import annotations

import json
import time

import pytest

from alexatm_jax import cluster


def test_a_process_alone_needs_no_start(tmp_path):
    assert cluster.find_place("auto", cluster.Given(), 1) is None
    assert cluster.is_first()
    assert cluster.gathered({"a": 1}) == [{"a": 1}]
    assert cluster.agreed_to_stop(3, wish=True) and not cluster.agreed_to_stop(4, wish=False)
    cluster.check_alike("facts", {"a": 1})
    cluster.check_devices()
    cluster.check_shared_folder(tmp_path / "none", "MODEL_DIR")
    cluster.abandon(1, "nothing happens")
    assert not list(tmp_path.iterdir())


AGREE = """
start(k, 2)
cluster.check_devices()
cluster.check_configuration("same")
cluster.check_shared_folder(os.environ["FOLDER"], "MODEL_DIR")
said = cluster.gathered({"k": k, "long": "x" * 3_000_000})
try:
    cluster.check_configuration("a = 1\\nb = " + str(k))
except cluster.ClusterError as error:
    problem = str(error)
cluster._SIGHT_SECONDS = 0.5
try:
    cluster.check_shared_folder(os.environ["FOLDER"] + str(k), "MODEL_DIR")
except cluster.ClusterError as error:
    unshared = str(error)
from alexatm_jax.training.stopping import termination
with termination() as agreed:
    for step in range(1000):
        if step == 5 and k == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.02 if k else 0.005)
        if agreed(step):
            break
print(json.dumps([[v["k"] for v in said], len(said[0]["long"]), step, problem, unshared]))
"""


def test_two_processes_agree(together, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".shared-0123").touch()  # of a start that was killed
    ended = together(AGREE, AGREE, environment={"FOLDER": str(run)})
    assert list(run.iterdir()) == []
    assert [e.code for e in ended] == [0, 0], ended
    first, second = (json.loads(e.printed) for e in ended)
    assert first == second
    order, length, step, problem, unshared = first
    assert (order, length) == ([0, 1], 3_000_000)
    assert 5 < step < 999
    assert "different configurations" in problem and "line 2: b = 0 in process 0" in problem
    assert "MODEL_DIR" in unshared and "is not that of process 1" in unshared


STOP_EARLY = """
start(k, 2)
if k == {asking}:
    cluster._peers.ask_to_stop()
cluster.gathered(None)  # behind which both have said where they are: nowhere yet
steps = (step for step in range(8, 1000) if cluster.agreed_to_stop(step, wish=False))
print(next(steps, None))
"""


@pytest.mark.parametrize("asking", [0, 1])
def test_asked_before_the_first_step_they_stop_behind_it(together, asking):
    code = STOP_EARLY.format(asking=asking)
    assert [e.printed for e in together(code, code)] == ["8\n"] * 2


@pytest.mark.parametrize("asking", [0, 1])
def test_asked_while_others_have_not_begun_they_stop_together(together, asking):
    code = f"""
start(k, 2)
time.sleep(0.5 * (k != {asking}))
for step in range(8, 1000):
    time.sleep(0.01)
    if cluster.agreed_to_stop(step, wish=k == {asking}):
        break
print(step)
"""
    first, second = (int(e.printed) for e in together(code, code))
    assert first == second < 999


def test_who_came_learns_who_did_not(together):
    code = "start({}, 4, 2)"
    hosts = {"JOB_COMPLETION_INDEX": "0"}
    ended = together(code.format(0), code.format(2), environment=hosts)
    for e in ended:
        assert e.code == 1
        assert "Absence: process 1, 3 of 4 did not come within 2 s" in e.errors
        assert "Here: process 0 (" in e.errors and "process 2 (" in e.errors


def test_a_process_says_where_it_looked_for_the_first(together):
    (ended,) = together("start(1, 2, 1)")
    assert (
        "Absence: process 1 of 2 could not reach the coordinator, process 0, at localhost:"
        in ended.errors
    )


def test_processes_that_do_not_fit_are_all_told(together):
    code = "import jax; jax.__version__ += '.other' * k; start(k, 2)"
    for e in together(code, code):
        assert (
            "ClusterError: these processes have different versions" in e.errors
            and "in process 1 (" in e.errors
        )
        assert "  jax: " in e.errors and ".other in process 1" in e.errors


def test_two_with_one_number_are_told(together):
    codes = [f"start({number}, 3)" for number in (0, 1, 1)]
    for e in together(*codes):
        assert "ClusterError: two processes have the number 1" in e.errors


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_other_ends_and_says_so(together, victim):
    code = f"""
start(k, 2)
cluster.gathered(None)
if k == {victim}:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(50)
"""
    ended = together(code, code)
    other = ended[1 - victim]
    assert ended[victim].code == -9 and other.code == 1
    assert f"alexatm: process {victim} (" in other.errors and "is gone" in other.errors
    assert "the same command" in other.errors


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_while_jax_starts_the_others_end_and_say_so(together, victim):
    code = f"""
if k == {victim}:
    import jax
    jax.distributed.initialize = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
start(k, 3)
"""
    began = time.monotonic()
    ended = together(code, code, code)
    assert time.monotonic() - began < 20  # of the 30 that jax would wait
    for k, e in enumerate(ended):
        assert e.code == (-9 if k == victim else 1)
        assert k == victim or f"process {victim} (" in e.errors and "is gone" in e.errors


@pytest.mark.parametrize("culprit", [0, 1])
def test_an_error_in_one_ends_all_with_its_reason(together, culprit):
    code = f"""
start(k, 2)
if k == {culprit}:
    cluster.abandon(2, "no cache here")
cluster.gathered(None)
"""
    ended = together(code, code)
    assert [e.code for e in ended] == [2, 2]
    said = ended[1 - culprit].errors
    assert f"alexatm: process {culprit} (" in said and "ended: no cache here" in said
    assert "Traceback" not in said
