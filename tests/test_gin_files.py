"""Every gin file that comes with alexatm loads, and says at once what it leaves open."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gin
import jax
import pytest
from flax import linen as nn

from alexatm_jax import gin_config, main
from alexatm_jax.model import ModelConfig, Transformer
from alexatm_jax.model.flops import ENCODER_PARTS
from alexatm_jax.preflight import check_mesh
from alexatm_jax.runs import answering, caching, evaluating, planning, training
from alexatm_jax.training.state import abstract_params

SEARCH = gin_config.search_paths([])
FOLDER = Path(SEARCH[-1])
FILES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.gin"))
MODELS = [name for name in FILES if name.startswith("models/")]


def load(*names: str, bindings: tuple[str, ...] = ()) -> list[str]:
    """Loads files and names what is missing."""
    gin_config.load(names, bindings, SEARCH)
    return [line.split(" ")[0] for line in gin_config.missing_required()]


@pytest.mark.parametrize("name", FILES)
def test_it_loads_and_has_a_header(name):
    load(name)
    assert (FOLDER / name).read_text().startswith("# ")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_file_binds_a_whole_model_and_nothing_else(name):
    assert load(name) == []
    assert ModelConfig(**gin.get_bindings(ModelConfig)).d_model % 128 == 0
    bound = {function.rsplit(".", 1)[-1] for _, function in gin.config._CONFIG}
    assert bound == {"ModelConfig"}


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("runs/data.gin", ["MIXTURE_OR_TASK_NAME", "CACHE_DIR"]),
        ("runs/pretrain.gin", ["MIXTURE_OR_TASK_NAME", "CACHE_DIR", "MODEL_DIR"]),
        ("runs/few_shot.gin", ["MIXTURE_OR_TASK_NAME", "CACHE_DIR", "MODEL_DIR"]),
        (
            "runs/suite.gin",
            ["CHECKPOINT_PATH", "CACHE_DIR", "EVAL_OUTPUT_DIR", "EVALUATION_FOLDER"],
        ),
        ("runs/warm_start.gin", ["WARM_START_PATH"]),
        ("runs/local_text.gin", ["TEXT", "VOCABULARY", "MIXTURE_OR_TASK_NAME"]),
        ("runs/infer.gin", ["CHECKPOINT_PATH", "CACHE_DIR", "PROMPTS_PATH", "INFER_OUTPUT_DIR"]),
        ("runs/interactive.gin", ["CHECKPOINT_PATH", "CACHE_DIR"]),
        (
            "runs/harness.gin",
            ["CHECKPOINT_PATH", "CACHE_DIR", "HARNESS_TASKS", "HARNESS_OUTPUT_DIR"],
        ),
    ],
)
def test_a_run_file_lists_all_that_it_needs_at_once(name, missing):
    assert load(name) == missing
    with pytest.raises(gin_config.ConfigError) as raised:
        gin_config.check_complete()
    for macro in missing:
        assert f"--gin.{macro}=VALUE" in str(raised.value)


def test_the_demo_is_complete_for_its_modes():
    assert load("experiments/demo.gin") == []
    gin_config.check_complete()
    modes = {"train": training.train, "eval": evaluating.evaluate, "cache": caching.build_cache}
    for mode, function in modes.items():
        found, arguments = main.configured(mode)
        assert found is function
        assert arguments["data"].mixture_or_task_name == "cldr_demo"


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("experiments/")])
def test_an_experiment_is_planned_without_naming_data(name):
    load(name)
    gin_config.check_complete(planning.plan)
    function, arguments = main.configured("plan")
    assert function is planning.plan
    chips = 1 if "demo" in name else 128
    num_microbatches = arguments["training"].num_microbatches
    check_mesh(arguments["partitioning"], arguments["batch_size"], num_microbatches, chips)


def test_the_papers_freeze_is_two_phases_also_when_a_run_is_read_back(tmp_path):
    names = ("models/alexatm_20b.gin", "runs/pretrain.gin", "runs/frozen_encoder.gin")
    saved = tmp_path / "config.gin"
    for files in (names, (str(saved),)):
        load(*files, bindings=("thawed/Phase.batch_size=4096",) if files is names else ())
        training = main.configured("plan")[1]["training"]
        model = main.configured("plan")[1]["model"]
        frozen, thawed = training.resolved_phases(model, 2048, 1024, 1024)
        assert (frozen.end_step, thawed.end_step) == (100_000, 500_000)
        assert (frozen.frozen, thawed.frozen) == (ENCODER_PARTS, frozenset())
        assert (frozen.batch_size, thawed.batch_size) == (2048, 4096)
        saved.write_text(gin_config.operative_text())


@pytest.mark.parametrize("name", [name for name in FILES if "alexatm_20b_" in name])
def test_a_20b_experiment_changes_only_how_the_recipe_is_laid_out(name):
    load("models/alexatm_20b.gin", "runs/pretrain.gin", "runs/frozen_encoder.gin")
    _, recipe = main.configured("plan")
    load(name)
    _, arguments = main.configured("plan")
    for same in ("model", "batch_size", "task_feature_lengths", "decoding"):
        assert arguments[same] == recipe[same]
    training = arguments["training"]
    assert dataclasses.replace(training, num_microbatches=1) == recipe["training"]
    assert load(name) == ["CACHE_DIR", "MODEL_DIR", "WARM_START_PATH"]
    assert gin.query_parameter("%WARM_START_COPIES") == "encoder_and_embeddings"
    # Recipe §4.
    optimizer, schedule = training.optimizer, training.optimizer.schedule
    assert (schedule.peak, schedule.final, schedule.total_steps) == (1e-4, 5e-6, 500_000)
    assert schedule.warmup_steps == schedule.decay_start == 0
    assert (optimizer.weight_decay, training.train_steps) == (0.1, 500_000)
    assert arguments["batch_size"] * arguments["task_feature_lengths"]["targets"] == 2**21
    assert (recipe["model"].dtype, recipe["model"].remat) == ("bfloat16", "full")


@pytest.mark.parametrize(
    ("name", "billions"), [("large", 0.77), ("xl", 2.85), ("xxl", 11.3), ("alexatm_20b", 19.75)]
)
def test_a_model_is_about_as_large_as_the_one_it_is_named_after(name, billions):
    load(f"models/{name}.gin")
    model = Transformer(gin.get_configurable(ModelConfig)())
    leaves = jax.tree.leaves(nn.unbox(abstract_params(model)))
    assert sum(leaf.size for leaf in leaves) / 1e9 == pytest.approx(billions, rel=0.05)


@pytest.mark.parametrize(("mode", "name"), [("infer", "infer"), ("interactive", "interactive")])
def test_a_demo_model_can_answer(mode, name):
    paths = ("CHECKPOINT_PATH=a", "CACHE_DIR=b", "PROMPTS_PATH=c", "INFER_OUTPUT_DIR=d")
    used = paths if mode == "infer" else paths[:2]
    assert load("models/tiny.gin", f"runs/{name}.gin", bindings=used) == []
    function, arguments = main.configured(mode)
    assert function is getattr(answering, mode)
    assert (arguments["checkpoint_path"], arguments["cache_dir"]) == ("a", "b")


def test_a_run_says_with_its_checkpoints_how_it_was_configured():
    load("experiments/demo.gin", bindings=("TRAIN_STEPS=7000",))
    _, arguments = main.configured("train")
    assert "TRAIN_STEPS = 7000" in arguments["config_text"]
    assert arguments["training"].train_steps == 7000
    schedule = arguments["training"].optimizer.schedule
    assert schedule.total_steps == 7000
