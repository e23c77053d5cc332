"""Text to token ids and back, with the special tokens of Whisper's vocabularies.

Names and behaviour follow openai-whisper's `whisper/tokenizer.py`. A vocabulary is one file
`assets/<name>.tiktoken` of lines `base64(token bytes) rank`; the special tokens follow the ranks, so their
ids depend on the number of languages.
"""

import base64
import os  # noqa: F401
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache  # noqa: F401
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401, UP035

import tiktoken

# fmt: off
# The order is the order of the language tokens' ids.
LANGUAGES = {
    "en": "english", "zh": "chinese", "de": "german", "es": "spanish", "ru": "russian", "ko": "korean",
    "fr": "french", "ja": "japanese", "pt": "portuguese", "tr": "turkish", "pl": "polish", "ca": "catalan",
    "nl": "dutch", "ar": "arabic", "sv": "swedish", "it": "italian", "id": "indonesian", "hi": "hindi",
    "fi": "finnish", "vi": "vietnamese", "he": "hebrew", "uk": "ukrainian", "el": "greek", "ms": "malay",
    "cs": "czech", "ro": "romanian", "da": "danish", "hu": "hungarian", "ta": "tamil", "no": "norwegian",
    "th": "thai", "ur": "urdu", "hr": "croatian", "bg": "bulgarian", "lt": "lithuanian", "la": "latin",
    "mi": "maori", "ml": "malayalam", "cy": "welsh", "sk": "slovak", "te": "telugu", "fa": "persian",
    "lv": "latvian", "bn": "bengali", "sr": "serbian", "az": "azerbaijani", "sl": "slovenian",
    "kn": "kannada", "et": "estonian", "mk": "macedonian", "br": "breton", "eu": "basque",
    "is": "icelandic", "hy": "armenian", "ne": "nepali", "mn": "mongolian", "bs": "bosnian",
    "kk": "kazakh", "sq": "albanian", "sw": "swahili", "gl": "galician", "mr": "marathi", "pa": "punjabi",
    "si": "sinhala", "km": "khmer", "sn": "shona", "yo": "yoruba", "so": "somali", "af": "afrikaans",
    "oc": "occitan", "ka": "georgian", "be": "belarusian", "tg": "tajik", "sd": "sindhi", "gu": "gujarati",
    "am": "amharic", "yi": "yiddish", "lo": "lao", "uz": "uzbek", "fo": "faroese", "ht": "haitian creole",
    "ps": "pashto", "tk": "turkmen", "nn": "nynorsk", "mt": "maltese", "sa": "sanskrit",
    "lb": "luxembourgish", "my": "myanmar", "bo": "tibetan", "tl": "tagalog", "mg": "malagasy",
    "as": "assamese", "tt": "tatar", "haw": "hawaiian", "ln": "lingala", "ha": "hausa", "ba": "bashkir",
    "jw": "javanese", "su": "sundanese", "yue": "cantonese",
}
# fmt: on

# Language code by English name, with other names in use.
TO_LANGUAGE_CODE = {
    **{name: code for code, name in LANGUAGES.items()},
    "burmese": "my",
    "valencian": "ca",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "pushto": "ps",
    "panjabi": "pa",
    "moldavian": "ro",
    "moldovan": "ro",
    "sinhalese": "si",
    "castilian": "es",
    "mandarin": "zh",
}

_ASSETS = Path(__file__).parent / "assets"
_REPLACEMENT = "\ufffd"
_TIMESTAMPS = 1501  # <|0.00|> to <|30.00|> in steps of 0.02 s
_UNSPACED_LANGUAGES = {"zh", "ja", "th", "lo", "my", "yue"}

