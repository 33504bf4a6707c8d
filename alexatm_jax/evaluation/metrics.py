"""Compares predicted answers with the gold ones, as percentages.

The text metrics have the signature of a SeqIO metric, `(targets, predictions) -> dict`,
so that they can be given to a `seqio.Task` as they are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import sacrebleu


def normalized(text: str) -> str:
    """Gives NFC text whose runs of white space, no-break spaces too, are one space."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Percentage of predictions that equal their target once both are `normalized`.

    Raises:
      ValueError: if there are no pairs, or not one prediction per target.
    """
    _check_pairs(targets, predictions)
    right = sum(
        normalized(target) == normalized(prediction)
        for target, prediction in zip(targets, predictions, strict=True)
    )
    return {"exact_match": 100 * right / len(targets)}


def chrf(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Corpus chrF2 in [0, 100]: character n-grams up to 6, recall weighing twice precision.

    The texts go to sacrebleu as they are, so that figures compare with published ones.

    Raises:
      ValueError: if there are no pairs, or not one prediction per target.

    Source: Popovic, "chrF: character n-gram F-score for automatic MT evaluation" (2015).
    """
    _check_pairs(targets, predictions)
    return {"chrf": sacrebleu.corpus_chrf(list(predictions), [list(targets)]).score}


def accuracy(answers: Sequence[int], choices: Sequence[int]) -> dict[str, float]:
    """Percentage of items whose chosen index is the answer's.

    Raises:
      ValueError: if there are no pairs, or not one choice per answer.
    """
    _check_pairs(answers, choices)
    right = sum(answer == choice for answer, choice in zip(answers, choices, strict=True))
    return {"accuracy": 100 * right / len(answers)}


def _check_pairs(targets: Sequence[object], predictions: Sequence[object]) -> None:
    if len(targets) != len(predictions) or not targets:
        raise ValueError(
            f"a metric got {len(targets)} targets and {len(predictions)} predictions; "
            "it needs one prediction per target and at least one pair; pair them by item."
        )
