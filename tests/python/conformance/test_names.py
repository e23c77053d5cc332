"""Which names the modules have, and what they are."""

import dataclasses
import importlib
import inspect
import subprocess
import sys
from collections import Counter
from types import ModuleType
from typing import Any

import pytest
import whisper

import torchwhisper

MODULES = (
    *(
        "",
        "audio",
        "decoding",
        "model",
        "timing",
        "tokenizer",
        "transcribe",
        "triton_ops",
        "utils",
        "version",
    ),
    *("normalizers", "normalizers.basic", "normalizers.english"),
)
# What this package has no use for, and nobody takes from there.
ABSENT = {"timing": {"numba"}, "triton_ops": {"lru_cache", "np", "tl", "triton"}}
# Triton kernels are not callable from Python; the names answer with what to call instead.
EXPLAINED = {"triton_ops": {"dtw_kernel", "median_kernel"}}


def module(package: str, name: str) -> ModuleType:
    return importlib.import_module(f"{package}.{name}" if name else package)


def public(names: object) -> set[str]:
    return {name for name in vars(names) if not name.startswith("__")}


def parameters(function: object) -> list[tuple[str, object, str]]:
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, repr(p.default).replace("torchwhisper", "whisper")) for p in found]


def assert_only_keywords_added(got: list[Any], wanted: list[Any], name: str) -> None:
    assert [one for one in got if one in wanted] == wanted, name
    assert {one[1] for one in got if one not in wanted} <= {inspect.Parameter.KEYWORD_ONLY}, name


@pytest.mark.parametrize("name", MODULES)
def test_every_name_is_there(name):
    missing = public(module("whisper", name)) - public(module("torchwhisper", name))
    assert missing == ABSENT.get(name, set()) | EXPLAINED.get(name, set())


@pytest.mark.parametrize("name", MODULES)
def test_functions_have_the_same_parameters(name):
    theirs, ours = module("whisper", name), module("torchwhisper", name)
    for attribute in public(theirs) & public(ours):
        theirs_is, ours_is = getattr(theirs, attribute), getattr(ours, attribute)
        theirs_is = getattr(theirs_is, "py_func", theirs_is)  # numba
        if inspect.isfunction(theirs_is) and theirs_is.__module__ == theirs.__name__:
            wanted = parameters(theirs_is)
            got = parameters(ours_is)
            assert_only_keywords_added(got, wanted, attribute)


@pytest.mark.parametrize("name", MODULES)
def test_classes_have_the_same_members(name):
    theirs, ours = module("whisper", name), module("torchwhisper", name)
    for attribute in public(theirs) & public(ours):
        cls = getattr(theirs, attribute)
        if not inspect.isclass(cls) or cls.__module__ != theirs.__name__:
            continue
        bases = [b.__name__ for b in getattr(ours, attribute).__mro__]
        assert [b for b in bases if b != "_Adopted"] == [b.__name__ for b in cls.__mro__]
        for member in public(cls):
            assert hasattr(getattr(ours, attribute), member), f"{attribute}.{member}"
            if inspect.isfunction(vars(cls)[member]):
                wanted, got = (
                    parameters(vars(cls)[member]),
                    parameters(getattr(getattr(ours, attribute), member)),
                )
                assert_only_keywords_added(got, wanted, f"{attribute}.{member}")


def test_constants_are_the_same():
    for name in MODULES:
        theirs, ours = module("whisper", name), module("torchwhisper", name)
        for attribute in public(theirs) & public(ours):
            value = getattr(theirs, attribute)
            if isinstance(value, (int, str, dict, tuple)):
                assert getattr(ours, attribute) == value, f"{name}.{attribute}"
                assert type(getattr(ours, attribute)) is type(value), f"{name}.{attribute}"


def test_names_of_the_package(package):
    names = (
        "load_model available_models transcribe decode detect_language load_audio log_mel_spectrogram "
        "pad_or_trim DecodingOptions DecodingResult ModelDimensions Whisper __version__ _MODELS "
        "_ALIGNMENT_HEADS _download hashlib io os urllib warnings torch tqdm List Optional Union "
        "audio decoding model timing tokenizer utils version"
    )
    for name in names.split():
        assert hasattr(package.root, name), name
    assert not hasattr(package.root, "__all__")
    assert package.root.decode is package.decoding.decode
    assert package.root.load_audio is package.audio.load_audio


@pytest.mark.parametrize("name", MODULES)
def test_no_module_lists_its_names(package, name):
    """So that `from whisper.utils import *` gives whatever a module imports."""
    assert not hasattr(module(package.name, name), "__all__")


def test_transcribe_is_the_function_and_the_module_only_in_sys_modules(package):
    attribute = package.root.transcribe
    assert inspect.isfunction(attribute)
    found = sys.modules[f"{package.name}.transcribe"]
    assert inspect.ismodule(found) and found.transcribe is attribute
    scope: dict[str, object] = {}
    exec(f"import {package.name}.transcribe as t\nfrom {package.name}.transcribe import cli", scope)
    assert scope["t"] is attribute and scope["cli"] is found.cli


