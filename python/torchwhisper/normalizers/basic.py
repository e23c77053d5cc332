"""Normalization for every language: case, brackets, symbols, diacritics, white space.

Source: openai-whisper's `whisper/normalizers/basic.py`.
"""

import re
import unicodedata

import regex  # type: ignore[import-untyped,unused-ignore]

# Letters that Unicode's compatibility decomposition leaves whole.
ADDITIONAL_DIACRITICS = {
    "œ": "oe",
    "Œ": "OE",
    "ø": "o",
    "Ø": "O",
    "æ": "ae",
    "Æ": "AE",
    "ß": "ss",
    "ẞ": "SS",
    "đ": "d",
    "Đ": "D",
    "ð": "d",
    "Ð": "D",
    "þ": "th",
    "Þ": "th",
    "ł": "l",
    "Ł": "L",
}


def _spaced(char: str) -> str:
    """A space for a mark, symbol or punctuation, else the character."""
    return " " if unicodedata.category(char)[0] in "MSP" else char


def _plain(char: str) -> str:
    if char in ADDITIONAL_DIACRITICS:
        return ADDITIONAL_DIACRITICS[char]
    return "" if unicodedata.category(char) == "Mn" else _spaced(char)


def remove_symbols_and_diacritics(s: str, keep: str = "") -> str:
    """Drops diacritics and puts a space for every mark, symbol and punctuation that is not in `keep`."""
    return "".join(c if c in keep else _plain(c) for c in unicodedata.normalize("NFKD", s))


def remove_symbols(s: str) -> str:
    """Puts a space for every mark, symbol and punctuation; diacritics of composed letters stay."""
    return "".join(map(_spaced, unicodedata.normalize("NFKC", s)))


def remove_annotations(s: str) -> str:
    """Drops what stands in <>, [] or (): speaker names, noises."""
    s = re.sub(r"[<\[][^>\]]*[>\]]", "", s)
    return re.sub(r"\(([^)]+?)\)", "", s)


class BasicTextNormalizer:
    """Lower case, no annotations, no symbols, single spaces.

    remove_diacritics: "é" becomes "e".
    split_letters: put spaces between all characters (grapheme clusters), for languages without spaces.
    """

    def __init__(self, remove_diacritics: bool = False, split_letters: bool = False) -> None:
        self.clean = remove_symbols_and_diacritics if remove_diacritics else remove_symbols
        self.split_letters = split_letters

    def __call__(self, s: str) -> str:
        s = self.clean(remove_annotations(s.lower())).lower()
        if self.split_letters:
            s = " ".join(regex.findall(r"\X", s))
        return re.sub(r"\s+", " ", s)
