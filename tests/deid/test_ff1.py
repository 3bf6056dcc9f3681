"""FF1 against NIST's samples and against a second implementation that follows the text step by step."""

from __future__ import annotations

import math
import string
import threading

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.deid._ff1 import MAX_HALF_BITS, Ff1

KEY = "2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F7F036D6F04FC6A94"
SYMBOLS = string.digits + string.ascii_lowercase

# NIST "FF1samples.pdf", samples 1 to 9: key bytes, radix, tweak, plaintext, ciphertext.
NIST = [
    pytest.param(16, 10, "", "0123456789", "2433477484", id="sample 1"),
    pytest.param(16, 10, "39383736353433323130", "0123456789", "6124200773", id="sample 2"),
    pytest.param(16, 36, "3737373770717273373737", SYMBOLS[:19], "a9tv40mll9kdu509eum", id="sample 3"),
    pytest.param(24, 10, "", "0123456789", "2830668132", id="sample 4"),
    pytest.param(24, 10, "39383736353433323130", "0123456789", "2496655549", id="sample 5"),
    pytest.param(24, 36, "3737373770717273373737", SYMBOLS[:19], "xbj3kv35jrawxv32ysr", id="sample 6"),
    pytest.param(32, 10, "", "0123456789", "6657667009", id="sample 7"),
    pytest.param(32, 10, "39383736353433323130", "0123456789", "1001623463", id="sample 8"),
    pytest.param(32, 36, "3737373770717273373737", SYMBOLS[:19], "xs8a0azh2avyalyzuwd", id="sample 9"),
]


def to_text(number: int, length: int, radix: int) -> str:
    out = ""
    for _ in range(length):
        number, rest = divmod(number, radix)
        out = SYMBOLS[rest] + out
    return out


@pytest.mark.parametrize(("size", "radix", "tweak", "plaintext", "ciphertext"), NIST)
def test_nist_samples(size, radix, tweak, plaintext, ciphertext):
    ff1 = Ff1(bytes.fromhex(KEY)[:size], radix)
    length, t = len(plaintext), bytes.fromhex(tweak)
    u, v = ff1.halves(length)
    a, b = int(plaintext[:u], radix), int(plaintext[u:], radix)
    x, y = ff1.encrypt(length, t, a, b)
    assert to_text(x, u, radix) + to_text(y, v, radix) == ciphertext
    assert ff1.decrypt(length, t, x, y) == (a, b)
    assert ff1.encrypt_many(length, [t], [a], [b]) == ([x], [y])


def slow_ff1(key: bytes, radix: int, tweak: bytes, numerals: list[int]) -> list[int]:
    """Algorithm 7 of NIST SP 800-38G, the numbers in the comments being its steps."""

    def aes(block: bytes) -> bytes:
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        return encryptor.update(block) + encryptor.finalize()

    def prf(data: bytes) -> bytes:
        y = bytes(16)
        for i in range(0, len(data), 16):
            y = aes(bytes(p ^ q for p, q in zip(y, data[i : i + 16], strict=True)))
        return y

    def num(xs: list[int]) -> int:
        total = 0
        for x in xs:
            total = total * radix + x
        return total

    def string_of(number: int, m: int) -> list[int]:
        out = []
        for _ in range(m):
            number, rest = divmod(number, radix)
            out.insert(0, rest)
        return out

    n, t = len(numerals), len(tweak)
    u, v = n // 2, n - n // 2  # 1
    a, b = numerals[:u], numerals[u:]  # 2
    bits = 0
    while 2**bits < radix**v:
        bits += 1
    size = math.ceil(bits / 8)  # 3
    d = 4 * math.ceil(size / 4) + 4  # 4
    p = bytes([1, 2, 1, 0]) + radix.to_bytes(2, "big") + bytes([10, u % 256]) + n.to_bytes(4, "big")
    p += t.to_bytes(4, "big")  # 5
    for i in range(10):  # 6
        q = tweak + bytes((-t - size - 1) % 16) + bytes([i]) + num(b).to_bytes(size, "big")  # 6.i
        r = prf(p + q)  # 6.ii
        s = r  # 6.iii
        for j in range(1, math.ceil(d / 16)):
            s += aes(bytes(x ^ y for x, y in zip(r, j.to_bytes(16, "big"), strict=True)))
        y = int.from_bytes(s[:d], "big")  # 6.iv
        m = u if i % 2 == 0 else v  # 6.v
        c = (num(a) + y) % radix**m  # 6.vi
        a, b = b, string_of(c, m)  # 6.vii to ix
    return a + b


