"""Times few-shot scoring and generation beside a straightforward loop over the same model.

python -m benchmarks.few_shot [--json] [--rounds N] [--cases NAME ...]
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from alexatm_jax import gin_config
from alexatm_jax.data.vocabulary import SpecialIds
from alexatm_jax.decoding.config import DecodingConfig
from alexatm_jax.decoding.text_model import TextModel
from alexatm_jax.model import ModelConfig, Transformer
from benchmarks import command
from benchmarks.timing import Timing, in_turns, machine, median_rate, ratio, tell, timed, versions

MODEL = "models/small.gin"
BATCH_SIZE = 8
PADDED_TO = 8
"""The loop pads a batch to a multiple of this beyond its longest row: tighter than we do, and the
tightest that compiles a bearable number of programs."""

NEW_TOKENS = 64
GROWS_BY = 16
"""The loop's decoder input grows by so many tokens at a time, again in its favour."""


class Item(NamedTuple):
    """What the encoder reads, and for each choice what the decoder is given and scored on."""

    prompt: str
    choices: Sequence[tuple[str, str]]


class Words:
    """A vocabulary without text: "12 7" is tokens 12 and 7."""

    special = SpecialIds(*range(7))

    def __init__(self, size: int) -> None:
        self.size = size

    def encode(self, text: str) -> np.ndarray:
        return np.array(text.split(), np.int32)

    encode_prompt = encode

    def decode(self, ids: Any) -> str:
        return " ".join(str(token) for token in ids if token != self.special.eos)

    def piece_bytes(self, *, first: bool) -> list[bytes]:
        return [b" %d" % token for token in range(self.size)]


def texts(rng: np.random.Generator, size: int) -> Callable[..., str]:
    """Gives a function that draws a text of normally distributed length."""

    def draw(mean: float, deviation: float, least: int, most: int) -> str:
        length = int(np.clip(round(rng.normal(mean, deviation)), least, most))
        return " ".join(map(str, rng.integers(7, size, length)))

    return draw


def xcopa(draw: Callable[..., str], shots: int, count: int) -> list[Item]:
    """Premises and two alternatives as long as in Italian XCOPA.

    Its test set has premises of 13.3 +- 3.6 (5 to 24) and alternatives of 11.1 +- 3.5 (3 to 29)
    pieces of a 32 k vocabulary of eleven languages; `[CLM]` and a connective come to a premise, a
    delimiter to a shot.
    """

    def premise() -> str:
        return draw(15.3, 3.6, 7, 26)

    def choice() -> str:
        return draw(11.1, 3.5, 3, 29)

    def prompt() -> str:
        solved = [f"{premise()} {choice()} {draw(3, 0, 3, 3)}" for _ in range(shots)]
        return " ".join([*solved, premise()])

    return [Item(prompt(), [("", choice()) for _ in range(2)]) for _ in range(count)]


def multirc(draw: Callable[..., str], passages: int) -> list[Item]:
    """Options to judge by yes or no, five of each of four questions on a passage.

    Passage and question are as long as in MultiRC's validation set in pieces of the same
    vocabulary: 448 +- 154 (163 to 787) and 19 +- 10; an option has 8 +- 9, and 12 around it.
    """
    items = []
    for _ in range(passages):
        passage = draw(448, 154, 163, 787)
        for _ in range(4):
            prompt = f"{passage} {draw(19, 10, 5, 98)}"
            given = [draw(20, 9, 13, 60) for _ in range(5)]
            items += [Item(prompt, [(one, "100"), (one, "200")]) for one in given]
    return items