# GPT-2's pre-tokenizer: contractions, words, numbers, other symbols, white space.
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_RUNS = (r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", r"\s+(?!\S)", r"\s+")
_SPLIT_PATTERN = "|".join((*_CONTRACTIONS, *_RUNS))

# What speaker tags and annotations start with or consist of; plain sentence punctuation is not among it.
_ANNOTATION_SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("'),
    *("((", "))", "(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪"),
)
# Each may take several tokens. All lie in U+2640..U+267F and share their first two bytes, so that suppressing
# the first token of each costs nothing but such symbols.
_MUSIC_SYMBOLS = tuple("♩♪♫♬♭♮♯")


@dataclass
class Tokenizer:
    """A `tiktoken.Encoding` with Whisper's special tokens, for one language and task.

    Source: `whisper.tokenizer.Tokenizer`. Make one with `get_tokenizer`.
    """

    encoding: tiktoken.Encoding
    num_languages: int
    language: str | None = None
    task: str | None = None
    sot_sequence: tuple[int, ...] = ()
    special_tokens: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = {name: self.encoding.encode_single_token(name) for name in self.encoding.special_tokens_set}
        # By id: the set's own order changes from run to run.
        self.special_tokens.update(sorted(ids.items(), key=lambda item: item[1]))
        self.sot_sequence = tuple(self._start_tokens())

    def _start_tokens(self) -> Iterator[int]:
        yield self.sot
        if self.language is not None:
            yield self.sot + 1 + tuple(LANGUAGES)[: self.num_languages].index(self.language)
        if self.task is not None:
            yield self.transcribe if self.task == "transcribe" else self.translate

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        """Token ids of `text`; keywords go to `tiktoken.Encoding.encode`, which refuses special tokens."""
        return self.encoding.encode(text, **kwargs)

    def decode(self, token_ids: list[int], **kwargs: Any) -> str:
        """The text of `token_ids`, timestamp tokens left out."""
        return self.encoding.decode([t for t in token_ids if t < self.timestamp_begin], **kwargs)

    def decode_with_timestamps(self, token_ids: list[int], **kwargs: Any) -> str:
        """The text of `token_ids`, timestamp tokens written as "<|1.08|>"."""
        return self.encoding.decode(token_ids, **kwargs)

    @cached_property
    def eot(self) -> int:
        """Ends a text."""
        return self.encoding.eot_token

    @cached_property
    def transcribe(self) -> int:
        """Asks for the words as they are spoken."""
        return self.special_tokens["<|transcribe|>"]

    @cached_property
    def translate(self) -> int:
        """Asks for English."""
        return self.special_tokens["<|translate|>"]

    @cached_property
    def sot(self) -> int:
        """Starts a text."""
        return self.special_tokens["<|startoftranscript|>"]

    @cached_property
    def sot_lm(self) -> int:
        """Reserved for a language model."""
        return self.special_tokens["<|startoflm|>"]

    @cached_property
    def sot_prev(self) -> int:
        """Starts the text before the window."""
        return self.special_tokens["<|startofprev|>"]

    @cached_property
    def no_speech(self) -> int:
        """Predicted for silence."""
        return self.special_tokens["<|nospeech|>"]

    @cached_property
    def no_timestamps(self) -> int:
        """Asks for text without timestamps."""
        return self.special_tokens["<|notimestamps|>"]

    @cached_property
    def timestamp_begin(self) -> int:
        """0.00 s; each id after it is 0.02 s more."""
        return self.special_tokens["<|0.00|>"]

    @cached_property
    def language_token(self) -> int:
        """The id of this tokenizer's language; ValueError where it has none (English-only vocabulary)."""
        if self.language is None:
            raise ValueError("This tokenizer does not have language token configured")
        return self.to_language_token(self.language)

    def to_language_token(self, language: str) -> int:
        """The id of a language code; KeyError where the vocabulary does not have it."""
        token = self.special_tokens.get(f"<|{language}|>")
        if token is None:
            raise KeyError(f"Language {language} not found in tokenizer.")
        return token

    @cached_property
    def all_language_tokens(self) -> tuple[int, ...]:
        """One id per language that the vocabulary has."""
        tokens = [t for name, t in self.special_tokens.items() if name.strip("<|>") in LANGUAGES]
        return tuple(tokens)[: self.num_languages]

    @cached_property
    def all_language_codes(self) -> tuple[str, ...]:
        """The languages of `all_language_tokens`, in that order."""
        return tuple(self.decode([token]).strip("<|>") for token in self.all_language_tokens)

    @cached_property
    def sot_sequence_including_notimestamps(self) -> tuple[int, ...]:
        """`sot_sequence` for text without timestamps."""
        return (*self.sot_sequence, self.no_timestamps)

    @cached_property
    def non_speech_tokens(self) -> tuple[int, ...]:
        """Sorted ids to suppress against speaker tags and annotations, such as "♪♪♪" or "[DAVID] Hey".

        Common punctuation stays. A hyphen or a quote is suppressed only at the start of a word.
        """
        tokens = {self.encode(" -")[0], self.encode(" '")[0]}
        for symbol in [*_ANNOTATION_SYMBOLS, *_MUSIC_SYMBOLS]:
            for encoded in (self.encode(symbol), self.encode(" " + symbol)):
                if len(encoded) == 1 or symbol in _MUSIC_SYMBOLS:
                    tokens.add(encoded[0])
        return tuple(sorted(tokens))

    def split_to_word_tokens(self, tokens: list[int]) -> tuple[list[str], list[list[int]]]:
        """Splits `tokens` into words: (texts, token ids per word), equally long.

        Languages written without spaces are split wherever the tokens so far are valid Unicode.
        """
        if self.language in _UNSPACED_LANGUAGES:
            return self.split_tokens_on_unicode(tokens)
        return self.split_tokens_on_spaces(tokens)

    def split_tokens_on_unicode(self, tokens: list[int]) -> tuple[list[str], list[list[int]]]:
        """Splits `tokens` into the shortest runs that decode to whole characters."""
        whole = self.decode_with_timestamps(tokens)
        words: list[str] = []
        word_tokens: list[list[int]] = []
        pending: list[int] = []
        offset = 0
        for token in tokens:
            pending.append(token)
            text = self.decode_with_timestamps(pending)
            broken = text.find(_REPLACEMENT)
            # A replacement character that the whole text has too is not a cut through a character.
            if broken < 0 or whole[offset + broken : offset + broken + 1] in ("", _REPLACEMENT):
                words.append(text)
                word_tokens.append(pending)
                pending = []
                offset += len(text)
        return words, word_tokens

    def split_tokens_on_spaces(self, tokens: list[int]) -> tuple[list[str], list[list[int]]]:
        """Splits `tokens` before spaces and around punctuation and special tokens."""
        words: list[str] = []
        word_tokens: list[list[int]] = []
        for subword, subword_tokens in zip(*self.split_tokens_on_unicode(tokens), strict=True):
            special = subword_tokens[0] >= self.eot
            # A substring test on purpose: white space alone and runs such as "()" count as punctuation.
            punctuation = subword.strip() in string.punctuation
            if not words or special or punctuation or subword.startswith(" "):
                words.append(subword)
                word_tokens.append(subword_tokens)
            else:
                words[-1] += subword
                word_tokens[-1].extend(subword_tokens)
        return words, word_tokens


def _special_names(num_languages: int) -> list[str]:
    return [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{code}|>" for code in list(LANGUAGES)[:num_languages]),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
        *(f"<|{i * 0.02:.2f}|>" for i in range(_TIMESTAMPS)),
    ]


@cache
def get_encoding(name: str = "gpt2", num_languages: int = 99) -> tiktoken.Encoding:
    """The vocabulary `name` ("gpt2", English only, or "multilingual"). Cached: callers share one object.

    Source: `whisper.tokenizer.get_encoding`.
    """
    path = _ASSETS / f"{name}.tiktoken"
    lines = path.read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    specials = {token: len(ranks) + i for i, token in enumerate(_special_names(num_languages))}
    return tiktoken.Encoding(
        name=path.name,
        explicit_n_vocab=len(ranks) + len(specials),
        pat_str=_SPLIT_PATTERN,
        mergeable_ranks=ranks,
        special_tokens=specials,
    )


def _language_code(language: str) -> str:
    language = language.lower()
    if language in LANGUAGES:
        return language
    if language in TO_LANGUAGE_CODE:
        return TO_LANGUAGE_CODE[language]
    raise ValueError(f"Unsupported language: {language}")


@cache
def get_tokenizer(
    multilingual: bool,
    *,
    num_languages: int = 99,
    language: str | None = None,
    task: str | None = None,
) -> Tokenizer:
    """The tokenizer of a model. Cached: callers share one object.

    multilingual: False gives the English-only vocabulary, whatever `language` and `task` say.
    language: code or English name in any case, default "en"; ValueError for an unknown one.
    task: "transcribe" (default) or "translate".
    Source: `whisper.tokenizer.get_tokenizer`.
    """
    code = None if language is None else _language_code(language)
    if multilingual:
        return Tokenizer(
            get_encoding("multilingual", num_languages),
            num_languages,
            language=code or "en",
            task=task or "transcribe",
        )
    return Tokenizer(get_encoding("gpt2", num_languages), num_languages)
