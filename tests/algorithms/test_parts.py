"""Which leaves a study's words name."""

from __future__ import annotations

import pytest

from aimer2.algorithms.fedbn import FedBN
from aimer2.algorithms.parts import head_of, last_layer, leaves_called

NETWORK = ["0.weight", "0.bias", "9.weight", "10.weight", "10.bias", "blocks.1.weight", "blocks.11.bias"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("0.weight", {"0.weight"}),
        ("10", {"10.weight", "10.bias"}),
        ("0, 9", {"0.weight", "0.bias", "9.weight"}),
        ("blocks", {"blocks.1.weight", "blocks.11.bias"}),
        ("*.bias", {"0.bias", "10.bias", "blocks.11.bias"}),
        ("blocks.1", {"blocks.1.weight"}),
        ("", set()),
    ],
)
def test_leaves_layers_and_patterns(words: str, found: set[str]) -> None:
    assert leaves_called(NETWORK, words, "head") == found


def test_a_keras_models_paths_have_layers_too() -> None:
    """Its head is kernel and bias, and its normalisation all four leaves; else half a layer would stay at home without a word."""
    paths = [f"net/{leaf}" for leaf in ("dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias")]
    normal = [f"net/norm/{leaf}" for leaf in ("gamma", "beta", "moving_mean", "moving_variance")]
    assert last_layer(paths) == {"net/dense_1/kernel", "net/dense_1/bias"} == leaves_called(paths, "net/dense_1", "head")
    assert FedBN().local_leaves(dict.fromkeys([*paths, *normal])) == set(normal)


def test_numbers_are_numbers() -> None:
    assert last_layer(NETWORK[:5]) == {"10.weight", "10.bias"}
    assert last_layer(["intercept", "coefficients"]) == {"intercept"}
    assert head_of(NETWORK[:5], "") == {"10.weight", "10.bias"}
