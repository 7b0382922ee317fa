"""Philox against its authors' known answers, and by loops over Python's integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.ops import philox
from ledmerge.ops.philox import Stream

FULL = 0xFFFFFFFF

KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 4, (FULL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
"""(counter, key, words) as Random123 publishes them for philox4x32-10 (kat_vectors)."""

words = st.integers(0, FULL)
streams = st.builds(Stream, words, words, words, words)
starts = st.one_of(st.integers(0, 5_000), st.integers(0, 2**60), st.integers(2**34 - 9, 2**34 + 9))


def by_hand(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """The four words: two pairs (R, L), each multiplied and mixed into the other."""
    r0, l0, r1, l1 = counter
    for turn in range(10):
        high0, low0 = divmod(0xD2511F53 * r0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * r1, 2**32)
        key0 = (key[0] + turn * 0x9E3779B9) % 2**32
        key1 = (key[1] + turn * 0xBB67AE85) % 2**32
        r0, l0, r1, l1 = high1 ^ l0 ^ key0, low1, high0 ^ l1 ^ key1, low0
    return r0, l0, r1, l1


def number_by_hand(stream: Stream, place: int) -> float:
    count, word = divmod(place, 4)
    counter = (count % 2**32, count // 2**32, stream.upper0, stream.upper1)
    return (by_hand(counter, (stream.key0, stream.key1))[word] >> 8) / 2**24


def filled(stream: Stream, start: int, size: int) -> list[float]:
    out = np.full(size, np.nan, dtype=np.float32)
    philox.fill(stream, start, out)
    return out.tolist()


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_the_loops_over_integers_give_the_published_words(counter, key, expected):
    assert by_hand(counter, key) == expected


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_the_compiled_loop_gives_the_published_words(counter, key, expected):
    planes = np.empty((4, 1), dtype=np.float32)
    place = np.uint64(counter[0] | counter[1] << 32)
    philox.draw(*map(np.uint32, Stream(*key, *counter[2:])), place, planes)
    assert (planes[:, 0] * 2**24).astype(int).tolist() == [word >> 8 for word in expected]


@given(streams, starts, st.integers(0, 30))
def test_the_compiled_loop_gives_the_words_of_each_place(stream, start, size):
    expected = [number_by_hand(stream, place) for place in range(start, start + size)]
    assert filled(stream, start, size) == expected


@pytest.mark.parametrize("start", [0, 1, 4 * 512 - 1, 4 * 512 + 2, 2**34 - 5])
@pytest.mark.parametrize("size", [4 * 512, 4 * 512 + 1, 9_001])
def test_the_loop_goes_on_from_chunk_to_chunk(start, size):
    for stream in (Stream(1, 2, 3, 4), Stream(7, FULL, 0, FULL)):
        found = filled(stream, start, size)
        for place in (0, 1, 4 * 512 - 1, size // 2, size - 1):
            assert found[place] == number_by_hand(stream, start + place)


def test_no_number_is_written_beyond_the_end():
    out = np.full(9_010, np.nan, dtype=np.float32)
    philox.fill(Stream(1, 2, 3, 4), 3, out[5:9_005])
    assert np.isnan(out).nonzero()[0].tolist() == [*range(5), *range(9_005, 9_010)]
