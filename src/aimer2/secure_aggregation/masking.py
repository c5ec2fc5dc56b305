"""Masks on a site's sums, and the sum of all sites without them.

Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning": a site adds one mask of its own and, for each
other site, one that the other subtracts. A mask is the AES-256-CTR key stream of a 32-byte seed from counter 0, read as little-endian words
in the layout's canonical order, so any part of it can be computed by itself: memory is a few blocks whatever the size of the model.

With each upload travels the sum "secure": how many values were clipped, how large each measured leaf's values were, and a checksum
Σ s_b·ρ_j·word_bj mod 2^128 over the words of every block b before masking, with public, odd coefficients from the round's context. It is
linear, so it holds for the sum or the masks did not cancel, and it wraps as its own words do, so that the sum of checksums tells nothing that
the sum of the words does not. One wrong word is always found, several in one block but for a chance of 2^-15; it guards against mistakes, not
against who knows the coefficients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from aimer2.core import tree
from aimer2.core.errors import BadUpdate, Conflict
from aimer2.core.said import say
from aimer2.core.tree import NumpyArray, Tree
from aimer2.secure_aggregation.layout import BLOCK, SECURE, Layout, Place
from aimer2.secure_aggregation.messages import PROTOCOL
from aimer2.secure_aggregation.quantisation import add, decode, encode, largest_real, subtract

_WRAP = (1 << 128) - 1
_AES = 16
_ZEROS = memoryview(bytes(BLOCK * 16))


@final
@dataclass(frozen=True, slots=True)
class Unmasked:
    """The sum of the uploads; ``saturated``: values clipped at all sites; ``largest``: per measured leaf the sum of the sites' largest
    magnitudes, which bounds the sum's."""

    sums: dict[str, dict[str, NumpyArray]]
    saturated: int
    largest: dict[str, dict[str, float]]


def mask(sums: Mapping[str, Tree], layout: Layout, context: bytes, own: bytes, plus: Sequence[bytes], minus: Sequence[bytes]) -> dict[str, Tree]:
    """The sums as they may leave the site: uint32 and uint64 words that look random, computed slice by slice as they are written.

    ``own``, ``plus`` and ``minus`` are seeds of 32 bytes, used in this round and never again. The last tree, "secure", can be read once
    all the others were read to their end, each in order.

    Leaves the site: words plus masks; of the site's values nothing that does not take every one of the masks to read.

    Raises BadUpdate where the sums are not those of the layout, at once or, for their values, when they are read; Conflict for a seed that
    is there twice.
    """
    seeds = [own, *plus, *minus]
    if len(set(seeds)) < len(seeds):
        raise Conflict("The same mask would be used twice.")
    _check_alike(sums, {(leaf.sum, leaf.name): (leaf.shape, leaf.dtype) for leaf in layout.leaves})
    upload = _Upload(layout, _Masks([own, *plus], minus), _Checksum(context))
    masked: dict[str, dict[str, _MaskedLeaf]] = {name: {} for name in (*sums, SECURE)}
    for number, place in enumerate(layout.places):
        leaf = place.leaf
        masked[leaf.sum][leaf.name] = _MaskedLeaf(upload, number, None if leaf.sum == SECURE else sums[leaf.sum][leaf.name])
    return dict(masked)


def unmask(
    uploads: Sequence[Mapping[str, Tree]], layout: Layout, context: bytes, own: Sequence[bytes], plus: Sequence[bytes], minus: Sequence[bytes]
) -> Unmasked:
    """The sum of the uploads without their masks.

    ``own``: the seed of each upload's own mask. ``plus``, ``minus``: seeds that an upload added or subtracted and whose other site sent no
    upload. Reads the uploads once, block by block; holds the sum and a few blocks.

    Raises BadUpdate where an upload is not of the layout, and where the checksum does not hold.
    """
    if not 1 <= len(uploads) <= layout.sites:
        raise BadUpdate(say("{count} uploads cannot be added in a layout for {sites} sites.", count=len(uploads), sites=layout.sites))
    expected = {(place.leaf.sum, place.leaf.name): (place.leaf.masked_shape, place.leaf.word.name) for place in layout.places}
    for upload in uploads:
        _check_alike(upload, expected)
    masks, checksum = _Masks(minus, [*own, *plus]), _Checksum(context)
    sums: dict[str, dict[str, NumpyArray]] = {name: {} for name in uploads[0]}
    told = 0
    for place in layout.places:
        leaf = place.leaf
        if leaf == layout.checksum:
            told = sum(int.from_bytes(words.tobytes(), "little") for _, _, words in _unmasked_blocks(uploads, place, masks))
            continue
        total = np.empty(leaf.size, leaf.dtype)
        for start, stop, words in _unmasked_blocks(uploads, place, masks):
            checksum.take(words, place, start)
            total[start:stop] = decode(words, leaf, layout.sites)
        sums[leaf.sum][leaf.name] = total.reshape(leaf.shape)
    if told & _WRAP != checksum.value:
        raise BadUpdate("The masks of the uploads do not cancel.", remedy="The round is repeated with new masks; nothing was learned.")
    secure = sums.pop(SECURE)
    return Unmasked(sums, int(secure["saturated"][0]), _by_leaf(layout, secure["largest"]))


