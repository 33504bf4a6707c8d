"""The steps asked for are traced, and only these."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from alexatm_jax.training.profiling import Profile, parse_steps


@pytest.fixture(scope="module")
def program():
    return jax.jit(lambda x: jnp.tanh(x @ x)).lower(jnp.ones((64, 64))).compile()


def run(profile: Profile, program, made: int, until: int) -> None:
    x = jnp.ones((64, 64))
    for step in range(made, until):
        if profile.begins(step):
            jax.block_until_ready(x)
        profile.before_step(step)
        x = program(x)
        profile.after_step(step + 1, x, program)
    profile.close()


def test_a_profile_says_where_the_time_of_its_steps_went(tmp_path, program, caplog):
    profile = Profile("2:4", tmp_path / "profile")
    assert profile.shares is None
    with caplog.at_level("INFO", "alexatm_jax"):
        run(profile, program, 0, 6)
    assert profile.shares["communication"] == 0 <= profile.shares["idle"] < 1
    text = (tmp_path / "profile" / "profile.txt").read_text()
    assert text.startswith("a step, on average over those from 2 to 4:\npart ")
    assert str(profile.found) in text and str(profile.found) in caplog.text
    [product] = [row for row in profile.found.rows if row.is_product]
    assert product.flops == 2 * 64**3  # of one step


@pytest.mark.parametrize(("made", "until"), [(3, 6), (0, 3)], ids=["resumed_within", "ends_within"])
def test_a_profile_that_is_cut_short_tells_of_what_it_saw(tmp_path, program, made, until):
    profile = Profile("2:5", tmp_path)
    run(profile, program, made, until)
    first, last = max(made, 2), min(until, 5)
    assert f"those from {first} to {last}:" in (tmp_path / "profile.txt").read_text()


def test_a_trace_that_cannot_be_read_does_not_end_the_run(tmp_path, program, caplog, monkeypatch):
    def fail(*_):
        raise KeyError("_p")

    monkeypatch.setattr("alexatm_jax.training.profiling.time_by_part", fail)
    profile = Profile("0:1", tmp_path)
    run(profile, program, 0, 2)
    assert "cannot be broken down" in caplog.text and profile.shares is None


@pytest.mark.parametrize(("steps", "made"), [(None, 0), ("7:9", 0), ("7:9", 9)])
def test_no_step_no_profile(tmp_path, program, steps, made):
    run(Profile(steps, tmp_path), program, made, made + 3)
    assert list(tmp_path.iterdir()) == []


def test_steps_are_read_as_a_range():
    assert parse_steps("100:105") == range(100, 105)
    for text in ("100", "105:100", "5:5", "a:b", "-1:4", ""):
        with pytest.raises(ValueError, match="such as 100:105"):
            parse_steps(text)
