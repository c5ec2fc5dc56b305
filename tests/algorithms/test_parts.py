"""Which leaves a study's words name."""

from __future__ import annotations

import pytest

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


def test_numbers_are_numbers() -> None:
    assert last_layer(NETWORK[:5]) == {"10.weight", "10.bias"}
    assert last_layer(["intercept", "coefficients"]) == {"intercept"}
    assert head_of(NETWORK[:5], "") == {"10.weight", "10.bias"}
