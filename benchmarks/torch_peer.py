"""The PyTorch peers: the published class, and BART with fused attention.

python -m benchmarks.torch_peer SETTINGS, a JSON object

Each runs in a virtual environment of its own, since the published class asks for an old
transformers. Both get the sizes, dropout sites and AdamW of our side; AdamW's fused kernel, which
is the faster; no clipping and no learning-rate schedule, which favours them.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.shapes import Shape
from benchmarks.timing import BenchmarkError, Timing, repeated, serve

FIRST_WORD = 10
BOS = 0

Measure = Callable[[], Timing]


def published(shape: Shape) -> torch.nn.Module:
    """The published class with three untied tables, as the 20B model has them."""
    from alexa_teacher_models import AlexaTMSeq2SeqConfig, AlexaTMSeq2SeqForConditionalGeneration

    config = AlexaTMSeq2SeqConfig(
        **_sizes(shape),
        type_vocab_size=1,
        hidden_act="gelu",
        hidden_dropout_prob=shape.dropout_rate,
        attention_probs_dropout_prob=shape.dropout_rate,
        share_embeddings=False,
        tie_word_embeddings=False,
    )
    return AlexaTMSeq2SeqForConditionalGeneration(config)


def bart(shape: Shape) -> torch.nn.Module:
    """BART with scaled_dot_product_attention; its one table serves as all three."""
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        **_sizes(shape), attention_dropout=shape.dropout_rate, attn_implementation="sdpa"
    )
    model = BartForConditionalGeneration(config)
    for layer in model.model.decoder.layers:  # as in the published class and ours
        layer.self_attn.dropout = layer.encoder_attn.dropout = 0.0
    return model


MODELS: dict[str, Callable[[Shape], torch.nn.Module]] = {"published": published, "BART": bart}


def _sizes(shape: Shape) -> dict[str, Any]:
    return dict(
        vocab_size=shape.vocab_size,
        d_model=shape.d_model,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        encoder_attention_heads=shape.num_heads,
        decoder_attention_heads=shape.num_heads,
        encoder_ffn_dim=shape.d_ff,
        decoder_ffn_dim=shape.d_ff,
        max_position_embeddings=shape.max_positions,
        dropout=shape.dropout_rate,
        pad_token_id=1,
    )


def training(model: torch.nn.Module, shape: Shape, *, compiled: bool) -> Callable[[], float]:
    """Gives a step that trains on a batch of full rows, and its tokens."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    source, inputs, labels = (
        _tokens(shape, length, seed)
        for seed, length in enumerate(
            (shape.source_length, shape.target_length, shape.target_length)
        )
    )
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        loss = forward(
            input_ids=source,
            attention_mask=torch.ones_like(source),
            decoder_input_ids=inputs,
            labels=labels,
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not torch.isfinite(loss):
            raise FloatingPointError("the loss is not finite; what is timed is broken.")
        return shape.tokens

    return step


class CachedDecoding:
    """Drives a model token by token with its own cache.

    The published class's `generate` fails with every transformers that it can be installed with,
    so this calls `forward` with `past_key_values`, as `generate` would.
    """

    def __init__(self, model: torch.nn.Module, shape: Shape) -> None:
        self._model, self._new_tokens = model.eval(), shape.target_length
        self._source = _tokens(shape, shape.source_length, 0)
        self._mask = torch.ones_like(self._source)

    @torch.inference_mode()
    def answer(self) -> torch.Tensor:
        """Takes the likeliest token `target_length` times: int64 [B, target_length]."""
        encoded = self._encode()
        tokens = torch.full((len(self._source), 1), BOS)
        answer, past = [], None
        for _ in range(self._new_tokens):
            output = self._model(
                encoder_outputs=encoded,
                attention_mask=self._mask,
                decoder_input_ids=tokens,
                past_key_values=past,
                use_cache=True,
            )
            past = output.past_key_values
            tokens = output.logits[:, -1].argmax(dim=-1, keepdim=True)
            answer.append(tokens)
        return torch.cat(answer, dim=1)

    @torch.inference_mode()
    def check(self) -> None:
        """Raises BenchmarkError if a whole forward pass would take other tokens.

        Near ties apart: what the whole pass takes may be likelier by rounding alone.
        """
        answer = self.answer()
        start = torch.full((len(self._source), 1), BOS)
        logits = self._model(
            encoder_outputs=self._encode(),
            attention_mask=self._mask,
            decoder_input_ids=torch.cat([start, answer[:, :-1]], dim=1),
            use_cache=False,
        ).logits
        taken = logits.gather(-1, answer[..., None])[..., 0]
        short = float((logits.amax(dim=-1) - taken).max())
        if short > 1e-4 * float(logits.abs().max()):
            raise BenchmarkError(
                f"a token of the cached answer is {short} less likely than the whole pass's; what "
                "is timed is not greedy decoding."
            )

    def _encode(self) -> Any:
        return self._model.model.encoder(input_ids=self._source, attention_mask=self._mask)


def _tokens(shape: Shape, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (shape.batch_size, length)
    return torch.randint(FIRST_WORD, shape.vocab_size, size, generator=generator)


def prepare(task: str, peer: str, shape: Shape, steps: int) -> Measure:
    """Makes a peer and runs it once; "PEER, compiled" goes through `torch.compile`."""
    torch.manual_seed(0)
    name, _, compiled = peer.partition(", ")
    model = MODELS[name](shape)
    if task == "train":
        step = training(model, shape, compiled=bool(compiled))
    else:
        driven = CachedDecoding(model, shape)
        driven.check()

        def step() -> float:
            return float(driven.answer().numel())

    step()
    return repeated(step, steps)


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    shape = Shape(**settings["shape"])
    prepared = functools.partial(
        prepare, settings["task"], settings["peer"], shape, settings["steps"]
    )
    serve(prepared, "torch", "transformers", "alexa-teacher-models")
