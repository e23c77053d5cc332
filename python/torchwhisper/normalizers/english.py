"""Normalization of English: contractions, titles, numbers, British spellings.

Source: openai-whisper's `whisper/normalizers/english.py`, whose tables, attributes and outputs are kept.
"""

import json
import os  # noqa: F401
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import List, Match, Optional, Union  # noqa: F401, UP035

from more_itertools import windowed

from .basic import remove_annotations, remove_symbols_and_diacritics

_ONES = (
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_IRREGULAR_ORDINALS = {
    "zeroth": (0, "th"),
    "first": (1, "st"),
    "second": (2, "nd"),
    "third": (3, "rd"),
    "fifth": (5, "th"),
    "twelfth": (12, "th"),
}
_POWERS_OF_THOUSAND = (
    *("thousand", "million", "billion", "trillion", "quadrillion", "quintillion", "sextillion"),
    *("septillion", "octillion", "nonillion", "decillion"),
)
_ARABIC = re.compile(r"^\d+(\.\d+)?$")


def _is_arabic(word: str | None) -> bool:
    return word is not None and _ARABIC.match(word) is not None


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text)
    except ValueError:
        return None


class EnglishNumberNormalizer:
    """Writes spelled-out numbers in digits.

    "two thousand and five" becomes "2005", "nineteen fifties" "1950s", "twenty first" "21st", "one oh one"
    "101", "$20 million" "$20000000", "two dollars and seventy cents" "$2.70"; "one" and "ones" stay words.
    """

    def __init__(self) -> None:
        self.zeros = {"o", "oh", "zero"}
        self.ones = {name: value for value, name in enumerate(_ONES, start=1)}
        self.ones_plural = {
            "sixes" if name == "six" else name + "s": (value, "s") for name, value in self.ones.items()
        }
        self.ones_ordinal = dict(_IRREGULAR_ORDINALS)
        for name, value in self.ones.items():
            if value > 3 and value not in (5, 12):
                self.ones_ordinal[name + ("h" if name.endswith("t") else "th")] = (value, "th")
        self.ones_suffixed = {**self.ones_plural, **self.ones_ordinal}

        self.tens = {name: value for value, name in zip(range(20, 100, 10), _TENS, strict=True)}
        self.tens_plural = {name[:-1] + "ies": (value, "s") for name, value in self.tens.items()}
        self.tens_ordinal = {name[:-1] + "ieth": (value, "th") for name, value in self.tens.items()}
        self.tens_suffixed = {**self.tens_plural, **self.tens_ordinal}

        self.multipliers = {"hundred": 100}
        self.multipliers.update((name, 1000**i) for i, name in enumerate(_POWERS_OF_THOUSAND, start=1))
        self.multipliers_plural = {name + "s": (value, "s") for name, value in self.multipliers.items()}
        self.multipliers_ordinal = {name + "th": (value, "th") for name, value in self.multipliers.items()}
        self.multipliers_suffixed = {**self.multipliers_plural, **self.multipliers_ordinal}
        self.decimals = {*self.ones, *self.tens, *self.zeros}

        self.preceding_prefixers = {"minus": "-", "negative": "-", "plus": "+", "positive": "+"}
        self.following_prefixers = {
            name + ending: symbol
            for name, symbol in {"pound": "£", "euro": "€", "dollar": "$", "cent": "¢"}.items()
            for ending in ("", "s")
        }
        self.prefixes = {*self.preceding_prefixers.values(), *self.following_prefixers.values()}
        self.suffixers: dict[str, str | dict[str, str]] = {"per": {"cent": "%"}, "percent": "%"}
        self.specials = {"and", "double", "triple", "point"}
        self.words = {
            *self.decimals,
            *self.ones_suffixed,
            *self.tens_suffixed,
            *self.multipliers,
            *self.multipliers_suffixed,
            *self.preceding_prefixers,
            *self.following_prefixers,
            *self.suffixers,
            *self.specials,
        }
        self.literal_words = {"one", "ones"}

    def process_words(self, words: list[str]) -> Iterator[str]:
        """The words of a lower-case text with every run of number words joined into one number."""
        return iter(_NumberReader(self).read(words))

    def preprocess(self, s: str) -> str:
        """Spells "and a half" after a number as "point five" and parts digits from letters."""
        *heads, tail = re.split(r"\band\s+a\s+half\b", s)
        parts = []
        for head in heads:
            if head.strip():
                last = head.split()[-1]
                halved = last in self.decimals or last in self.multipliers
                parts += [head, "point five" if halved else "and a half"]
        if tail.strip():
            parts.append(tail)
        s = " ".join(parts)

        s = re.sub(r"([a-z])([0-9])", r"\1 \2", s)
        s = re.sub(r"([0-9])([a-z])", r"\1 \2", s)
        # "10 th", "1960 s": these letters are a number's ending after all
        return re.sub(r"([0-9])\s+(st|nd|rd|th|s)\b", r"\1\2", s)

    def postprocess(self, s: str) -> str:
        """Joins "$2 and ¢7" into "$2.07", writes "$0.36" as "¢36" and a lone 1 as "one"."""
        s = re.sub(
            r"([€£$])([0-9]+) (?:and )?¢([0-9]{1,2})\b",
            lambda m: f"{m.group(1)}{m.group(2)}.{int(m.group(3)):02d}",
            s,
        )
        s = re.sub(r"[€£$]0.([0-9]{1,2})\b", lambda m: f"¢{int(m.group(1))}", s)
        return re.sub(r"\b1(s?)\b", r"one\1", s)

    def __call__(self, s: str) -> str:
        return self.postprocess(" ".join(self.process_words(self.preprocess(s).split())))


