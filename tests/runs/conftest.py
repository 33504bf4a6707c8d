"""A tiny SeqIO mixture, its cache and a run of 20 steps, made once and read by many tests."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

from alexatm_jax import main
from alexatm_jax.data.pipeline import ReaderConfig, open_reader

UNITS = {"te": "కిమీ", "ja": "キロ"}
TEXTS = [
    f"Sentence: {n} km; Translation: {n} {unit}; Sentence: {n + 1} km; Translation: {n + 1} {unit};"
    for n in range(20)
    for unit in UNITS.values()
]
TRAIN_STEPS = 20

GIN = """
from __gin__ import dynamic_registration
from alexatm_jax import partitioning
from alexatm_jax.model import config
from alexatm_jax.runs import answering
from alexatm_jax.runs import caching
from alexatm_jax.runs import training as run
from alexatm_jax.training import loop
from alexatm_jax.training import optimizer

include 'runs/pretrain.gin'
include 'runs/few_shot.gin'
include 'runs/infer.gin'

MIXTURE_OR_TASK_NAME = 'tiny_mixture'
EVALUATION_TASKS = ['tiny_units']
CACHE_DIR = '{folder}/cache'
MODEL_DIR = '{folder}/run'
CHECKPOINT_PATH = %MODEL_DIR
EVAL_OUTPUT_DIR = '{folder}/eval'
INFER_OUTPUT_DIR = '{folder}/infer'
PROMPTS_PATH = '{folder}/prompts.txt'
STOP = ';'
TASK_FEATURE_LENGTHS = {{'inputs': 32, 'targets': 32}}
BATCH_SIZE = 8
TRAIN_STEPS = {steps}
LEARNING_RATE = 3e-3

caching.DataConfig.task_modules = ()
run.train.num_streams = 4
loop.TrainingConfig:
  log_period_steps = 2
  checkpoint_period_steps = 7
optimizer.LinearSchedule.total_steps = {steps}
partitioning.Partitioning:
  data = 2
  fsdp = 2
  tensor = 2
config.ModelConfig:
  vocab_size = 384
  d_model = 16
  num_heads = 2
  d_ff = 32
  num_encoder_layers = 1
  num_decoder_layers = 1
  max_positions = 64
  scan_layers = False
answering.DecodingConfig:
  max_new_tokens = 8
  position_end = 64
"""


@dataclass(frozen=True)
class Tiny:
    """The folder with everything of the tiny run."""

    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def execute(self, mode: str, **bindings: object) -> None:
        """Runs a mode in this process, as the binary would; dots are written `__`."""
        given = [f"{name.replace('__', '.')}={value!r}" for name, value in bindings.items()]
        main.execute(mode, ["tiny.gin"], given, [str(self.folder)])

    def start(self, code: list[str], num_devices: int) -> subprocess.Popen[str]:
        """Starts Python in another process with so many simulated devices."""
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={num_devices}"
        return subprocess.Popen(
            [sys.executable, *code],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def losses(self, run: Path) -> list[dict[str, float]]:
        """Reads the rows of a run's metrics, without what clocks say."""
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        kept = ("step", "loss", "gradient_norm", "learning_rate", "encoder_tok", "decoder_tok")
        return [{k: v for k, v in row.items() if k.startswith(kept)} for row in rows]

    def batch_hashes(self, count: int = 5) -> list[str]:
        """Hashes the first batches that training reads."""
        config = ReaderConfig(8, 32, 32, seed=0, num_streams=4)
        reader = open_reader(self.cache, "tiny_mixture", config)
        return [
            hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest()
            for batch, _ in zip(reader, range(count), strict=False)
        ]


def items() -> list[dict]:
    return [
        {
            "id": f"{n}-{language}",
            "language": language,
            "shot_group": language,
            "src": f"{n} km",
            "target": f"{n} {unit}",
            "choices": [f"{n} {other}" for other in UNITS.values()],
            "answer": index,
        }
        for n in range(30, 33)
        for index, (language, unit) in enumerate(UNITS.items())
    ]


def shots() -> list[dict]:
    return [
        {"id": f"shot-{n}-{language}", "shot_group": language, "src": f"{n} km"}
        | {"tgt": f"{n} {unit}"}
        for n in range(40, 42)
        for language, unit in UNITS.items()
    ]


def registered(vocabulary_path: Path) -> Callable[[], None]:
    """Registers the tiny tasks with SeqIO; gives what takes them out again."""
    import seqio
    import tensorflow as tf

    from alexatm_jax.data import seqio_few_shot, seqio_tasks
    from alexatm_jax.data.causal_lm import CausalLM
    from alexatm_jax.data.denoising import Denoising
    from alexatm_jax.data.vocabulary import train
    from alexatm_jax.evaluation.prompts import FewShotPrompt

    def documents(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices({"text": tf.constant(TEXTS, tf.string)})

    sizes = {"train": len(TEXTS)}
    source = seqio.FunctionDataSource(documents, ["train"], num_input_examples=sizes)
    vocabulary = seqio_tasks.SeqioVocabulary(lambda: train(TEXTS, vocabulary_path, size=300))
    prompt = FewShotPrompt("Sentence: {src}; Translation: {tgt};", "Sentence: {src}; Translation:")
    objectives = {"denoising": Denoising(), "clm": CausalLM(position_end=64)}
    names = {"tiny_denoising": 0.4, "tiny_clm": 0.6}
    seqio_tasks.add_pretraining_tasks("tiny", source, vocabulary, objectives, description="tiny")
    seqio.MixtureRegistry.add("tiny_mixture", list(names.items()))
    seqio_few_shot.add_few_shot_task("tiny_units", prompt, items, shots, vocabulary)

    def remove() -> None:
        seqio.MixtureRegistry.remove("tiny_mixture")
        for name in (*names, "tiny_units"):
            seqio.TaskRegistry.remove(name)

    return remove


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory: pytest.TempPathFactory):
    """Registers the tiny tasks for as long as something is made from them."""
    path = tmp_path_factory.mktemp("vocabulary") / "tiny.model"
    return lambda: registered(path)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_tasks) -> Tiny:
    """Trains 20 steps at a stretch, from nothing, so that it writes the cache too."""
    folder = tmp_path_factory.mktemp("tiny")
    made = Tiny(folder)
    (folder / "tiny.gin").write_text(GIN.format(folder=folder, steps=TRAIN_STEPS))
    (folder / "prompts.txt").write_text("[CLM] Sentence: 7 km; Translation:\n\nSentence: 8 km;\n")
    remove = tiny_tasks()
    try:
        made.execute("train")
    finally:
        remove()
    return made


@pytest.fixture(scope="session")
def compilations() -> list[str]:
    """Grows by one entry with every compilation in this process."""
    events: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if "backend_compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return events
