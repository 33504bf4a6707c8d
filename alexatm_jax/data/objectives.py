"""Makes objectives from JSON-able dicts, the form that the cache keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

from alexatm_jax.data.causal_lm import CausalLM
from alexatm_jax.data.denoising import Denoising

Objective: TypeAlias = Denoising | CausalLM

_CLASSES: dict[str, type[Objective]] = {cls.kind: cls for cls in (Denoising, CausalLM)}


def objective_from_spec(spec: Mapping[str, Any]) -> Objective:
    """Makes an objective of its kind and fields; those left out keep their defaults.

    Raises:
      ValueError: if the kind or a field is unknown, or a value out of range.
    """
    fields = dict(spec)
    kind = fields.pop("kind", None)
    if kind not in _CLASSES:
        raise ValueError(
            f"objective {dict(spec)} is of kind {kind!r}; known kinds are "
            f"{sorted(_CLASSES)}; name one of them under 'kind'."
        )
    known = [field.name for field in dataclasses.fields(_CLASSES[kind])]
    if unknown := sorted(set(fields) - set(known)):
        raise ValueError(f"objective {kind!r} was given {unknown}; it has {known}; correct them.")
    return _CLASSES[kind](**fields)