class PlainLoop:
    """Eight items at a time in their order, everything computed for every choice and every token.

    One forward pass of encoder and decoder, jitted, gives the logits of all positions; rows are
    padded together.

    Attributes:
      shapes: compiled so far.
    """

    def __init__(self, model: Transformer, params: Any, start_id: int) -> None:
        self._params, self._start_id = params, start_id
        self.shapes: set[tuple] = set()

        def logits(params: Any, prompts: tuple, inputs_BT: jax.Array) -> jax.Array:
            tokens_BS, segments_BS = prompts
            apply = functools.partial(model.apply, {"params": params})
            hidden: Any = apply(
                tokens_BS, inputs_BT, encoder_segment_ids=segments_BS, method="hidden_states"
            )
            table_VD: Any = apply(method="output_table")
            # One flat product as in our own decoding: `model.apply` itself is slower on CPUs.
            flat_RV = hidden.reshape(-1, hidden.shape[-1]) @ table_VD.T
            return flat_RV.reshape(*inputs_BT.shape, -1)

        def nats(params: Any, prompts: tuple, inputs_BT: jax.Array, targets_BT: jax.Array) -> Any:
            log_probs_BTV = jax.nn.log_softmax(logits(params, prompts, inputs_BT))
            index_BT1 = jnp.maximum(targets_BT, 0)[..., None]
            picked_BT = jnp.take_along_axis(log_probs_BTV, index_BT1, axis=-1)[..., 0]
            return -jnp.where(targets_BT < 0, 0, picked_BT).sum(axis=1)

        def likeliest(params: Any, prompts: tuple, inputs_BT: jax.Array, place: Any) -> jax.Array:
            return logits(params, prompts, inputs_BT)[:, place].argmax(axis=-1)

        self._nats, self._likeliest = jax.jit(nats), jax.jit(likeliest)

    def score(self, items: Sequence[Item]) -> list[list[float]]:
        """Sums the cross-entropy of each choice."""
        scores: list[list[float]] = []
        for begin in range(0, len(items), BATCH_SIZE):
            some = items[begin : begin + BATCH_SIZE]
            prompts = self._prompts([item.prompt for item in some])
            columns = zip(*(item.choices for item in some), strict=True)
            by_choice = [self._choice(prompts, column) for column in columns]
            scores += np.transpose(by_choice).tolist()
        return scores

    def _choice(self, prompts: tuple, choices: Sequence[tuple[str, str]]) -> np.ndarray:
        rows = [(_ids(given), _ids(text)) for given, text in choices]
        length = _padded(max(len(given) + len(text) for given, text in rows))
        inputs, targets = (
            np.zeros((BATCH_SIZE, length), np.int32),
            np.full((BATCH_SIZE, length), -1),
        )
        for row, (given, text) in enumerate(rows):
            end = len(given) + len(text)
            inputs[row, :end] = [self._start_id, *given, *text[:-1]]
            targets[row, len(given) : end] = text
        self.shapes.add((prompts[0].shape, length))
        return np.asarray(self._nats(self._params, prompts, inputs, targets))[: len(rows)]

    def generate(self, prompts: Sequence[str]) -> list[list[int]]:
        """Takes the likeliest token `NEW_TOKENS` times."""
        encoder = self._prompts(prompts)
        inputs = np.full((BATCH_SIZE, NEW_TOKENS + 1), self._start_id, np.int32)
        for place in range(NEW_TOKENS):
            length = min(_padded(place + 1, GROWS_BY), NEW_TOKENS)
            self.shapes.add((encoder[0].shape, length, "generate"))
            tokens_B = self._likeliest(self._params, encoder, inputs[:, :length], place)
            inputs[:, place + 1] = tokens_B
        return inputs[: len(prompts), 1:].tolist()

    @staticmethod
    def _prompts(prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = [_ids(prompt) for prompt in prompts]
        tokens = np.zeros((BATCH_SIZE, _padded(max(map(len, rows)))), np.int32)
        segments = np.zeros_like(tokens)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
        return tokens, segments


def _ids(text: str) -> list[int]:
    return list(map(int, text.split()))


def _padded(length: int, multiple: int = PADDED_TO) -> int:
    return -(-length // multiple) * multiple


@dataclass(frozen=True)
class Case:
    """One thing done in two ways.

    Attributes:
      unit: of the amount.
      amount: of one measurement, the same for both.
      ours, loop: do it, and give something to compare.
      agree: whether both came to the same.
    """

    unit: str
    amount: float
    ours: Callable[[], Any]
    loop: Callable[[], Any]
    agree: Callable[[Any, Any], bool]


class Bench:
    """The model in both ways, and the cases."""

    def __init__(self, config: ModelConfig, *, num_items: int, num_passages: int) -> None:
        model = Transformer(config)
        words = Words(config.vocab_size)
        params = _random_params(model)
        decoding = DecodingConfig(batch_size=BATCH_SIZE, max_new_tokens=NEW_TOKENS)
        self.text_model = TextModel(model, params, words, decoding)
        self.loop = PlainLoop(model, params, words.special.bos)
        draw = texts(np.random.default_rng(0), config.vocab_size)
        self.cases = {
            "XCOPA, 0 shots": self._scoring(xcopa(draw, 0, num_items)),
            "XCOPA, 1 shot": self._scoring(xcopa(draw, 1, num_items)),
            "MultiRC": self._scoring(multirc(draw, num_passages)),
            f"generating {NEW_TOKENS} from 256": self._generating(
                [draw(256, 0, 256, 256) for _ in range(BATCH_SIZE)]
            ),
        }

    def _scoring(self, items: Sequence[Item]) -> Case:
        requests = [(item.prompt, *choice) for item in items for choice in item.choices]

        def agree(ours: Any, theirs: Any) -> bool:
            flat = [value for values in theirs for value in values]
            return bool(np.allclose([one.nats for one in ours], flat, rtol=1e-4))

        return Case(
            "items/s",
            len(items),
            lambda: self.text_model.score(requests),
            lambda: self.loop.score(items),
            agree,
        )

    def _generating(self, prompts: Sequence[str]) -> Case:
        def agree(ours: Any, theirs: Any) -> bool:
            return all(
                _ids(one) == row[: len(_ids(one))] for one, row in zip(ours, theirs, strict=True)
            )

        return Case(
            "tokens/s",
            len(prompts) * NEW_TOKENS,
            lambda: self.text_model.predict(prompts),
            lambda: self.loop.generate(prompts),
            agree,
        )


def _random_params(model: Transformer) -> Any:
    tokens = jnp.zeros((1, 1), jnp.int32)
    return nn.unbox(jax.jit(model.init)(jax.random.key(0), tokens, tokens)["params"])


def small_config() -> ModelConfig:
    """Reads the model's dimensions from its gin file."""
    gin_config.load([MODEL], [], gin_config.search_paths([]))
    return ModelConfig(**gin.get_bindings(ModelConfig))


def measure(bench: Bench, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Computes each case in both ways once, compares the results, then times them in turns.

    Returns:
      What --json prints: "rates", "rounds" and "units" by case and way; "ratios" by case;
      "compilations" by way; "versions", "machine".

    Raises:
      ValueError: if the two ways come to different results.
    """
    rates: dict[str, dict[str, float]] = {}
    every_round: dict[str, dict[str, list[float]]] = {}
    ratios: dict[str, float] = {}
    for name in names:
        case = bench.cases[name]
        if not case.agree(case.ours(), case.loop()):  # this compiles, too
            raise ValueError(f"{name}: both ways came to different results; mend either.")
        ways = dict(_measurements(case))
        timings = in_turns(ways, rounds, functools.partial(_tell, name))
        rates[name] = {way: median_rate(found) for way, found in timings.items()}
        every_round[name] = {w: [one.per_second for one in t] for w, t in timings.items()}
        ratios[name] = ratio(timings["ours"], timings["loop"])
    return {
        "benchmark": "few_shot",
        "rates": rates,
        "ratios": ratios,
        "rounds": every_round,
        "units": {name: bench.cases[name].unit for name in names},
        "compilations": {
            "ours": bench.text_model.num_compilations,
            "loop": len(bench.loop.shapes),
        },
        "batch_size": BATCH_SIZE,
        "versions": versions("jax", "jaxlib", "flax", "numpy"),
        "machine": machine(),
    }


def _measurements(case: Case) -> Iterator[tuple[str, Callable[[], Timing]]]:
    for way, function in (("ours", case.ours), ("loop", case.loop)):

        def step(function: Callable[[], Any] = function) -> float:
            function()
            return case.amount

        yield way, functools.partial(timed, step)


def table(result: Mapping[str, Any]) -> str:
    """Renders the figures for people."""
    lines = [f"{'case':<26}{'unit':>10}{'ours':>12}{'loop':>12}{'ratio':>9}"]
    for name, rates in result["rates"].items():
        unit, times = result["units"][name], result["ratios"][name]
        lines.append(
            f"{name:<26}{unit:>10}{rates['ours']:>12,.1f}{rates['loop']:>12,.1f}{times:>9.2f}"
        )
    ours, loop = (result["compilations"][way] for way in ("ours", "loop"))
    lines.append(
        f"Medians, batches of {result['batch_size']}, {result['machine']['cores']} cores; both "
        f"came to the same results. Programs compiled, untimed: {ours} ours, {loop} the loop's."
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; see `command.run`."""

    def measured(options: argparse.Namespace) -> dict[str, Any]:
        bench = Bench(small_config(), num_items=options.items, num_passages=options.passages)
        parts = options.cases or [""]
        chosen = [name for name in bench.cases if any(part in name for part in parts)]
        return measure(bench, chosen, options.rounds)

    return command.run(arguments, _parser(), measured, table)


def _tell(case: str, line: str) -> None:
    tell(f"{case}: {line}")


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("few_shot", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way")
    parser.add_argument("--cases", nargs="*", metavar="PART", help="only cases named like this")
    parser.add_argument("--items", type=int, default=160, help="of XCOPA's kind")
    parser.add_argument("--passages", type=int, default=2, help="of MultiRC's kind, 20 items each")
    return parser


if __name__ == "__main__":
    sys.exit(main())
