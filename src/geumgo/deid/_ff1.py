"""FF1, format-preserving encryption (NIST SP 800-38G revision 1, algorithms 7 and 8).

Numerals come as the two halves A and B, already numbers: converting between text and numbers is the
caller's. Two bounds keep every round to a single AES block after the shape's own: NUM(B) takes at
most 12 bytes, so that S is one block, and the tweak stands before the last block's round counter.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

__all__ = ("MAX_HALF_BITS", "ROUNDS", "Ff1")

ROUNDS = 10

MAX_HALF_BITS = 96
"""Bits of one half: beyond it NUM(B) and S would need a second block."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """What depends on the length of the numeral string and of the tweak only."""

    u: int
    v: int
    b: int
    d: int
    modulus_u: int
    modulus_v: int
    first: int  # AES(P), step 6.i's first block, as a number


class Ff1:
    """FF1 under one key and radix. Safe to share between threads."""

    def __init__(self, key: bytes, radix: int) -> None:
        self._algorithm = algorithms.AES(key)
        self._radix = radix
        self._shapes: dict[tuple[int, int], _Shape] = {}
        self._local = threading.local()

    def halves(self, length: int) -> tuple[int, int]:
        """Return the lengths of A and B for a numeral string of `length` (step 1)."""
        return length // 2, length - length // 2

    def encrypt(self, length: int, tweak: bytes, a: int, b: int) -> tuple[int, int]:
        """Return the halves of the encrypted numeral string (algorithm 7)."""
        shape, bases = self._prepare(length, tweak)
        update = self._encryptor().update
        d = shape.d
        even, odd = shape.modulus_u, shape.modulus_v
        for base in bases:
            s = int.from_bytes(update((base ^ b).to_bytes(16, "big"))[:d], "big")
            a, b = b, (a + s) % even
            even, odd = odd, even
        return a, b

    def decrypt(self, length: int, tweak: bytes, a: int, b: int) -> tuple[int, int]:
        """Return the halves of the original numeral string (algorithm 8)."""
        shape, bases = self._prepare(length, tweak)
        update = self._encryptor().update
        d = shape.d
        even, odd = shape.modulus_v, shape.modulus_u
        for base in reversed(bases):
            s = int.from_bytes(update((base ^ a).to_bytes(16, "big"))[:d], "big")
            a, b = (b - s) % even, a
            even, odd = odd, even
        return a, b

    def encrypt_many(
        self, length: int, tweaks: Sequence[bytes], a: Sequence[int], b: Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """Return what `encrypt` returns for each tweak and pair; one AES call a round for all of them.

        That is so for tweaks of one length of at most 8 bytes and halves of at most 4 bytes, such as
        numbers of up to 19 digits; any other are encrypted one by one.
        """
        shape = self._shape_of(length, len(tweaks[0])) if tweaks else None
        if shape is None or shape.d != 8 or len(tweaks[0]) > 8 or len(set(map(len, tweaks))) != 1:
            pairs = [self.encrypt(length, *item) for item in zip(tweaks, a, b, strict=True)]
            return [left for left, _ in pairs], [right for _, right in pairs]
        # The block is T ‖ 0… ‖ [i] ‖ NUM(B): the tweak is in its high half, counter and NUM(B) in its low one.
        count = len(tweaks)
        code = struct.Struct(f">{2 * count}Q")
        update = self._encryptor().update
        high, low = divmod(shape.first, 1 << 64)
        words = [0] * (2 * count)
        words[0::2] = [high ^ int.from_bytes(tweak.ljust(8, b"\0"), "big") for tweak in tweaks]
        left, right = list(a), list(b)
        modulus, other = shape.modulus_u, shape.modulus_v
        for i in range(ROUNDS):
            base = low ^ (i << 8 * shape.b)
            words[1::2] = [base ^ n for n in right]
            s = code.unpack(update(code.pack(*words)))[0::2]
            left, right = right, [(n + y) % modulus for n, y in zip(left, s, strict=True)]
            modulus, other = other, modulus
        return left, right

    def _prepare(self, length: int, tweak: bytes) -> tuple[_Shape, list[int]]:
        shape = self._shape_of(length, len(tweak))
        # Step 6.i: Q = T ‖ 0^((−t−b−1) mod 16) ‖ [i]^1 ‖ [NUM(B)]^b. All but the counter and NUM(B) is fixed here.
        body = tweak + bytes(-(len(tweak) + shape.b + 1) % 16)
        state = shape.first
        whole = (len(body) + 1 + shape.b) // 16 - 1
        for index in range(whole):
            block = int.from_bytes(body[16 * index : 16 * index + 16], "big")
            state = self._aes(state ^ block)
        rest = body[16 * whole :]
        base = state ^ (int.from_bytes(rest, "big") << 8 * (16 - len(rest)))
        return shape, [base ^ (i << 8 * shape.b) for i in range(ROUNDS)]

    def _shape_of(self, length: int, t: int) -> _Shape:
        shape = self._shapes.get((length, t))
        if shape is None:
            shape = self._shapes[length, t] = self._shape(length, t)
        return shape

    def _shape(self, length: int, t: int) -> _Shape:
        u, v = self.halves(length)  # step 1
        bits = (self._radix**v - 1).bit_length()
        if u < 1 or bits > MAX_HALF_BITS:
            raise ValueError("length out of range")
        b = ceil(bits / 8)  # step 3
        d = 4 * ceil(b / 4) + 4  # step 4
        p = (
            b"\x01\x02\x01"  # step 5
            + self._radix.to_bytes(3, "big")
            + bytes((ROUNDS, u % 256))
            + length.to_bytes(4, "big")
            + t.to_bytes(4, "big")
        )
        first = self._aes(int.from_bytes(p, "big"))
        return _Shape(u, v, b, d, self._radix**u, self._radix**v, first)

    def _aes(self, block: int) -> int:
        return int.from_bytes(self._encryptor().update(block.to_bytes(16, "big")), "big")

    def _encryptor(self) -> Any:
        # ECB of single blocks is the bare AES permutation CIPH that FF1 is built on; a context is
        # reused because making one costs as much as twenty blocks, and isn't safe to share.
        try:
            return self._local.encryptor
        except AttributeError:
            self._local.encryptor = Cipher(self._algorithm, modes.ECB()).encryptor()
            return self._local.encryptor