def shapes():
    def lengths(radix: int) -> st.SearchStrategy[tuple[int, int]]:
        most = next(n for n in range(2, 200) if (radix ** ((n + 2) // 2)).bit_length() > MAX_HALF_BITS)
        return st.tuples(st.just(radix), st.integers(2, most))

    return st.sampled_from([2, 10, 36, 62, 256]).flatmap(lengths)


@settings(max_examples=150, deadline=None)
@given(shape=shapes(), key=st.binary(min_size=32, max_size=32), tweak=st.binary(max_size=40), data=st.data())
def test_agrees_with_the_text_of_the_standard(shape, key, tweak, data):
    radix, length = shape
    numerals = data.draw(st.lists(st.integers(0, radix - 1), min_size=length, max_size=length))
    ff1 = Ff1(key, radix)
    u, _ = ff1.halves(length)

    def num(xs: list[int]) -> int:
        return (
            int.from_bytes(bytes(xs), "big")
            if radix == 256
            else sum(x * radix**i for i, x in enumerate(xs[::-1]))
        )

    a, b = num(numerals[:u]), num(numerals[u:])
    expected = slow_ff1(key, radix, tweak, numerals)
    got = ff1.encrypt(length, tweak, a, b)
    assert got == (num(expected[:u]), num(expected[u:]))
    assert ff1.decrypt(length, tweak, *got) == (a, b)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(2, 40),
    values=st.lists(
        st.tuples(st.binary(min_size=8, max_size=8), st.integers(0), st.integers(0)), max_size=20
    ),
)
def test_many_at_once_is_one_by_one(length, values):
    ff1 = Ff1(bytes(32), 10)
    u, v = ff1.halves(length)
    items = [(t, a % 10**u, b % 10**v) for t, a, b in values]
    one_by_one = [ff1.encrypt(length, *item) for item in items]
    tweaks, a, b = [list(x) for x in zip(*items, strict=True)] if items else [[], [], []]
    assert list(zip(*ff1.encrypt_many(length, tweaks, a, b), strict=True)) == one_by_one


def test_tweaks_of_several_lengths_at_once():
    ff1 = Ff1(bytes(16), 10)
    tweaks = [b"", b"12345678", b"a longer tweak than one block"]
    assert ff1.encrypt_many(8, tweaks, [1, 2, 3], [4, 5, 6]) == tuple(
        map(list, zip(*[ff1.encrypt(8, t, i + 1, i + 4) for i, t in enumerate(tweaks)], strict=True))
    )


def test_a_whole_small_domain_is_permuted():
    ff1 = Ff1(bytes(16), 10)
    images = {ff1.encrypt(3, b"", n // 100, n % 100) for n in range(1000)}
    assert len(images) == 1000


@pytest.mark.parametrize("length", [0, 1, 59, 10_000])
def test_lengths_out_of_range_are_refused(length):
    with pytest.raises(ValueError, match="length"):
        Ff1(bytes(16), 10).encrypt(length, b"", 0, 0)


def test_threads_may_share_one():
    ff1 = Ff1(bytes(32), 10)
    expected = [ff1.encrypt(13, b"t", n, n) for n in range(300)]
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(n for n in range(300) if ff1.encrypt(13, b"t", n, n) != expected[n])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
