import pytest
import whisper.normalizers as reference
import whisper.normalizers.basic as reference_basic
import whisper.normalizers.english as reference_english
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import torchwhisper.normalizers as ours
from torchwhisper.normalizers import basic, english

# However busy the machine is.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

text = st.text(st.characters(exclude_categories=["Cs"]))

NUMBERS = english.EnglishNumberNormalizer()
THEIR_NUMBERS = reference_english.EnglishNumberNormalizer()
number_words = st.sampled_from(sorted(THEIR_NUMBERS.words))
OTHER_WORDS = (
    "july degrees a half b747 3 14 3.14 0 007 1 £77 $20 $2.0 €52.4 ¢7 -5 1,000 10th 2.5.1 5% . $ ' km"
)
other_words = st.sampled_from(OTHER_WORDS.split())
phrases = st.lists(st.one_of(number_words, other_words, st.just("and a half")), max_size=10).map(" ".join)


@RELAXED
@given(text)
@example("Œuvre Øre ẞ đ þ ł naïve ½ ﬁ “quotes” 한국어 हिन्दी ¡ñ!")
def test_symbols_and_diacritics(s):
    assert basic.remove_symbols(s) == reference_basic.remove_symbols(s)
    for keep in ("", ".%$¢€£", s[:2]):
        assert basic.remove_symbols_and_diacritics(s, keep) == reference_basic.remove_symbols_and_diacritics(
            s, keep
        )
    assert basic.ADDITIONAL_DIACRITICS == reference_basic.ADDITIONAL_DIACRITICS


@pytest.mark.parametrize("remove_diacritics", [False, True])
@pytest.mark.parametrize("split_letters", [False, True])
@RELAXED
@given(st.one_of(text, st.text("aAé<[(>]) \n.!é️")))
def test_basic_normalizer(remove_diacritics, split_letters, s):
    mine = ours.BasicTextNormalizer(remove_diacritics, split_letters)
    assert mine(s) == reference.BasicTextNormalizer(remove_diacritics, split_letters)(s)


@pytest.mark.parametrize("name", sorted(vars(THEIR_NUMBERS)))
def test_tables_of_numbers(name):
    assert getattr(NUMBERS, name) == getattr(THEIR_NUMBERS, name)


@settings(RELAXED, max_examples=2000)
@given(phrases)
@example("three and a half million and a half and a half")
@example("two million three hundred thousandths")
@example("version 3 point $5 per cent 10 per 20 percent")
def test_number_phrases(s):
    assert list(NUMBERS.process_words(s.split())) == list(THEIR_NUMBERS.process_words(s.split()))
    assert NUMBERS.preprocess(s) == THEIR_NUMBERS.preprocess(s)
    assert NUMBERS.postprocess(s) == THEIR_NUMBERS.postprocess(s)
    assert NUMBERS(s) == THEIR_NUMBERS(s)


@pytest.mark.parametrize(
    "spoken, written",
    [
        ("forty three thousand two hundred and sixty", "43260"),
        ("august twenty sixth nineteen ninety nine", "august 26th 1999"),
        ("two dollars and seven cents", "$2.07"),
        ("double oh seven", "007"),
        ("minus three point one four percent", "-3.14%"),
        ("the one and only", "the one and only"),
    ],
)
def test_known_numbers(spoken, written):
    assert NUMBERS(spoken) == written


def test_a_number_of_any_length():
    assert NUMBERS("9" * 5000 + " apples") == "9" * 5000 + " apples"


def test_spellings():
    mine, theirs = english.EnglishSpellingNormalizer(), reference_english.EnglishSpellingNormalizer()
    assert mine.mapping == theirs.mapping
    assert mine("the colour  mobilisation") == "the color mobilization"


MINE, THEIRS = ours.EnglishTextNormalizer(), reference.EnglishTextNormalizer()
ENGLISH_WORDS = (
    "Mr. mrs dr st hmm uh won't can't she's been i'd done gone they'll y'all ma'am n't 'd [NOISE] (laughs) "
    "<b> colour aluminium 1,234.5 it's ' , . ... ! % $5 50% café “so” 10km it -"
)
english_words = st.sampled_from(ENGLISH_WORDS.split())
sentences = st.lists(st.one_of(english_words, number_words, other_words, text), max_size=10).map(" ".join)


def test_tables_of_english():
    assert list(MINE.replacers.items()) == list(THEIRS.replacers.items())
    assert MINE.ignore_patterns == THEIRS.ignore_patterns


@settings(RELAXED, max_examples=1000)
@given(sentences)
@example("Mr. Park visited Assoc. Prof. Kim Jr.")
@example("She's been to St. Mary's; he'd gone -- uh, I can't recall (laughs) 50% of $1,000.00.")
def test_english_normalizer(s):
    assert MINE(s) == THEIRS(s)


def test_known_english():
    assert MINE("Mr. Park didn't pay £1,200.50 [NOISE] for the colour, hmm?") == (
        "mister park did not pay £1200.50 for the color"
    )
