"""Figures of secure aggregation and privacy that have a limit: of the masks, of 200 sites, of the noise, of the ledger. One core, processor time.

The case names the limit; floor: what a ratio is over, measured in the same run. Rounds of large models are in `secure_large`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from aimer2.core.errors import BadUpdate
from aimer2.core.random import SecureBytes
from aimer2.identity.keys import SigningKey
from aimer2.privacy.accounting import Accountant, Spent, gaussian, laplace, subsampled_gaussian
from aimer2.privacy.site_level import grid
from aimer2.privacy.skellam import skellam
from aimer2.secure_aggregation.coordinator import Epoch
from aimer2.secure_aggregation.layout import BLOCK, Layout
from aimer2.secure_aggregation.masking import mask, unmask
from aimer2.secure_aggregation.messages import EpochTerms, RoundTerms
from aimer2.secure_aggregation.roster import Roster, trusted
from aimer2.secure_aggregation.site import Member
from aimer2.secure_aggregation.vault import MemoryVault
from benchmarks.rows import Row

NAME = "secure_figures"
LARGE, MANY, SITES = 25_000_000, 200, 10


def run() -> Iterator[Row]:
    yield from masks()
    yield from many_sites()
    source, noise = SecureBytes(), grid(SITES, trusted(SITES), 4.0, LARGE)
    yield Row(NAME, "Skellam noise for 25 M numbers; at most 3 s", best(lambda: noise_of(source, noise.variance), 2), "s")
    yield from ledger()


def masks() -> Iterator[Row]:
    """One site of ten with 100 MB: the key stream alone, then clipping, rounding, ten masks and the checksum."""
    values = np.random.default_rng(1).normal(size=LARGE).astype(np.float32)
    copied = np.empty_like(values)
    copying = best(lambda: np.copyto(copied, values))
    cipher = best(lambda: key_stream(values.nbytes))
    yield Row(NAME, "memory copied ÷ AES-256-CTR; at least 0.35", copying / cipher, "×")
    update = {"difference": {"w": values}}
    layout = Layout.of(update, {"difference": {"w": 40.0}}, SITES)
    seeds = [os.urandom(32) for _ in range(SITES)]

    def masked() -> None:
        leaf: Any = mask(update, layout, bytes(32), seeds[0], seeds[1:5], seeds[5:])["difference"]["w"]
        for start in range(0, LARGE, 8 * BLOCK):  # as it is read to be stored
            leaf.read(start, min(start + 8 * BLOCK, LARGE))

    seconds = best(masked)
    yield Row(NAME, "masks of a site, 10 sites × 100 MB, over AES; at most 2×", seconds, "s", SITES * cipher)
    yield Row(NAME, "the same, at most 0.5 s", seconds, "s")


def key_stream(size: int) -> None:
    encryptor = Cipher(AES256(bytes(32)), CTR(bytes(16))).encryptor()
    zeros, buffer = bytes(4 * BLOCK), bytearray(4 * BLOCK + 16)
    for start in range(0, size, len(zeros)):
        encryptor.update_into(zeros[: size - start], buffer)


def many_sites() -> Iterator[Row]:
    """A whole round of 200 sites with 4 MB, all of them there; a site's time is that of the first."""
    update = {"difference": {"w": np.random.default_rng(2).normal(size=1_000_000).astype(np.float32)}}
    layout = Layout.of(update, {"difference": {"w": 400.0}}, MANY)
    keys = {f"site-{number:03}": SigningKey.generate() for number in range(MANY)}
    roster = Roster("0" * 64, {site: key.public for site, key in keys.items()})
    members = {site: Member(roster, site, key, MemoryVault()) for site, key in keys.items()}
    terms, first = EpochTerms(stage="train", attempt=1, first_round=1, rounds=1), members["site-000"]
    round_terms = RoundTerms(round_number=1, inputs={}, layout=layout.digest())
    epoch, site, coordinator, uploads = Epoch(roster, terms), Watch(), Watch(), {"difference": "0" * 64}

    def all_say(say: Callable[[Member, str], str], heard: dict[str, str]) -> dict[str, str]:
        """What each answers to what it hears; the first one is timed."""
        with site:
            said = {first.site: say(first, heard[first.site])}
        return said | {name: say(members[name], text) for name, text in heard.items() if name != first.site}

    def taken_in(member: Member, text: str) -> str:
        member.accept(terms, text)
        return member.submit(terms, round_terms, uploads)

    advertised = all_say(lambda member, _: member.advertise(terms), dict.fromkeys(members, ""))
    with coordinator:
        heard = epoch.collect_keys(advertised)
    dealt = all_say(lambda member, text: member.share(terms, text), heard)
    sent = len(dealt[first.site])
    with coordinator:
        heard = epoch.collect_shares(dealt)
    handed_in = all_say(taken_in, heard)
    with coordinator:
        current = epoch.start(round_terms)
        heard = current.collect_updates(handed_in, dict.fromkeys(members, uploads))
    agreed = all_say(lambda member, text: member.agree(terms, round_terms, text), heard)
    with coordinator:
        heard = current.collect_agreements(agreed)
    revealed = all_say(lambda member, text: member.reveal(terms, round_terms, text), heard)
    with coordinator:
        opened = current.collect_reveals(revealed)
    talking = site.seconds, coordinator.seconds
    seeds = [os.urandom(32) for _ in range(MANY)]
    with site:
        upload = read(mask(update, layout, bytes(32), seeds[0], seeds[1 : MANY // 2], seeds[MANY // 2 :]))
    yield Row(NAME, "200 sites × 4 MB, a site; at most 0.8 s", site.seconds, "s")
    yield Row(NAME, "of that its keys, shares and signatures", talking[0], "s")
    # The first one's words in the place of everybody's: the same work, and a checksum that cannot hold.
    with coordinator, contextlib.suppress(BadUpdate):
        unmask([upload] * MANY, layout, bytes(32), opened.own, (), ())
    yield Row(NAME, "200 sites × 4 MB, the coordinator; at most 1 s", coordinator.seconds, "s")
    yield Row(NAME, "of that their keys, shares and signatures", talking[1], "s")
    yield Row(NAME, "200 sites, what one deals for a round; at most 64 KB", sent / 1e3, "KB")


def read(trees: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The whole upload, leaf by leaf."""
    return {
        name: {leaf: array.read(0, int(np.prod(array.shape))).reshape(array.shape) for leaf, array in tree.items()} for name, tree in trees.items()
    }


def noise_of(source: SecureBytes, variance: float) -> None:
    """In the blocks in which a site draws it."""
    for start in range(0, LARGE, BLOCK):
        skellam(source, variance, min(BLOCK, LARGE - start))


def ledger() -> Iterator[Row]:
    """A hundred releases that all differ; then whether one more fits."""
    spent: list[Spent] = [subsampled_gaussian(0.005 + 0.0005 * number, 2.0 + 0.01 * number, 100) for number in range(60)]
    spent += [gaussian(40 + number) for number in range(30)] + [laplace(200 + number) for number in range(10)]
    began = time.process_time()
    accountant = Accountant(spent)
    told = accountant.epsilon(1e-5)
    yield Row(NAME, "a ledger with 100 different releases, all composed; at most 5 s", time.process_time() - began, "s")
    yield Row(NAME, "another decision; at most 0.5 s", best(lambda: further(accountant), 1), "s")
    yield Row(NAME, "ε of the hundred", told, "")


def further(accountant: Accountant) -> None:
    accountant.epsilon(1e-5, [subsampled_gaussian(0.031, 3.0, 200)])


class Watch:
    """Processor seconds of the blocks in it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._began


def best(work: Callable[[], None], times: int = 5) -> float:
    """Processor seconds of the quickest: the one that was disturbed least."""
    return min(_timed(work) for _ in range(times))


def _timed(work: Callable[[], None]) -> float:
    watch = Watch()
    with watch:
        work()
    return watch.seconds
