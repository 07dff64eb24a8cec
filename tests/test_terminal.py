"""What is shown on a terminal cannot command it, nor deceive whoever reads it."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rc_push.terminal import printable, unobeyed, unobeyed_json

# What a terminal obeys: both sets of controls, and what turns the direction of text; and what begins another line.
OBEYED = [*map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))]
UNSEEN = [*OBEYED, "\xad", "\u061c", "\u200b", "\u200f", "\u2060", "\ufeff", "\U000e0041"]


@pytest.mark.parametrize("shown", [printable, unobeyed])
@pytest.mark.parametrize("character", OBEYED)
def test_what_a_terminal_obeys_is_shown_as_a_code(shown, character):
    assert shown(f"a{character}[2Jb") == f"a\\u{ord(character):04x}[2Jb"


@pytest.mark.parametrize("character", UNSEEN)
def test_what_nobody_sees_is_shown_as_a_code_too(character):
    assert printable(f"a{character}b") == f"a\\u{ord(character):04x}b"


@pytest.mark.parametrize("character", [character for character in UNSEEN if character >= "\x7f"])
def test_in_json_it_is_a_code_that_means_the_same(character):
    text = json.dumps({"text": f"a{character}b"}, ensure_ascii=False)
    assert character not in unobeyed_json(text)
    assert json.loads(unobeyed_json(text)) == json.loads(text)


def test_words_of_all_scripts_stay_as_they_are():
    text = "Grüße, שלום, مرحبا, नमस्ते, 你好 👍"
    assert printable(text) == unobeyed(text) == unobeyed_json(text) == text


def test_a_log_keeps_emojis_that_are_joined():
    assert unobeyed("👩\u200d🚀") == "👩\u200d🚀"


@given(st.text())
def test_any_text_is_shown_on_one_line_without_controls(text):
    for shown in (printable(text), unobeyed(text)):
        assert len(shown.splitlines()) <= 1
        assert not any(unicodedata.category(character) == "Cc" for character in shown)


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_json_means_the_same(value):
    text = json.dumps(value, ensure_ascii=False)
    assert json.loads(unobeyed_json(text)) == value
