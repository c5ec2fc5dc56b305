"""What a coordinator receives in a secure round is noise to it; and each check finds the mask that is broken on purpose."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from secure_federation import Federation

from aimer2.attacks.coordinator_view import FOUND, difference, measure, repeated
from aimer2.core.random import SecureBytes
from aimer2.secure_aggregation.keys import own_seed
from aimer2.secure_aggregation.layout import Layout
from aimer2.secure_aggregation.masking import mask
from aimer2.secure_aggregation.quantisation import encode

SIZE = 100_000
CONTEXT = hashlib.sha256(b"a round").digest()


@pytest.fixture(scope="module", params=[{"update": {"w": 4.0}}, {}], ids=["32 bits", "128 bits"])
def federation(request: pytest.FixtureRequest) -> Federation:
    """Four sites whose updates are alike, as they are in training; two rounds, uploaded and opened by real keys."""
    federation = Federation(4, rounds=2)
    common = np.random.default_rng(1).normal(0, 1e-2, SIZE)
    for number, site in enumerate(federation.sites):
        federation.updates[site] = {"update": {"w": (common + np.random.default_rng(number).normal(0, 1e-3, SIZE)).astype(np.float32)}}
    federation.layout = Layout.of(federation.updates["site-0"], request.param, 4)
    epoch = federation.set_up()
    for number in (1, 2):
        current, messages = federation.update_phase(epoch, number=number)
        terms = federation.round_terms(number)
        agreed = {site: federation.members[site].agree(federation.terms, terms, message) for site, message in messages.items()}
        asked = current.collect_agreements(agreed)
        opened = current.collect_reveals({site: federation.members[site].reveal(federation.terms, terms, text) for site, text in asked.items()})
        assert np.allclose(federation.sum(current, opened), sum(one["update"]["w"] for one in federation.updates.values()), atol=1e-5)
    return federation


def upload(federation: Federation, site: str, round_number: int = 1) -> np.ndarray:
    return federation.uploads[site, round_number]["update"]["w"].reshape(-1)


def clear(federation: Federation, site: str) -> np.ndarray:
    return encode(federation.updates[site]["update"]["w"], federation.layout.leaves[0], 4).words


def test_every_upload_is_noise(federation: Federation) -> None:
    for site in federation.sites:
        found = measure(upload(federation, site), clear(federation, site))
        assert found.noise, found


def test_the_difference_of_two_sites_and_of_two_rounds_is_noise(federation: Federation) -> None:
    """The same update in both rounds: a mask that was used for both would fall out."""
    one, other, again = upload(federation, "site-0"), upload(federation, "site-1"), upload(federation, "site-0", 2)
    assert difference(one, other).noise and difference(one, again).noise
    assert not np.array_equal(one, again)


def test_some_of_the_masks_taken_off_leave_noise(federation: Federation) -> None:
    """The sum of all sites but one, and of any two: an honest pair's mask is still on."""
    words = [upload(federation, site) for site in federation.sites]
    for chosen in (words[:3], words[:2], words[1:3]):
        with np.errstate(over="ignore"):
            assert measure(np.sum(chosen, axis=0, dtype=words[0].dtype)).noise


def test_even_the_count_and_the_checksum_are_masked(federation: Federation) -> None:
    """Nobody's update was clipped; a zero in the clear would show."""
    for site in federation.sites:
        own = federation.uploads[site, 1]["secure"]
        assert int(own["saturated"].reshape(-1)[0]) != 0
        assert own["checksum"].tobytes().count(b"\0") < 8


# The checks find what is broken


def test_a_mask_that_was_left_out_is_found(federation: Federation) -> None:
    found = measure(clear(federation, "site-0"), clear(federation, "site-0"))
    assert found.largest > 100 and not found.noise


def test_a_mask_that_was_used_twice_is_found() -> None:
    """Each upload by itself looks as random as ever."""
    layout = Layout.of({"update": {"w": np.zeros(SIZE, np.float32)}}, {"update": {"w": 4.0}}, 4)
    rng = np.random.default_rng(4)
    sums = [{"update": {"w": rng.normal(0, 1e-2, SIZE).astype(np.float32)}} for _ in range(2)]
    one, other = (mask(part, layout, CONTEXT, bytes(32), [], [])["update"]["w"].read(0, SIZE) for part in sums)
    assert measure(one).noise and measure(other).noise
    assert difference(one, other).largest > 100


def test_a_mask_that_is_too_short_is_found(federation: Federation) -> None:
    """The last quarter in the clear."""
    words = upload(federation, "site-0").copy()
    quarter = len(words) // 4
    words[-quarter:] = clear(federation, "site-0")[-quarter:]
    assert not measure(words, clear(federation, "site-0")).noise


@pytest.mark.parametrize(
    "broken",
    [
        lambda words: words & np.uint32(0x7FFFFFFF),  # one bit less
        lambda words: words ^ (words & np.uint32(0xFF)) ^ ((words & np.uint32(0xFF)) % np.uint32(251)),  # drawn modulo a prime
        lambda words: np.where(np.arange(len(words)) % 20 == 1, np.roll(words, 1), words),  # every twentieth as the one before
    ],
    ids=["a bit", "modulo", "neighbours"],
)
def test_a_mask_that_is_not_uniform_is_found(broken: object) -> None:
    words = SecureBytes(bytes(32)).read(4 * SIZE).view(np.uint32)
    assert measure(words).noise
    assert not measure(broken(words)).noise  # type: ignore[operator]


def test_words_that_went_out_unmasked_are_found_by_what_they_were_alone() -> None:
    """An update that is itself like noise, a twentieth of it beside the mask: no test of uniformity sees that, the correlation does."""
    source = SecureBytes(bytes(32))
    before, words = (source.read(4 * SIZE).view(np.uint32) for _ in range(2))
    leaking = np.where(np.arange(SIZE) % 20 == 0, before, words)
    assert measure(words, before).noise and measure(leaking).noise
    assert measure(leaking, before).own > FOUND


def test_seeds_of_28_bits_are_found() -> None:
    """Masks of 40,000 rounds: of 2^28 seeds some come twice, of 2^256 none."""
    secret = bytes(range(32))
    contexts = [hashlib.sha256(str(number).encode()).digest() for number in range(40_000)]
    short = [int.from_bytes(context[:4], "big") % 2**28 for context in contexts]
    assert repeated([seed.to_bytes(32, "big") for seed in short]) >= 1
    assert repeated([own_seed(secret, context, 0) for context in contexts[:10_000]]) == 0


def test_noise_is_called_noise_as_often_as_it_should() -> None:
    """200 drawn messages of the size of a small model: none is beyond the bound, and the measures are of deviation 1."""
    source = SecureBytes(bytes(32))
    found = [measure(source.read(8 * 500).view(np.uint64)) for _ in range(200)]
    assert all(one.noise for one in found) and max(one.largest for one in found) < FOUND
    for values in zip(*((one.bytes, one.bits, one.neighbours) for one in found), strict=True):
        assert 0.8 < np.std(values) < 1.2 and abs(np.mean(values)) < 0.3
