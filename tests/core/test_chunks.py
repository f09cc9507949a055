import random

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core import chunks
from boucle.core.errors import Corrupt

SOURCE = random.Random(7).randbytes(14 << 20)
FLAT = bytes(6 << 20)


def scratch(data: bytes) -> list[chunks.Chunk]:
    found, at = [], 0
    for length in chunks.cuts(memoryview(data), ends=True):
        found.append((blake3(data[at : at + length]).hexdigest(), length))
        at += length
    return found


def in_stretches(data: bytes, stretch: int) -> list[int]:
    lengths, at = [], 0
    while at < len(data):
        part = memoryview(data)[at : at + stretch]
        for length in chunks.cuts(part, ends=at + len(part) == len(data)):
            lengths.append(length)
            at += length
    return lengths


def again(data: bytes, before: list[chunks.Chunk]) -> list[chunks.Chunk]:
    """Cutting with the help of the chunks of an earlier content."""
    same, at = [], 0
    for digest, size in before:
        same.append(at + size <= len(data) and blake3(data[at : at + size]).hexdigest() == digest)
        at += size
    kept, found, at = chunks.unmoved(before, same, len(data)), [], 0
    while at < len(data):
        if at in kept:
            found.append(kept[at])
        else:
            length = next(chunks.cuts(memoryview(data)[at:], ends=True))
            found.append((blake3(data[at : at + length]).hexdigest(), length))
        at += found[-1][1]
    return found


def test_chunks_have_the_sizes_that_are_promised() -> None:
    lengths = [size for _, size in scratch(SOURCE + FLAT)]
    assert sum(lengths) == len(SOURCE) + len(FLAT)
    assert all(chunks.SMALLEST <= size <= chunks.LARGEST for size in lengths[:-1])
    assert chunks.LARGEST in lengths  # bytes that do not differ have no cut


@pytest.mark.parametrize("size", [0, 1, 1000, chunks.SMALLEST])
def test_what_is_small_is_one_chunk(size: int) -> None:
    assert [length for _, length in scratch(SOURCE[:size])] == ([size] if size else [])


@settings(max_examples=25)
@given(size=st.integers(1, len(SOURCE)), flat=st.integers(0, len(FLAT)), stretch=st.integers(4 << 20, 9 << 20))
def test_cutting_in_stretches_gives_the_same_cuts(size: int, flat: int, stretch: int) -> None:
    data = SOURCE[:size] + FLAT[:flat] + SOURCE[:size][:100_000]
    assert in_stretches(data, stretch) == [length for _, length in scratch(data)]


edits = st.lists(
    st.tuples(
        st.sampled_from(["change", "insert", "remove", "append", "truncate", "flat"]),
        st.floats(0, 1),
        st.integers(1, 2 << 20),
    ),
    max_size=4,
)


@settings(max_examples=60)
@given(size=st.integers(1, 9 << 20), changes=edits)
def test_the_chunks_of_a_change_are_those_of_cutting_from_scratch(size: int, changes) -> None:
    before = SOURCE[:size]
    after = bytearray(before)
    for what, where, length in changes:
        at = int(where * len(after))
        fresh = SOURCE[-length:]
        match what:
            case "change":
                after[at : at + length] = fresh[: len(after) - at]
            case "insert":
                after[at:at] = fresh
            case "remove":
                del after[at : at + length]
            case "append":
                after += fresh
            case "flat":
                after += FLAT[: 3 * length]
            case _:
                del after[at:]
    assert again(bytes(after), scratch(before)) == scratch(bytes(after))


@pytest.mark.parametrize("cut", [-1, 0, 1])
def test_a_file_cut_at_a_boundary_is_as_from_scratch(cut: int) -> None:
    parts = scratch(SOURCE)
    at = 0
    for _, size in parts[:-1]:
        at += size
        assert again(SOURCE[: at + cut], parts) == scratch(SOURCE[: at + cut])
        assert again(SOURCE, scratch(SOURCE[: at + cut])) == parts


def test_a_list_comes_back() -> None:
    parts = scratch(SOURCE)
    assert chunks.from_list(chunks.to_list(parts)) == parts


LINE = b"boucle chunks 1\n" + b"a" * 64 + b" 5\n"


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"boucle chunks 2\n", LINE[:-1], LINE[:-2] + b"\n", LINE.replace(b" 5", b" -5"), LINE.replace(b" 5", b" 0"),
        LINE.replace(b"a" * 64, b"A" * 64), LINE.replace(b" 5", b" 5 6"), LINE + b"\n", LINE.replace(b" 5", b" " + b"9" * 19),
        b"\x00\xff" * 50,
    ],
)  # fmt: skip
def test_what_is_no_list_is_corrupt(bad: bytes) -> None:
    with pytest.raises(Corrupt):
        chunks.from_list(bad)
