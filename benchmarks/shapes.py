"""Sizes that both sides of a comparison have: of the model, of a batch."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Shape:
    """An encoder-decoder and the batch that it is timed on; every row is full.

    Attributes:
      d_model, num_heads, d_ff: widths of both stacks.
      encoder_layers, decoder_layers: depths.
      vocab_size: rows of each token table; encoder, decoder and head have one each.
      batch_size, source_length, target_length: of a training step, or of prompts and answers.
      dropout_rate: on embeddings, on the outputs of attention and feed-forward, and on the
        encoder's attention probabilities, as the published classes have it.
    """

    d_model: int = 512
    num_heads: int = 8
    d_ff: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 4
    vocab_size: int = 32_000
    batch_size: int = 4
    source_length: int = 512
    target_length: int = 512
    dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (0 <= value < 1 if field.name == "dropout_rate" else value >= 1):
                raise ValueError(f"--{field.name} is {value}; give a size, or a rate below 1.")

    @property
    def tokens(self) -> int:
        """Encoder and decoder tokens of a batch."""
        return self.batch_size * (self.source_length + self.target_length)

    @property
    def max_positions(self) -> int:
        """Rows of a position table that serve both stacks."""
        return max(self.source_length, self.target_length)

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser, **defaults: Any) -> None:
        """Adds an option for every size; `defaults` replace ours."""
        for field in fields(cls):
            default = defaults.get(field.name, field.default)
            parser.add_argument(
                f"--{field.name}", type=type(field.default), default=default, help=f"({default})"
            )

    @classmethod
    def of_options(cls, options: argparse.Namespace) -> Shape:
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})
