"""Encoder-decoder pre-training and few-shot evaluation in JAX, after the AlexaTM 20B paper."""

__version__ = "0.1.0"