def test_normalizers_and_triton_ops_are_imported_on_demand(package):
    code = (
        f"import sys, {package.name}\n"
        f"print([n for n in ('normalizers', 'triton_ops') if '{package.name}.' + n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_constants_of_audio(package):
    names = (
        "SAMPLE_RATE N_FFT HOP_LENGTH CHUNK_LENGTH N_SAMPLES N_FRAMES "
        "N_SAMPLES_PER_TOKEN FRAMES_PER_SECOND TOKENS_PER_SECOND"
    )
    values = [getattr(package.audio, name) for name in names.split()]
    assert values == [16000, 400, 160, 30, 480000, 3000, 320, 100, 50]
    assert {type(value) for value in values} == {int}


def test_languages(package):
    languages = package.tokenizer.LANGUAGES
    assert (len(languages), list(languages)[-1]) == (100, "yue")
    assert len(package.tokenizer.TO_LANGUAGE_CODE) == 112


def test_what_is_made_once_per_process(package):
    """Programs call cache_clear() on these."""
    made = (package.tokenizer.get_encoding, package.tokenizer.get_tokenizer, package.audio.mel_filters)
    for function in made:
        assert function.cache_info().maxsize is None, function


def test_a_tokenizer_keeps_what_it_has_worked_out(package):
    cls = package.tokenizer.Tokenizer
    names = "encoding num_languages language task sot_sequence special_tokens"
    assert [field.name for field in dataclasses.fields(cls)] == names.split()
    tokenizer = cls(package.tokenizer.get_encoding("multilingual"), 99, "de", "translate")
    worked_out = (
        "eot transcribe translate sot sot_lm sot_prev no_speech no_timestamps timestamp_begin language_token "
        "all_language_tokens all_language_codes sot_sequence_including_notimestamps non_speech_tokens"
    )
    for name in worked_out.split():
        assert getattr(tokenizer, name) is vars(tokenizer)[name]
    tokenizer.no_timestamps = 7  # and so a program may set them
    assert tokenizer.no_timestamps == 7


def test_version_sorts_after_the_one_that_dependents_ask_for(package):
    assert package.root.__version__ >= "20250625" > "20240930"
    assert package.root.__version__ == package.version.__version__


def test_models_of_the_download_table(package):
    names = (
        "tiny.en tiny base.en base small.en small medium.en medium large-v1 large-v2 large-v3 large "
        "large-v3-turbo turbo"
    )
    assert package.root.available_models() == names.split() == list(package.root._MODELS)
    assert len(set(package.root._MODELS.values())) == 12
    assert package.root._MODELS["large"] == package.root._MODELS["large-v3"]
    assert package.root._MODELS["turbo"] == package.root._MODELS["large-v3-turbo"]
    assert package.root._MODELS == whisper._MODELS
    assert package.root._ALIGNMENT_HEADS == whisper._ALIGNMENT_HEADS


def test_entry_points():
    import importlib.metadata as metadata

    (command,) = metadata.distribution("openai-whisper").entry_points
    assert (command.name, command.value) == ("whisper", "whisper.transcribe:cli")
    assert callable(importlib.import_module("torchwhisper.transcribe").cli)


def test_other_programs_find_what_they_import():
    """Imports seen in programs that build on openai-whisper."""
    code = """
    from whisper.audio import SAMPLE_RATE, N_FRAMES, HOP_LENGTH, pad_or_trim, log_mel_spectrogram
    from whisper.decoding import BeamSearchDecoder, DecodingOptions, DecodingResult, DecodingTask
    from whisper.decoding import GreedyDecoder, Inference, TokenDecoder, LogitFilter
    from whisper.model import ModelDimensions, MultiHeadAttention, TextDecoder, Whisper
    from whisper.timing import add_word_timestamps, dtw, find_alignment, merge_punctuations
    from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE, Tokenizer, get_encoding, get_tokenizer
    from whisper.transcribe import LANGUAGES, get_writer, torch, tqdm, warnings
    from whisper.utils import exact_div, format_timestamp, make_safe, sys, zlib
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer
    from whisper.normalizers.basic import ADDITIONAL_DIACRITICS, remove_symbols
    from whisper.normalizers.english import EnglishNumberNormalizer, EnglishSpellingNormalizer
    from whisper import _MODELS, _download
    """.replace("    ", "")
    for name in ("whisper", "torchwhisper"):
        exec(code.replace("whisper", name), {})


def test_alignment_heads_per_model(package):
    import base64
    import gzip

    counts = Counter(
        {n: sum(gzip.decompress(base64.b85decode(d))) for n, d in package.root._ALIGNMENT_HEADS.items()}
    )
    assert counts == {
        **{"tiny.en": 8, "tiny": 6, "base.en": 5, "base": 8, "small.en": 19, "small": 10},
        **{"medium.en": 18, "medium": 6, "large-v1": 9, "large-v2": 23, "large-v3": 10, "large": 10},
        **{"large-v3-turbo": 6, "turbo": 6},
    }
    assert torchwhisper._ALIGNMENT_HEADS.keys() == package.root._MODELS.keys()
