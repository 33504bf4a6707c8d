"""Text in, text out: order, buckets, limits."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from alexatm_jax.data.vocabulary import SpecialIds
from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.decoding.generate import greedy
from alexatm_jax.decoding.text_model import Scored, TextModel
from alexatm_jax.partitioning import Partitioning

LETTERS = "abcdefghijklmnopqrstuvwxyz;. !?-:"


class Alphabet:
    """A vocabulary of one piece per letter, from id 7 on; "#" stands for [CLM]."""

    special = SpecialIds(*range(7))

    def encode(self, text: str) -> np.ndarray:
        return np.array([7 + LETTERS.index(letter) for letter in text], np.int32)

    def encode_prompt(self, text: str) -> np.ndarray:
        clm = [self.special.clm] if text.startswith("#") else []
        return np.r_[clm, self.encode(text.removeprefix("#"))].astype(np.int32)

    def decode(self, ids) -> str:
        return "".join(LETTERS[token - 7] for token in ids if token >= 7)

    def piece_bytes(self, *, first: bool) -> list[bytes]:
        return [b""] * 7 + [letter.encode() for letter in LETTERS]


PROMPTS = ["#a bird", "on", "what is that?", "#in the beginning", "if; then", "no.", "yes!"]
SETTINGS = dict(batch_size=2, max_new_tokens=6, length_bucket=8)
ONE_BUCKET = SETTINGS | dict(length_bucket=24)


@pytest.fixture(scope="module")
def make(tiny):
    """Makes a TextModel of one random model; 40 rows in its table, 39 pieces in use."""
    model, params = tiny(seed=4)
    return lambda **changes: TextModel(
        model, params, Alphabet(), DecodingConfig(**(SETTINGS | changes))
    )


@pytest.fixture(scope="module")
def text_model(make):
    return make()


@pytest.fixture(scope="module")
def answers(text_model):
    return text_model.predict(PROMPTS)


def test_answers_come_back_in_the_order_asked(text_model, make, answers):
    assert len(set(answers)) > 3
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    shuffled = text_model.predict([PROMPTS[i] for i in order])
    assert shuffled == [answers[i] for i in order]
    one_by_one = make(batch_size=1, length_bucket=24)
    assert [one_by_one.predict([prompt])[0] for prompt in PROMPTS] == answers
    assert one_by_one.num_compilations == 1


def test_each_bucket_is_compiled_once(make, answers):
    fresh = make()
    assert fresh.num_compilations == 0
    buckets = {-(-len(prompt) // 8) for prompt in PROMPTS}
    for _ in range(2):
        fresh.predict(PROMPTS)
        assert fresh.num_compilations == len(buckets) == fresh._generator(6)._cache_size()


def test_an_answer_ends_at_a_piece_with_the_stop(text_model, answers):
    stop = next(answer[1] for answer in answers if len(answer) > 1)
    stopped = text_model.predict(PROMPTS, stop=stop)
    cut = [answer.partition(stop) for answer in answers]
    assert stopped == [before for before, _, _ in cut]
    assert stopped != answers


def test_no_prompts_no_answers(text_model):
    assert text_model.predict([]) == []
    assert text_model.score([]) == []


def starts(end: int | None) -> list[int]:
    """First positions: a [CLM] prompt's last is end - 1, if there is an end; else from 0."""
    return [end - len(p) if end and p.startswith("#") else 0 for p in PROMPTS]


def test_predicting_is_greedy_generation(tiny, make, batch_prompts):
    model, params = tiny(seed=4)
    rows = [Alphabet().encode_prompt(prompt) for prompt in PROMPTS]
    generate = jax.jit(functools.partial(greedy, model, max_new_tokens=6, bos_id=1))
    different = []
    for end in (None, 20):
        prompts = batch_prompts(rows, 20, starts(end))
        tokens = generate(params, prompts, ends_V=np.arange(40) == 2)
        got = make(position_end=end).predict(PROMPTS)
        assert got == [Alphabet().decode(row) for row in np.asarray(tokens)]
        different.append(got)
    assert different[0] != different[1]