class _NumberReader:
    """Reads words from left to right and keeps the number that they have made so far.

    `value` is an int while more words may add to it ("two hundred" + "five"), and a str once its digits are
    only lined up ("nineteen" + "ninety", "three point"). `prefix` is a sign or a currency that waits for it.
    """

    def __init__(self, tables: EnglishNumberNormalizer) -> None:
        self.tables = tables
        self.prefix = ""
        self.value: int | str | None = None
        self.done: list[str] = []
        self.skip = False

    def read(self, words: list[str]) -> list[str]:
        if not words:
            return []
        for before, word, after in windowed([None, *words, None], 3):
            if self.skip:
                self.skip = False
            elif word is not None:
                self._take(before, word, after)
        self._flush()
        return self.done

    def _emit(self, item: int | str) -> None:
        self.done.append(self.prefix + str(item))
        self.prefix = ""
        self.value = None

    def _flush(self) -> None:
        if self.value is not None:
            self._emit(self.value)

    def _take(self, before: str | None, word: str, after: str | None) -> None:
        tables = self.tables
        signed = word[0] in tables.prefixes
        if _is_arabic(word[1:] if signed else word):
            self._digits(word, signed)
        elif word not in tables.words:
            self._flush()
            self._emit(word)
        elif word in tables.zeros:
            self.value = str(self.value or "") + "0"
        elif word in tables.ones:
            self.value = self._with_ones(tables.ones[word], before)
        elif word in tables.ones_suffixed:
            ones, suffix = tables.ones_suffixed[word]
            self._emit(f"{self._with_ones(ones, before)}{suffix}")
        elif word in tables.tens:
            self.value = self._with(tables.tens[word], 100)
        elif word in tables.tens_suffixed:
            tens, suffix = tables.tens_suffixed[word]
            self._emit(f"{self._with(tens, 100)}{suffix}")
        elif word in tables.multipliers:
            self.value = self._multiplied(tables.multipliers[word])
        elif word in tables.multipliers_suffixed:
            multiplier, suffix = tables.multipliers_suffixed[word]
            self._emit(f"{self._multiplied(multiplier)}{suffix}")
        else:
            self._affix(before, word, after)

    def _affix(self, before: str | None, word: str, after: str | None) -> None:
        """Words that stand at a number but have no value of their own."""
        tables = self.tables
        number_follows = after in tables.words or _is_arabic(after)
        if word in tables.preceding_prefixers:
            self._flush()
            if number_follows:
                self.prefix = tables.preceding_prefixers[word]
            else:
                self._emit(word)
        elif word in tables.following_prefixers:
            self._currency(word)
        elif word in tables.suffixers:
            self._percent(word, after)
        elif word not in tables.specials:
            raise ValueError(f"Unexpected token: {word}")
        elif not number_follows:
            self._flush()
            self._emit(word)
        elif word == "and":
            if before not in tables.multipliers:
                self._flush()
                self._emit(word)
        elif word == "point":
            if after in tables.decimals or _is_arabic(after):
                self.value = str(self.value or "") + "."
        else:
            self._repeat(word, after)

    def _digits(self, word: str, signed: bool) -> None:
        if isinstance(self.value, str) and self.value.endswith("."):
            self.value += word  # decimals, parts of a version or an IP address
            return
        self._flush()
        if signed:
            self.prefix, word = word[0], word[1:]
        number = _fraction(word)
        self.value = number.numerator if number is not None and number.denominator == 1 else word

    def _with(self, number: int, room: int) -> int | str:
        """`number` added to a value that ends in enough zeros for it, else written behind it."""
        if self.value is None:
            return number
        if isinstance(self.value, int) and self.value % room == 0:
            return self.value + number
        return f"{self.value}{number}"

    def _with_ones(self, ones: int, before: str | None) -> int | str:
        tables = self.tables
        if isinstance(self.value, str) and before in tables.tens and ones < 10:
            return f"{self.value[:-1]}{ones}"  # "nineteen ninety" + "nine"
        if self.value is not None and before in tables.ones:
            return f"{self.value}{ones}"
        return self._with(ones, 10 if ones < 10 else 100)

    def _multiplied(self, multiplier: int) -> int:
        """The value times `multiplier`; of an int only its last three digits: "two million three hundred"."""
        if isinstance(self.value, str):
            number = _fraction(self.value)
            product = None if number is None else number * multiplier
            if product is not None and product.denominator == 1:
                return product.numerator
            self._flush()
        if not isinstance(self.value, int):
            return multiplier
        residual = self.value % 1000
        return self.value - residual + residual * multiplier

    def _currency(self, word: str) -> None:
        if self.value is None:
            self._emit(word)
        else:
            self.prefix = self.tables.following_prefixers[word]
            self._flush()

    def _percent(self, word: str, after: str | None) -> None:
        suffix = self.tables.suffixers[word]
        if isinstance(suffix, dict):
            ending = suffix.get(after or "")
            self.skip = self.value is not None and ending is not None
        else:
            ending = suffix
        if self.value is not None and ending is not None:
            self._emit(f"{self.value}{ending}")
        else:
            self._flush()
            self._emit(word)

    def _repeat(self, word: str, after: str | None) -> None:
        """ "double oh", "triple five"."""
        tables = self.tables
        if after in tables.ones or after in tables.zeros:
            times = 2 if word == "double" else 3
            self.value = str(self.value or "") + str(tables.ones.get(after or "", 0)) * times
            self.skip = True
        else:
            self._flush()
            self._emit(word)


