"""What a training run reads: a reader for each phase, and what is said of the mixture."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from alexatm_jax import cluster
from alexatm_jax.batch import NoMoreBatches
from alexatm_jax.data import cache, mixture_report, pipeline
from alexatm_jax.partitioning import row_share
from alexatm_jax.training.phases import ResolvedPhase
from alexatm_jax.training.stepping import Reader
from alexatm_jax.whole_files import write_json

logger = logging.getLogger(__name__)

_LEAST_FILL = 0.8


def reader_configs(
    phases: Sequence[ResolvedPhase],
    *,
    seed: int,
    num_streams: int,
    packing: str,
    max_epochs: int | None,
) -> list[pipeline.ReaderConfig]:
    """Says how each phase reads; the arguments are those of `data.pipeline.ReaderConfig`."""
    configs = []
    for phase in phases:
        with phase.blamed():
            config = pipeline.ReaderConfig(
                phase.batch_size,
                phase.source_length,
                phase.target_length,
                seed=seed,
                num_streams=num_streams,
                packing=packing,
                max_epochs=max_epochs,
                rate_factors=phase.rate_factors,
            )
        configs.append(config)
    return configs


class PhaseReaders:
    """This host's part of the batches of every phase.

    All are opened at once, so that a phase that cannot be read is refused before any is.

    Args:
      configs: of each phase.
    """

    def __init__(
        self,
        cache_dir: str,
        mixture: cache.MixtureSpec,
        phases: Sequence[ResolvedPhase],
        configs: Sequence[pipeline.ReaderConfig],
        mesh: Mesh,
    ):
        for task in {task.objective["kind"]: task for task in reversed(mixture.tasks)}.values():
            logger.info("example of %s", cache.rendered_example(cache_dir, task))
        self._phases = phases
        self._readers = []
        for phase, config in zip(phases, configs, strict=True):
            with phase.blamed():
                reader = pipeline.open_reader(cache_dir, mixture.mixture, config, *row_share(mesh))
            self._readers.append(reader)
        self._may_end = any(config.max_epochs is not None for config in configs)
        self._current = 0
        self._prefetching = contextlib.ExitStack()

    def __enter__(self) -> PhaseReaders:
        return self

    def __exit__(self, *_: Any) -> None:
        self._prefetching.close()

    def check_state(self, state: dict[str, Any], step: int) -> None:
        """Raises ValueError unless training can go on behind a state saved at a step."""
        left = max(p.number for p in self._phases if p.start_step < step)
        self._readers[left].set_state(state)
        if step == self._phases[left].end_step and left + 1 < len(self._phases):
            self._readers[left + 1].continue_from(state)

    def open(self, phase: ResolvedPhase, state: dict[str, Any] | None, crossing: bool) -> Reader:
        """Opens a phase's batches as `training.loop.OpenReader` says, and closes those before."""
        self._prefetching.close()
        self._current = phase.number
        reader = self._readers[phase.number]
        if state is not None:
            (reader.continue_from if crossing else reader.set_state)(state)
        batches = self._prefetching.enter_context(contextlib.closing(pipeline.Prefetcher(reader)))
        return ending_together(batches) if self._may_end else batches

    def statistics(self, state: dict[str, Any]) -> dict[str, Any]:
        """Sums up what has been read to a state of the phase that is open."""
        return self._readers[self._current].statistics(state)


def ending_together(batches: Reader) -> Reader:
    """Ends the batches of all processes where those of any one end."""
    while True:
        try:
            item, end = next(batches), None
        except NoMoreBatches as error:
            end = str(error)
        if ends := [other for other in cluster.gathered(end) if other]:
            raise NoMoreBatches(ends[0])
        yield item


def report_mixture(
    cache_dir: str,
    mixture: cache.MixtureSpec,
    phases: Sequence[ResolvedPhase],
    configs: Sequence[pipeline.ReaderConfig],
) -> None:
    """Logs what the run reads: in each phase, where their rates differ, and in all.

    Raises:
      ValueError: if it would read some of it more often than `max_epochs` allows.
    """
    provenances = cache.read_provenances(cache_dir, mixture.corpora)
    draws = [(phase.rate_factors, phase.target_tokens) for phase in phases]
    if any(phase.rate_factors != phases[0].rate_factors for phase in phases):
        for phase, draw in zip(phases, draws, strict=True):
            spec = mixture_report.drawn(mixture, [draw])
            logger.info("%s: %s", phase, mixture_report.table(spec, provenances, draw[1]))
    whole, tokens = mixture_report.drawn(mixture, draws), sum(tokens for _, tokens in draws)
    logger.info("%s", mixture_report.table(whole, provenances, tokens))
    _check_epochs(whole, provenances, phases[-1].end_step, tokens, configs[0].max_epochs)


def _check_epochs(
    mixture: cache.MixtureSpec,
    provenances: dict[str, Any],
    train_steps: int,
    target_tokens: int,
    max_epochs: int | None,
) -> None:
    # Rows are never emptier than this, so what is too much here is too much.
    fewest = mixture_report.as_json(mixture, provenances, _LEAST_FILL * target_tokens)
    texts = max(fewest["texts"], key=lambda text: text["most"]["epochs"])
    if max_epochs is not None and texts["most"]["epochs"] > max_epochs:
        raise ValueError(
            f"{train_steps} steps read {texts['source']} {texts['most']['language']} "
            f"{texts['form']} {texts['most']['epochs']:.1f} times, and max_epochs allows "
            f"{max_epochs}; take fewer steps, give more text, or raise max_epochs."
        )


def report_data(statistics: dict[str, Any], mixture: cache.MixtureSpec, model_dir: str) -> None:
    """Logs how full rows are and what has been read; keeps all of it in data_statistics.json.

    Shares that have drifted from the mixture's are warned of.
    """
    drift = mixture_report.drift(statistics, mixture)
    epochs = [task["epochs"] for task in statistics["tasks"].values()]
    logger.info(
        "data so far: rows %.1f %% full; %.2f to %.2f epochs; %s",
        *(100 * statistics["fill"], min(epochs), max(epochs), "; ".join(drift.lines())),
    )
    if drift.warning:
        logger.warning("%s", drift.warning)
    if cluster.is_first():
        write_json(Path(model_dir) / "data_statistics.json", statistics)
