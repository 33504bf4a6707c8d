"""Registers few-shot tasks with SeqIO: prompts are rendered, answers are scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from alexatm_jax.data.seqio_tasks import SeqioVocabulary, features
from alexatm_jax.evaluation.metrics import chrf, exact_match
from alexatm_jax.evaluation.prompts import FewShotPrompt


class SeqioFewShotTask(seqio.Task):
    """A SeqIO task that keeps its prompt, items and shots at hand.

    Its split "test" gives the zero-shot prompt of every item, with the gold answer as
    target; "shots" does so for the pool.
    """

    def __init__(
        self,
        name: str,
        *,
        prompt: FewShotPrompt,
        items: Callable[[], list[dict]],
        shot_pool: Callable[[], list[dict]],
        **task: Any,
    ) -> None:
        super().__init__(name, **task)
        self.prompt, self.items, self.shot_pool = prompt, items, shot_pool


class RenderPrompt:
    """Preprocessor from JSON under "entry" to prompt and answer, as text and as tokens."""

    def __init__(self, prompt: FewShotPrompt, vocabulary: SeqioVocabulary) -> None:
        self.prompt, self.vocabulary = prompt, vocabulary

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(self._map, num_parallel_calls=tf.data.AUTOTUNE)

    def _map(self, example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        text, ids = tf.string, tf.int32
        values = tf.numpy_function(self._render, [example["entry"]], [text, text, ids, ids])
        names = ("inputs_pretokenized", "targets_pretokenized", "inputs", "targets")
        features = {
            name: tf.ensure_shape(value, [None] if value.dtype == ids else [])
            for name, value in zip(names, values, strict=True)
        }
        return dict(example) | features

    def _render(self, entry: bytes) -> tuple[bytes, bytes, np.ndarray, np.ndarray]:
        fields = json.loads(entry)
        question = self.prompt.render(fields, ())
        answer = fields["target"] if "target" in fields else self._answer_of(fields)
        vocabulary = self.vocabulary.wrapped
        targets = np.append(vocabulary.encode(answer), np.int32(vocabulary.special.eos))
        inputs = vocabulary.encode_prompt(question)
        return question.encode(), answer.encode(), inputs, targets

    def _answer_of(self, shot: dict) -> str:
        """What a solved example says after its question, which it may or may not repeat."""
        solved = self.prompt.shot.format_map(shot)
        return self.prompt.cut(solved.removeprefix(self.prompt.query.format_map(shot)))


def add_few_shot_task(
    name: str,
    prompt: FewShotPrompt,
    items: Callable[[], list[dict]],
    shot_pool: Callable[[], list[dict]],
    vocabulary: SeqioVocabulary,
) -> None:
    """Registers a SeqIO task that asks items of data, scored by exact match and chrF.

    Args:
      name: name of the task, here and in the cache.
      prompt: templates.
      items: gives what to ask, `evaluation.prompts` says in which form.
      shot_pool: gives the solved examples to draw shots from; each has the fields of both
        templates.
      vocabulary: tokenizes prompts and answers.
    """

    def entries(split: str, shuffle_files: bool, seed: int = 0) -> tf.data.Dataset:
        split_entries = items() if split == "test" else shot_pool()
        texts = [json.dumps(entry, ensure_ascii=False) for entry in split_entries]
        return tf.data.Dataset.from_tensor_slices({"entry": tf.constant(texts, tf.string)})

    def answer(text: str, **unused: Any) -> str:
        return prompt.cut(text)

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(entries, splits=("test", "shots")),
        preprocessors=[RenderPrompt(prompt, vocabulary)],
        postprocess_fn=answer,
        metric_fns=[exact_match, chrf],
        output_features=features(vocabulary),
        task_cls=SeqioFewShotTask,
        prompt=prompt,
        items=items,
        shot_pool=shot_pool,
    )