def _unmasked_blocks(uploads: Sequence[Mapping[str, Tree]], place: Place, masks: _Masks) -> Iterator[tuple[int, int, NumpyArray]]:
    leaf = place.leaf
    arrays = [upload[leaf.sum][leaf.name] for upload in uploads]
    for start in range(0, leaf.size, BLOCK):
        stop = min(start + BLOCK, leaf.size)
        first, last = start * leaf.limbs, stop * leaf.limbs
        words = np.array(tree.read(arrays[0], first, last), leaf.word)
        for array in arrays[1:]:
            add(words, tree.read(array, first, last), leaf.limbs)
        masks.apply(words, place, start)
        yield start, stop, words


def _by_leaf(layout: Layout, largest: NumpyArray) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for leaf, value in zip((leaf for leaf in layout.leaves if leaf.measured), largest, strict=True):
        found.setdefault(leaf.sum, {})[leaf.name] = float(value)
    return found


def _check_alike(sums: Mapping[str, Tree], expected: Mapping[tuple[str, str], tuple[tuple[int, ...], str]]) -> None:
    found = {(name, leaf): (tuple(array.shape), array.dtype.name) for name, leaves in sums.items() for leaf, array in leaves.items()}
    if found != expected:
        odd = sorted({key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)})[:3]
        raise BadUpdate(say("The sums are not those of the layout: {key}.", key=", ".join("/".join(key) for key in odd)))


@final
class _Stream:
    """One mask's key stream: quick where it is read in order, at any place otherwise."""

    __slots__ = ("_context", "_position")

    def __init__(self, seed: bytes) -> None:
        self._context = Cipher(AES256(seed), CTR(bytes(_AES))).encryptor()
        self._position = 0

    def fill(self, buffer: bytearray, offset: int, zeros: memoryview) -> None:
        """As many bytes as ``zeros`` has. The buffer is longer by one cipher block, as the library wants it."""
        if offset != self._position:
            block, within = divmod(offset, _AES)
            self._context.reset_nonce(block.to_bytes(_AES, "big"))
            self._context.update(_ZEROS[:within])
        self._context.update_into(zeros, buffer)
        self._position = offset + len(zeros)


