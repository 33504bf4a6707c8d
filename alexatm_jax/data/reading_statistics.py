"""Sums up what a reader has read since the run began, from its state alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from alexatm_jax.data.places import place_from_json


def statistics(state: Mapping[str, Any], labels: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Sums up the streams of a state of `pipeline.BatchReader`, over all phases of training.

    Args:
      state: of one host or, from `pipeline.merged_states`, of all.
      labels: of the tasks, to be repeated.

    Returns:
      What `pipeline.BatchReader.statistics` says.
    """
    streams = list(state["streams"].values())
    tokens = np.sum([stream["tokens"] for stream in streams], axis=0)  # [tasks, 3]
    capacity = _capacity(state)
    held = tokens[:, :2].sum(axis=0)
    return {
        "fill": float(held.sum() / capacity.sum()),
        "encoder_fill": float(held[0] / capacity[0]),
        "decoder_fill": float(held[1] / capacity[1]),
        "tasks": _of_tasks(state, tokens, labels),
    }


def phases(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lists "reader", its description, and "steps" of each phase, with the present one."""
    steps = state["step"] - sum(phase["steps"] for phase in state["earlier"])
    return [*state["earlier"], {"reader": state["reader"], "steps": steps}]


def _capacity(state: Mapping[str, Any]) -> np.ndarray:
    """Counts the places for tokens on both sides of all rows given, 1 at least."""
    sides = np.zeros(2)
    for phase in phases(state):
        reader = phase["reader"]
        rows = phase["steps"] * reader["batch_size"] * _share_of_streams(state)
        sides += rows * np.array([reader["encoder_length"], reader["decoder_length"]])
    return np.maximum(sides, 1)


def _share_of_streams(state: Mapping[str, Any]) -> float:
    return len(state["streams"]) / state["reader"]["num_streams"]


def _of_tasks(
    state: Mapping[str, Any], tokens: np.ndarray, labels: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
    all_sides, all_text = max(tokens[:, :2].sum(), 1), max(tokens[:, 2].sum(), 1)
    expected, documents = _expected_shares(state), _documents_read(state)
    return {
        task["name"]: {
            "encoder_tokens": int(tokens[index, 0]),
            "decoder_tokens": int(tokens[index, 1]),
            "text_tokens": int(tokens[index, 2]),
            "token_share": float(tokens[index, :2].sum() / all_sides),
            "share": float(tokens[index, 2] / all_text),
            "expected": float(expected[index]),
            "documents": documents[index],
            "epochs": documents[index] / (task["documents"] * _share_of_streams(state)),
            "labels": dict(labels[task["name"]]),
        }
        for index, task in enumerate(state["reader"]["tasks"])
    }


def _expected_shares(state: Mapping[str, Any]) -> np.ndarray:
    """Weighs each phase's rates, [tasks], with the text tokens that were read in it."""
    readers = [phase["reader"] for phase in phases(state)]
    rates = np.array([[task["rate"] for task in reader["tasks"]] for reader in readers])
    texts = np.array([_texts(stream) for stream in state["streams"].values()]).sum(axis=0)
    if not texts.any():
        texts[-1] = 1
    return texts @ (rates / rates.sum(axis=1, keepdims=True)) / texts.sum()


def _texts(stream: Mapping[str, Any]) -> list[int]:
    """Counts the text tokens of a stream in each phase."""
    earlier = stream["earlier_text"]
    return [*earlier, sum(text for _, _, text in stream["tokens"]) - sum(earlier)]


def _documents_read(state: Mapping[str, Any]) -> list[int]:
    of_streams = [stream["places"] for stream in state["streams"].values()]
    return [
        sum(place_from_json(place).documents_read for place in of_task)
        for of_task in zip(*of_streams, strict=True)
    ]
