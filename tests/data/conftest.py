"""A demo mixture registered with SeqIO: two tasks of one corpus, and a few-shot task."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

TEXTS = [f"Sentence: {n} kilometers; Translation: {n} కి\u200cమీ; [CLM]" for n in range(30)]


def items() -> list[dict]:
    return [
        {"id": f"{n}", "language": "te", "src": f"{n} km", "target": f"{n} కిమీ"}
        | {"shot_group": "en-te"}
        for n in range(3)
    ]


def shots() -> list[dict]:
    return [{"id": "s", "shot_group": "en-te", "src": "7 km", "tgt": "7 కిమీ"}]


@pytest.fixture(scope="session")
def demo() -> SimpleNamespace:
    """What the demo tasks are made of."""
    import seqio
    import tensorflow as tf

    from alexatm_jax.data.causal_lm import CausalLM
    from alexatm_jax.data.denoising import Denoising
    from alexatm_jax.evaluation.prompts import FewShotPrompt

    def source_of(texts: list) -> seqio.FunctionDataSource:
        def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensor_slices({"text": tf.constant(texts, tf.string)})

        return seqio.FunctionDataSource(dataset, splits=["train"])

    return SimpleNamespace(
        texts=TEXTS,
        source_of=source_of,
        objectives={"denoising": Denoising(), "clm": CausalLM(position_end=64)},
        prompt=FewShotPrompt(
            "Sentence: {src}; Translation: {tgt};", "Sentence: {src}; Translation:"
        ),
        items=items,
        shots=shots,
    )


@pytest.fixture(scope="module")
def vocabulary(demo, tmp_path_factory):
    """The vocabulary of the demo's tasks, for SeqIO."""
    from alexatm_jax.data.seqio_tasks import SeqioVocabulary
    from alexatm_jax.data.vocabulary import train

    path = tmp_path_factory.mktemp("vocabulary") / "v.model"
    return SeqioVocabulary(lambda: train(demo.texts, path, size=300))


@pytest.fixture
def registered(demo, vocabulary):
    """Registers two tasks over 30 documents and an empty one, their mixture, a few-shot task."""
    import seqio

    from alexatm_jax.data.seqio_few_shot import add_few_shot_task
    from alexatm_jax.data.seqio_tasks import add_pretraining_tasks

    source = demo.source_of([*demo.texts, ""])
    add_pretraining_tasks("demo", source, vocabulary, demo.objectives)
    rates = [("demo_denoising", 8), ("demo_clm", lambda task: 2)]
    seqio.MixtureRegistry.add("demo_mixture", rates)
    add_few_shot_task("units", demo.prompt, demo.items, demo.shots, vocabulary)
    yield vocabulary.wrapped
    seqio.MixtureRegistry.reset()
    seqio.TaskRegistry.reset()