@final
class _Masks:
    """All masks of one upload or of one sum; block by block, so that words and mask stay in the cache."""

    def __init__(self, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
        self._plus = [_Stream(seed) for seed in plus]
        self._minus = [_Stream(seed) for seed in minus]
        self._buffer = bytearray(len(_ZEROS) + _AES)

    def apply(self, words: NumpyArray, place: Place, start: int) -> None:
        """Adds and subtracts them in place; ``start`` counts the leaf's coordinates."""
        offset, limbs, zeros = place.offset + start * place.leaf.bits // 8, place.leaf.limbs, _ZEROS[: words.nbytes]
        key = np.frombuffer(self._buffer, words.dtype, len(words))
        for streams, function in ((self._plus, add), (self._minus, subtract)):
            for stream in streams:
                stream.fill(self._buffer, offset, zeros)
                function(words, key, limbs)


@final
class _Checksum:
    """Of words, in whatever order their blocks come."""

    def __init__(self, context: bytes) -> None:
        self._key = hashlib.sha256(PROTOCOL.encode() + b" checksum" + context).digest()
        drawn = bytearray(2 * BLOCK + _AES)
        _Stream(self._key).fill(drawn, 0, _ZEROS[: 2 * BLOCK])
        # odd: none is 0. 16 bits times 32-bit limbs times the length of a block stays below 2^63
        self._within = (np.frombuffer(drawn, "<u2", BLOCK) | 1).astype(np.int64)
        self._limb = np.empty(BLOCK, np.int64)
        self.value = 0

    def take(self, words: NumpyArray, place: Place, start: int) -> None:
        """Words of the leaf from coordinate ``start`` on, within one block."""
        number, within = divmod(start, BLOCK)
        columns = words.view("<u4").reshape(-1, place.leaf.bits // 32)
        limb = self._limb[: len(columns)]
        weights = self._within[within : within + len(columns)]
        weighed = 0
        for column in range(columns.shape[1]):
            highest = column == columns.shape[1] - 1
            np.copyto(limb, columns[:, column].view("<i4") if highest else columns[:, column])
            weighed += int(np.dot(limb, weights)) << 32 * column
        block = hashlib.sha256(self._key + (place.block + number).to_bytes(8, "little")).digest()
        self.value = (self.value + weighed * (int.from_bytes(block[:16], "little") | 1)) & _WRAP


@final
class _Upload:
    """What the leaves of one masked upload share, and what they have told so far."""

    def __init__(self, layout: Layout, masks: _Masks, checksum: _Checksum) -> None:
        self.layout = layout
        self.masks = masks
        self._checksum = checksum
        self._read = [0] * len(layout.leaves)
        self._saturated = 0
        self._largest = [0.0] * len(layout.leaves)
        self._own: dict[str, NumpyArray] = {}

    def words(self, number: int, source: Any, start: int, stop: int) -> NumpyArray:
        """Unmasked words of a leaf within one block; what is read for the first time, in order, is counted."""
        place = self.layout.places[number]
        encoded = encode(tree.read(source, start, stop), place.leaf, self.layout.sites)
        if start == self._read[number]:
            self._read[number] = stop
            self._saturated += encoded.saturated
            self._largest[number] = max(self._largest[number], encoded.largest)
            self._checksum.take(encoded.words, place, start)
        return encoded.words

    def next(self, number: int, start: int, stop: int) -> int:
        """Where a part ends that is either new or was read before."""
        return self._read[number] if start < self._read[number] < stop else stop

    def own(self, name: str, start: int, stop: int) -> NumpyArray:
        """Unmasked words of the sum "secure". Fixed by the first call, as the checksum counts its other leaves too."""
        if not self._own:
            self._own = self._close()
        return self._own[name][start:stop]

    def _close(self) -> dict[str, NumpyArray]:
        layout = self.layout
        if self._read != [leaf.size for leaf in layout.leaves]:
            raise AssertionError("the sum 'secure' was read before all others were")
        pairs = zip(self._largest, layout.leaves, strict=True)
        told = [min(largest, largest_real(layout.sites)) for largest, leaf in pairs if leaf.measured]
        values = {"largest": np.array(told, np.float64), "saturated": np.array([self._saturated], np.int64)}
        own: dict[str, NumpyArray] = {}
        for place in layout.places[-2:]:
            leaf = place.leaf
            own[leaf.name] = encode(values[leaf.name], leaf, layout.sites).words
            for start in range(0, leaf.size, BLOCK):
                self._checksum.take(own[leaf.name][start * leaf.limbs : (start + BLOCK) * leaf.limbs], place, start)
        return own | {"checksum": np.frombuffer(self._checksum.value.to_bytes(16, "little"), "<u8")}


@final
class _MaskedLeaf:
    """One leaf of the masked upload, computed as it is read; without a source one of the sum "secure"."""

    __slots__ = ("_number", "_place", "_source", "_upload", "dtype", "shape")

    def __init__(self, upload: _Upload, number: int, source: Any) -> None:
        self._upload = upload
        self._number = number
        self._place = upload.layout.places[number]
        # once: a slice of an array that is not in C order copies all of it
        self._source = np.ascontiguousarray(source) if isinstance(source, np.ndarray) else source
        self.shape = self._place.leaf.masked_shape
        self.dtype = self._place.leaf.word

    def read(self, start: int, stop: int) -> NumpyArray:
        limbs = self._place.leaf.limbs
        first, last = start // limbs, -(-stop // limbs)
        out = np.empty((last - first) * limbs, self.dtype)
        position = first
        while position < last:
            end = min(last, position - position % BLOCK + BLOCK)
            if self._source is not None:
                end = self._upload.next(self._number, position, end)
            part = out[(position - first) * limbs : (end - first) * limbs]
            part[:] = self._words(position, end)
            self._upload.masks.apply(part, self._place, position)
            position = end
        return out[start - first * limbs : stop - first * limbs]

    def _words(self, start: int, stop: int) -> NumpyArray:
        if self._source is not None:
            return self._upload.words(self._number, self._source, start, stop)
        leaf = self._place.leaf
        return self._upload.own(leaf.name, start * leaf.limbs, stop * leaf.limbs)