class EnglishSpellingNormalizer:
    """Writes British spellings the American way, by the list of www.tysto.com/uk-us-spelling-list.html."""

    def __init__(self) -> None:
        path = Path(__file__).with_name("english.json")
        self.mapping: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))

    def __call__(self, s: str) -> str:
        return " ".join(self.mapping.get(word, word) for word in s.split())


_CONTRACTIONS = {
    "won't": "will not",
    "can't": "can not",
    "let's": "let us",
    "ain't": "aint",
    "y'all": "you all",
    "wanna": "want to",
    "gotta": "got to",
    "gonna": "going to",
    "i'ma": "i am going to",
    "imma": "i am going to",
    "woulda": "would have",
    "coulda": "could have",
    "shoulda": "should have",
    "ma'am": "madam",
}
_TITLES = {
    "mr": "mister",
    "mrs": "missus",
    "st": "saint",
    "dr": "doctor",
    "prof": "professor",
    "capt": "captain",
    "gov": "governor",
    "ald": "alderman",
    "gen": "general",
    "sen": "senator",
    "rep": "representative",
    "pres": "president",
    "rev": "reverend",
    "hon": "honorable",
    "asst": "assistant",
    "assoc": "associate",
    "lt": "lieutenant",
    "col": "colonel",
    "jr": "junior",
    "sr": "senior",
    "esq": "esquire",
}
# Endings, from the particular to the general: "'d been" is "had been", any other "'d" is "would".
_ENDINGS = {
    "'d been": "had been",
    "'s been": "has been",
    "'d gone": "had gone",
    "'s gone": "has gone",
    "'d done": "had done",
    "'s got": "has got",
    "n't": "not",
    "'re": "are",
    "'s": "is",
    "'d": "would",
    "'ll": "will",
    "'t": "not",
    "'ve": "have",
    "'m": "am",
}


class EnglishTextNormalizer:
    """Lower case, no annotations or fillers, full forms, digits, American spelling, single spaces."""

    def __init__(self) -> None:
        self.ignore_patterns = r"\b(hmm|mm|mhm|mmm|uh|um)\b"
        self.replacers = {
            **{rf"\b{short}\b": full for short, full in _CONTRACTIONS.items()},
            **{rf"\b{short}\b": full + " " for short, full in _TITLES.items()},
            **{rf"{short}\b": " " + full for short, full in _ENDINGS.items()},
        }
        self.standardize_numbers = EnglishNumberNormalizer()
        self.standardize_spellings = EnglishSpellingNormalizer()

    def __call__(self, s: str) -> str:
        s = remove_annotations(s.lower())
        s = re.sub(self.ignore_patterns, "", s)
        s = re.sub(r"\s+'", "'", s)
        for pattern, replacement in self.replacers.items():
            s = re.sub(pattern, replacement, s)

        # Keep what belongs to a number; commas within it go, and periods that end a sentence.
        s = re.sub(r"(\d),(\d)", r"\1\2", s)
        s = re.sub(r"\.([^0-9]|$)", r" \1", s)
        s = remove_symbols_and_diacritics(s, keep=".%$¢€£")
        s = self.standardize_spellings(self.standardize_numbers(s))

        s = re.sub(r"[.$¢€£]([^0-9])", r" \1", s)
        s = re.sub(r"([^0-9])%", r"\1 ", s)
        return re.sub(r"\s+", " ", s)