def request_for(index: int) -> tuple[str, str, str]:
    """Prompts and given texts come back, and after 21 requests the same."""
    given = ("", "so; ", "the answer is ")[index % 3]
    return PROMPTS[index % len(PROMPTS)], given, ("a", "no way", "so?")[index // 7 % 3]


REQUESTS = [request_for(index) for index in range(30)]


@pytest.mark.parametrize("changes", [dict(), ONE_BUCKET, dict(batch_size=8)], ids=str)
def test_scores_are_those_of_each_request_alone(tiny, make, batch_prompts, changes):
    model, params = tiny(seed=4)

    @jax.jit
    def log_probs(prompts, inputs_BT):
        logits_BTV = model.apply(
            {"params": params},
            prompts.tokens,
            inputs_BT,
            encoder_positions=prompts.positions,
            encoder_segment_ids=prompts.segment_ids,
        )
        return jax.nn.log_softmax(logits_BTV[0])

    def wanted(prompt: str, given: str, text: str) -> Scored:
        row = Alphabet().encode_prompt(prompt)
        first = 20 - len(row) if prompt.startswith("#") else 0
        tokens = Alphabet().encode(given + text)
        inputs = np.zeros((1, 24), np.int32)
        inputs[0, : len(tokens)] = [1, *tokens[:-1]]
        table = np.asarray(log_probs(batch_prompts([row], 20, [first]), inputs))[: len(tokens)]
        scored = slice(len(given), None)
        greedy = (table.argmax(axis=-1) == tokens)[scored].all()
        return Scored(-table[np.arange(len(tokens)), tokens][scored].sum(), len(text), greedy)

    found = make(position_end=20, **changes).score(REQUESTS)
    assert all(isinstance(one, Scored) for one in found)
    for request, one in zip(REQUESTS, found, strict=True):
        nats, *others = wanted(*request)
        assert one.nats == pytest.approx(nats, rel=1e-5) and [one.num_tokens, one.greedy] == others


def test_the_same_is_computed_once(make):
    """Thirty requests are 21, of seven prompts with three given texts each."""
    model = make()
    contexts = model._contexts(REQUESTS)
    assert [len(context.stems) for context in contexts] == [3] * 7
    branches = [branch for one in contexts for stem in one.stems for branch in stem.branches]
    assert len(branches) == 21 and sum(len(branch.requests) for branch in branches) == 30
    repeated = PROMPTS * 3
    batches = list(model.predict_batches(repeated, stop=""))
    assert sorted(index for batch in batches for index in batch) == list(range(len(repeated)))
    assert [len(batch) for batch in batches] == [
        6,
        6,
        3,
        3,
        3,
    ]  # three of each prompt, two prompts of a bucket
    answers = {index: text for batch in batches for index, text in batch.items()}
    assert [answers[index] for index in range(7)] == model.predict(PROMPTS)


def test_what_is_done_changes_no_bit_of_the_rest(make):
    model = make(length_bucket=8)
    prompts = [prompt for prompt, _, _ in REQUESTS] + ["aaaaa", "bb", "#cccccc"]
    for ask, asked in (
        (model.score_batches, REQUESTS),
        (functools.partial(model.predict_batches, stop=""), prompts),
    ):
        whole = list(ask(asked))
        assert sorted(index for batch in whole for index in batch) == list(range(len(asked)))
        for done in ({0, 3, 11, 29}, set(range(28)), {*whole[1], 2}, set(range(33))):
            left = [batch for batch in whole if not done.issuperset(batch)]
            assert list(ask(asked, done=done)) == left


def test_answers_may_be_shorter_than_the_configs(make, answers):
    model = make()
    (short,) = model.predict_batches(PROMPTS[:1], stop="", max_new_tokens=2)
    assert short == {0: answers[0][:2]} and len(answers[0]) > 2
    assert model.num_compilations == 1
    assert list(model.predict_batches(PROMPTS[:1], stop="")) == [{0: answers[0]}]
    assert model.num_compilations == 2
    for number, message in ((25, "is 25; the model has 24 positions"), (0, "is 0; give 1 or more")):
        with pytest.raises(ValueError, match=f"max_new_tokens {message}"):
            model.predict_batches(PROMPTS, stop="", max_new_tokens=number)


def test_tokens_are_counted_as_they_are_read(make):
    assert make().count_tokens("#a bird") == 7
    assert make(wrap_prompts=True).count_tokens("#a bird") == 9
    assert make().count_answer_tokens("a bird") == 6
    assert (make().max_prompt_tokens, make().max_answer_tokens) == (24, 24)
    assert make(max_prompt_tokens=10).max_prompt_tokens == 10


def test_too_long_is_said_before_anything_is_compiled(make):
    model = make(max_prompt_tokens=10)
    long = "a prompt that is long"
    for refused in (
        lambda: model.check_prompts(["ok", long]),
        lambda: model.predict(["ok", long]),
        lambda: model.score_batches([("ok", "", "a"), (long, "", "b")]),
        lambda: model.predict_batches(["ok", long], stop=""),
    ):
        with pytest.raises(ValueError, match="prompt has 21 tokens, 'a prompt .* 1 and 10 fit"):
            refused()
    with pytest.raises(ValueError, match="choice has 30 tokens"):
        model.score_batches([("ok", "", "a" * 30)])
    with pytest.raises(ValueError, match="prompt has 0 tokens"):
        model.predict([""])
    assert model.num_compilations == 0
    model.check_prompts(["ok", long[:10]])


def test_position_end_limits_the_prompt(make):
    with pytest.raises(ValueError, match="prompt has 9 tokens, .* between 1 and 8 fit"):
        make(position_end=8).check_prompts(["too long."])


def test_no_id_stands_for_padding(tiny):
    """With other ids for `<s>`, `[PAD]` and `<unk>`, and their rows, nothing changes."""
    model, params = tiny(seed=4)
    order = np.arange(40)
    order[[0, 1, 3]] = 1, 3, 0

    class Moved(Alphabet):
        special = SpecialIds(pad=3, bos=0, eos=2, unk=1, mask=4, clm=5, doc=6)

    tables = ("encoder_tokens", "decoder_tokens", "lm_head")
    moved = params | {name: {"table": params[name]["table"][order]} for name in tables}
    config = DecodingConfig(**(ONE_BUCKET | dict(num_beams=2)))
    one, other = (
        TextModel(model, weights, vocabulary, config)
        for weights, vocabulary in ((params, Alphabet()), (moved, Moved()))
    )
    assert one.predict(PROMPTS) == other.predict(PROMPTS)
    for scored, again in zip(one.score(REQUESTS), other.score(REQUESTS), strict=True):
        assert scored.nats == pytest.approx(again.nats) and scored[1:] == again[1:]


def test_an_answer_ends_with_a_stop_of_several_pieces(text_model, answers):
    stops = [answer[2:4] for answer in answers if len(answer) > 4][:2]
    before = text_model.num_compilations
    stopped = text_model.predict(PROMPTS, stops)
    wanted = [min((answer.split(stop)[0] for stop in stops), key=len) for answer in answers]
    assert stopped == wanted != answers
    assert text_model.num_compilations == before, "one more stop is one more table, not a program"


def test_prompts_are_wrapped_and_the_decoder_starts_as_asked(make, tiny, batch_prompts):
    model, params = tiny(seed=4)
    rows = [[1, *Alphabet().encode_prompt(prompt), 2] for prompt in PROMPTS]
    generate = jax.jit(functools.partial(greedy, model, max_new_tokens=6, bos_id=9))
    starts = [20 - len(row) if row[1] == 5 else 0 for row in rows]
    tokens = generate(params, batch_prompts(rows, 20, starts), ends_V=np.arange(40) == 2)
    wrapping = make(wrap_prompts=True, decoder_start_id=9, position_end=20)
    assert wrapping.predict(PROMPTS) == [Alphabet().decode(row) for row in np.asarray(tokens)]
    with pytest.raises(ValueError, match="prompt has 21 tokens"):
        wrapping.check_prompts(["a" * 19])


def test_several_answers_come_best_first_or_as_drawn(make):
    beams = make(**ONE_BUCKET, num_beams=3, num_answers=2)
    for answers in beams.answer(PROMPTS):
        assert len(answers) == 2 and answers[0].score >= answers[1].score
    drawing = make(**ONE_BUCKET, temperature=1.0, num_answers=2)
    draws, again = drawing.answer(PROMPTS), drawing.answer(PROMPTS[::-1])[::-1]
    for both, other in zip(draws, again, strict=True):
        assert [one.text for one in both] == [one.text for one in other]
    assert any(both[0].text != both[1].text for both in draws)


@pytest.mark.parametrize(
    ("options", "partitioning", "cpu_layout"),
    [
        (dict(num_beams=3, no_repeat_ngram_size=2, batch_size=3), Partitioning(2, 2, 2), True),
        (dict(temperature=1.0, top_k=9), Partitioning(2, 2, 2), False),
        (dict(num_beams=3, batch_size=1), Partitioning(1, 8, 1), False),
    ],
    ids=["beams", "draws as on accelerators", "beams as on accelerators, sharded"],
)
def test_a_mesh_answers_and_scores_as_one_device(
    monkeypatch, tiny, options, partitioning, cpu_layout
):
    """The first has more beams at a time than half the width; see `decoding_rules`."""
    monkeypatch.setattr("alexatm_jax.decoding.text_model.on_cpu", lambda params: cpu_layout)
    sizes = dict(d_model=64, num_heads=4, d_ff=32, decoder_num_heads=2)
    model, params = tiny(seed=5, **sizes)
    mesh = partitioning.make_mesh()
    boxed = jax.eval_shape(
        model.init, jax.random.key(0), *[jax.ShapeDtypeStruct((1, 1), np.int32)] * 2
    )
    sharded = jax.device_put(params, partitioning.param_shardings(boxed["params"], mesh))
    config = DecodingConfig(**(ONE_BUCKET | options))
    alone = TextModel(model, params, Alphabet(), config)
    spread = TextModel(model, sharded, Alphabet(), config, partitioning=partitioning, mesh=mesh)
    assert spread.predict(PROMPTS, "ab") == alone.predict(PROMPTS, "ab")
    for one, other in zip(spread.score(REQUESTS), alone.score(REQUESTS), strict=True):
        assert one.nats == pytest.approx(other.nats, rel=1e-5) and one[1:] == other[1:]


def test_long_texts_are_said_beforehand(make):
    model = make()
    assert [one.num_tokens for one in model.score([("a", "", "b" * 24), ("a", "c" * 20, "bbbb")])]
    for given, text, message in (
        ("", "b" * 25, "choice has 25 tokens"),
        ("", "", "choice has 0 tokens"),
        ("c" * 20, "b" * 5, "decoder text has 25 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            model.score_batches([("a", given, text)])
