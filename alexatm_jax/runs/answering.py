"""Run modes `infer` and `interactive`, and the text model that evaluation shares."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from alexatm_jax import preflight
from alexatm_jax.data.cache import read_vocabulary
from alexatm_jax.data.vocabulary import write_atomically
from alexatm_jax.decoding.text_model import TextModel
from alexatm_jax.model import ModelConfig, Transformer
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.training import checkpoint
from alexatm_jax.training.state import abstract_params

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """How prompts are batched and answered; see `decoding.text_model.TextModel`."""

    batch_size: int = 32
    max_prompt_tokens: int | None = None
    max_new_tokens: int = 64
    length_bucket: int = 32
    position_end: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"DecodingConfig.{field.name} is {value}; give 1 or more.")


def load_text_model(
    model: ModelConfig,
    checkpoint_path: str,
    cache_dir: str,
    decoding: DecodingConfig,
    partitioning: Partitioning,
) -> tuple[TextModel, int]:
    """Restores a checkpoint's parameters onto the mesh.

    Args:
      cache_dir: the cache that holds the vocabulary.

    Returns:
      The model, ready to answer, and the step of its checkpoint.

    Raises:
      ValueError: if the checkpoint is missing, or of another model or vocabulary.
    """
    vocabulary = read_vocabulary(cache_dir)
    preflight.check_vocabulary_size(vocabulary.size, model)
    wanted = {"model": dataclasses.asdict(model), "vocabulary_sha256": vocabulary.sha256}
    found = checkpoint.read_provenance(checkpoint_path)
    checkpoint.check_provenance(found, wanted, checkpoint_path)
    network = Transformer(model)
    boxed = abstract_params(network)
    abstract = partitioning.placed_params(boxed, partitioning.make_mesh())
    params, step = checkpoint.read_params(checkpoint_path, abstract)
    return TextModel(network, params, vocabulary, **dataclasses.asdict(decoding)), step


def infer(
    model: ModelConfig,
    checkpoint_path: str,
    cache_dir: str,
    decoding: DecodingConfig,
    partitioning: Partitioning,
    prompts_path: str,
    output_dir: str,
    stop: str = "",
) -> None:
    """Run mode `infer`: answers the prompts of a file into `output_dir`/predictions.jsonl.

    Args:
      prompts_path: a text file with one prompt a line; prompts are taken as they are, so write
        `[CLM] ` before those that the model shall continue.
      stop: answers end before the first occurrence.
    """
    with preflight.refusing():
        prompts = _read_prompts(Path(prompts_path))
        preflight.check_writable(output_dir)
        answers_path = Path(output_dir) / "predictions.jsonl"
        text_model, step = load_text_model(
            model, checkpoint_path, cache_dir, decoding, partitioning
        )
        text_model.check_prompts(prompts)
    answers = text_model.predict(prompts, stop)
    rows = [
        {"prompt": prompt, "prediction": _before(answer, stop), "step": step}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomically(answers_path, "".join(lines).encode())
    logger.info("answered %d prompts into %s", len(prompts), answers_path)


def interactive(
    model: ModelConfig,
    checkpoint_path: str,
    cache_dir: str,
    decoding: DecodingConfig,
    partitioning: Partitioning,
    stop: str = "",
) -> None:
    """Run mode `interactive`: answers prompts as they are typed, until end of file."""
    with preflight.refusing():
        decoding = dataclasses.replace(decoding, batch_size=1)
        text_model, step = load_text_model(
            model, checkpoint_path, cache_dir, decoding, partitioning
        )
    print(
        f"step {step} of {checkpoint_path}. One prompt a line; begin it with [CLM] to have it "
        "continued, with nothing to have it reconstructed. Ctrl-D ends."
    )
    for prompt in _typed_lines():
        try:
            print(_before(text_model.predict([prompt], stop)[0], stop))
        except ValueError as error:
            print(f"not answered: {error}")


def _read_prompts(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); convert it first.") from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompt; write one a line.")
    return prompts


def _typed_lines() -> Iterator[str]:
    while True:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            print()
            return
        if line.strip():
            yield line.strip()


def _before(answer: str, stop: str) -> str:
    return (answer.split(stop)[0] if stop else answer).strip()
