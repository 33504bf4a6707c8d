"""Phases: what they inherit, what they freeze, and what is refused."""

from __future__ import annotations

import pytest
from flax import linen as nn

from alexatm_jax.batch import batch_shapes
from alexatm_jax.model.flops import ENCODER_PARTS, PARTS
from alexatm_jax.training.optimizer import LinearSchedule
from alexatm_jax.training.phases import Phase, resolved
from alexatm_jax.training.state import abstract_params

BASE = LinearSchedule(1.0, 0.5, total_steps=100)
LATER = LinearSchedule(0.25, 0.25, total_steps=100)


@pytest.fixture
def resolve(tiny):
    def make(*phases, **model):
        return resolved(
            phases,
            train_steps=100,
            model=tiny(**model).config,
            schedule=BASE,
            batch_size=8,
            source_length=6,
            target_length=7,
        )

    return make


def test_a_run_without_phases_trains_everything_alike(resolve):
    (only,) = resolve()
    assert (only.start_step, only.end_step, only.frozen) == (0, 100, frozenset())
    assert only.groups == {"from_0": frozenset(PARTS)} and only.trained == set(PARTS)
    assert only.batch_shapes == batch_shapes(8, 6, 7)
    assert (only.schedule, only.rate_factors) == (BASE, {})


def test_what_a_phase_leaves_open_stays_as_before(resolve):
    first, second, third = resolve(
        Phase(0, frozen=["encoder"], batch_size=4),
        Phase(10, schedule=LATER, rate_factors={"a": 2.0}),
        Phase(20, frozen=[], source_length=5, target_length=3, rate_factors={}),
    )
    ends = [(phase.start_step, phase.end_step) for phase in (first, second, third)]
    assert ends == [(0, 10), (10, 20), (20, 100)]
    assert first.frozen == second.frozen == ENCODER_PARTS and not third.frozen
    assert [phase.batch_size for phase in (first, second, third)] == [4] * 3
    assert [phase.schedule for phase in (first, second, third)] == [BASE, LATER, LATER]
    assert [phase.rate_factors for phase in (first, second, third)] == [{}, {"a": 2.0}, {}]
    assert third.batch_shapes == batch_shapes(4, 5, 3)


def test_groups_say_since_when_parts_train(resolve):
    phases = resolve(
        Phase(0, ["encoder"]), Phase(5, []), Phase(7, ["decoder", "lm_head"]), Phase(9, ["encoder"])
    )
    decoder = {"decoder", "decoder_tokens", "decoder_positions", "lm_head"}
    assert [dict(phase.groups) for phase in phases] == [
        {"from_0": decoder},
        {"from_0": decoder, "from_5": ENCODER_PARTS},
        {"from_0": {"decoder_tokens", "decoder_positions"}, "from_5": ENCODER_PARTS},
        {"from_0": {"decoder_tokens", "decoder_positions"}, "from_9": {"decoder", "lm_head"}},
    ]


@pytest.mark.parametrize("tables", [{}, {"share_embeddings": True}, {"tie_lm_head": True}], ids=str)
def test_parts_are_those_of_the_model(resolve, tiny, tables):
    (only,) = resolve(**tables)
    assert only.trained == nn.unbox(abstract_params(tiny(**tables))).keys()


def test_a_shared_table_is_frozen_if_it_is_named(resolve):
    tied = dict(share_embeddings=True, tie_lm_head=True)
    (only,) = resolve(Phase(0, ["encoder", "encoder_tokens"]), **tied)
    assert only.frozen == ENCODER_PARTS


@pytest.mark.parametrize(
    ("phases", "model", "message"),
    [
        ([Phase(1)], {}, "start at the steps 1 of 100; the first must start at 0"),
        ([Phase(0), Phase(9), Phase(9)], {}, "0, 9, 9 of 100.*each later than the one before"),
        ([Phase(0), Phase(100)], {}, "all below train_steps: change"),
        ([Phase(0), Phase(9, ["enc"])], {}, "from step 9 freezes 'enc', which no model has; cho"),
        (
            [Phase(0, ["decoder_tokens"])],
            {"share_embeddings": True},
            r"which this model shares \(share_embeddings\) with encoder_tokens; choose among enc",
        ),
        ([Phase(0, ["lm_head"])], {"tie_lm_head": True}, "ties .tie_lm_head. to decoder_tokens"),
        (
            [Phase(0, ["encoder"])],
            {"share_embeddings": True, "tie_lm_head": True},
            "table encoder_tokens is also the decoder's and the LM head: name 'encoder_tokens'",
        ),
        ([Phase(0, PARTS)], {}, "which is the whole model; train some of it"),
    ],
)
def test_impossible_phases_are_refused(resolve, phases, model, message):
    with pytest.raises(ValueError, match=message):
        resolve(*phases, **model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(start_step=-1), "start_step is -1; it must be 0 or more"),
        (dict(start_step=0, batch_size=0), "batch_size is 0; give 1 or more"),
        (dict(start_step=0, target_length=-2), "target_length is -2"),
        (dict(start_step=1e5), r"start_step is 100000\.0; .* a whole number, such as 100000\."),
        (dict(start_step=None), "start_step is None; it must be a whole number, such as 1000"),
        (dict(start_step=0, batch_size=True), "batch_size is True; it must be a whole number"),
        (dict(start_step=0, source_length="8"), "source_length is '8'; it must be a whole"),
        (dict(start_step=0, target_length=7.5), r"target_length is 7.5; .*, such as 7\."),
        (dict(start_step=0, frozen="encoder"), r"give a list: \['encoder'\]"),
    ],
)
def test_what_is_no_phase_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Phase(**fields)


def test_a_phase_describes_itself(resolve):
    _, second = resolve(
        Phase(0, ["encoder"]), Phase(50, [], rate_factors={"wiki_*": 0.5}, batch_size=16)
    )
    assert second.description() == (
        "phase 2 of 2, steps 50-100: 16 x (6 + 7) tokens; learning rate 0.75 to 0.505; "
        "frozen: nothing; wiki_* x 0.5"
    )


def test_errors_say_their_phase_where_there_are_several(resolve):
    for phases, blame in (([], "^too long$"), ([Phase(0), Phase(50)], "^phase 2 of 2.*: too long")):
        with pytest.raises(ValueError, match=blame), resolve(*phases)[-1].blamed():
            raise ValueError("too long")
