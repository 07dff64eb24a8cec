"""An output without end is kept as its beginning and its end, printable whatever it was."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.handlers.command.excerpt import HALF_BYTES, Excerpt

WHOLE = 2 * HALF_BYTES


def text_of(*pieces: bytes) -> str:
    excerpt = Excerpt()
    for piece in pieces:
        excerpt.feed(piece)
    return excerpt.text()


@given(st.lists(st.integers(0, 3000), max_size=12))
def test_however_it_is_cut_into_pieces_the_same_is_kept(sizes: list[int]) -> None:
    output = bytes(33 + number % 90 for number in range(sum(sizes)))
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    pieces = [output[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    assert text_of(*pieces) == text_of(output)


def test_what_fits_is_kept_whole() -> None:
    output = b"x" * WHOLE
    assert text_of(output) == output.decode()
    assert text_of() == ""


def test_of_more_the_beginning_the_end_and_the_length_between_are_kept() -> None:
    head, tail = b"h" * HALF_BYTES, b"t" * HALF_BYTES
    text = text_of(head, b"m" * 1_000_000, tail)
    assert text == f"{head.decode()}\n[… 1000000 bytes left out …]\n{tail.decode()}"


@given(st.binary(max_size=6000))
def test_nothing_in_it_is_obeyed_by_a_terminal(output: bytes) -> None:
    text = text_of(output)
    assert [c for c in text.replace("\n", "") if unicodedata.category(c) == "Cc"] == []
    text.encode()  # and it can be stored


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (b"one\r\ntwo\n", "one\ntwo"),
        (b"\tat x\n\n", "    at x"),
        (b"\x1b[31mred\x07", "\\u001b[31mred\\u0007"),
        ("grün".encode("latin-1"), "gr\ufffdn"),
    ],
)
def test_lines_stay_lines(output: bytes, text: str) -> None:
    assert text_of(output) == text
