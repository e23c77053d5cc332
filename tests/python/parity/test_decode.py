"""decode() with random options on random models, against the reference run item by item."""

import random
import warnings
from dataclasses import asdict
from typing import Any

import pytest
import torch
import whisper
from random_models import random_mel, random_pair

from torchwhisper import _engine
from torchwhisper.decoding import DecodingOptions, decode

# How many option sets each model gets in the whole matrix, and in the short one.
MODELS = {"tiny": (80, 10), "tiny.en": (40, 5), "base": (30, 2), "large-v3": (25, 2), "turbo": (25, 2)}
# A differing token is accepted where the reference's two best logits are closer than this.
NEAR_TIE = 1e-3

Options = dict[str, Any]


def random_options(rng: random.Random, multilingual: bool) -> Options:
    ids = [rng.randrange(50000) for _ in range(300)]
    options: Options = {
        "task": rng.choice(["transcribe", "translate"]) if multilingual else "transcribe",
        "language": rng.choice([None, None, "en", "de", "ja"]) if multilingual else "en",
        "temperature": rng.choice([0.0, 0.0, 0.0, 0.2, 0.7, 1.0]),
        "length_penalty": rng.choice([None, None, 0.0, 0.4, 1.0]),
        "prompt": rng.choice([None, None, "What was said before", ids[:20], ids]),
        "prefix": rng.choice([None, None, "And so", ids[30:35]]),
        "suppress_tokens": rng.choice(["-1", "-1", "-1", "", None, "-1,11,13", ids[:100], "50,60"]),
        "suppress_blank": rng.random() < 0.8,
        "without_timestamps": rng.random() < 0.3,
        "max_initial_timestamp": rng.choice([1.0, 1.0, None, 0.0, 0.02, 12.5]),
        "sample_len": rng.choice([1, 3, 8, 12, 15, 20, 30]),
        "fp16": False,
    }
    group = rng.choice([None, 1, 2, 3, 5])
    if options["temperature"] == 0 or rng.random() < 0.15:
        options["beam_size"] = group
        options["patience"] = rng.choice([None, 1.0, 2.0, 0.6]) if group else None
    else:
        options["best_of"] = group
    return options


class BatchedTask(whisper.decoding.DecodingTask):
    """The reference with its features repeated for each group, without which a batch fails."""

    def _get_audio_features(self, mel):
        return super()._get_audio_features(mel).repeat_interleave(self.n_group, dim=0)

    def _detect_language(self, audio_features, tokens):
        return super()._detect_language(audio_features[:: self.n_group], tokens)


def reference_results(reference, features: torch.Tensor, options: Options, seed: int) -> list[Any]:
    given = whisper.DecodingOptions(**options)
    torch.manual_seed(seed)
    if options["temperature"] > 0 and len(features) > 1:
        # The draws of a batch come together, so they cannot be had one by one.
        return BatchedTask(reference, given).run(features)
    return [whisper.decode(reference, window, given) for window in features]


def assert_same(reference, features: torch.Tensor, options: Options, got: Any, wanted: Any) -> None:
    if got.tokens != wanted.tokens:
        gap = reference_gap(reference, features, options, got.tokens, wanted)
        message = f"{got.tokens} instead of {wanted.tokens}, two best logits differ by {gap:.2g}: {options}"
        assert gap < NEAR_TIE, message
        warnings.warn(f"near tie: {message}", stacklevel=1)
        return
    assert (got.text, got.language) == (wanted.text, wanted.language)
    for name in ("avg_logprob", "no_speech_prob", "temperature", "compression_ratio"):
        assert getattr(got, name) == pytest.approx(getattr(wanted, name), abs=1e-4), name


def reference_gap(reference, features: torch.Tensor, options: Options, got: list[int], wanted: Any) -> float:
    """By how much the reference preferred its token where the two first differ."""
    same = next((i for i, (a, b) in enumerate(zip(got, wanted.tokens, strict=False)) if a != b), None)
    same = min(len(got), len(wanted.tokens)) if same is None else same
    given = whisper.DecodingOptions(**options | {"language": wanted.language})
    task = whisper.decoding.DecodingTask(reference, given)
    tokens = torch.tensor([[*task.initial_tokens, *wanted.tokens[:same]]])
    logits = reference.logits(tokens, features[None])[:, -1]
    for logit_filter in task.logit_filters:
        logit_filter.apply(logits, tokens)
    best = logits[0].topk(2).values
    return (best[0] - best[1]).item()


def compare(name: str, options: Options, seed: int) -> None:
    reference, model = random_pair(name)
    features = encoded(name)
    for batch in (1, 3):
        try:
            wanted = reference_results(reference, features[:batch], options, seed)
        except ZeroDivisionError:
            continue  # its best candidate is empty
        torch.manual_seed(seed)
        got = decode(model, features[:batch], DecodingOptions(**options))
        for i in range(batch):
            assert_same(reference, features[i], options, got[i], wanted[i])


_encoded: dict[str, torch.Tensor] = {}


def encoded(name: str) -> torch.Tensor:
    if name not in _encoded:
        _encoded[name] = random_pair(name)[0].encoder(random_mel(name, 3))
    return _encoded[name]


def cases(full: bool) -> list[Any]:
    found = []
    for name, (many, few) in MODELS.items():
        rng = random.Random(name)
        sets = [random_options(rng, not name.endswith(".en")) for _ in range(many)]
        found += [
            pytest.param(name, o, i, id=f"{name}-{i}") for i, o in enumerate(sets[: many if full else few])
        ]
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "options" in metafunc.fixturenames:
        full = metafunc.config.getoption("--parity-full")
        metafunc.parametrize(("name", "options", "seed"), cases(full))


@torch.no_grad()
def test_engine(name, options, seed):
    with _engine.require():
        compare(name, options, seed)


def test_python_path():
    rng = random.Random(0)
    with _engine.disable(), torch.no_grad():
        for seed in range(4):
            compare("tiny", random_options(rng, True), seed)


def test_options_are_varied():
    """What the tests above stand on."""
    sets = [case.values[1] for case in cases(full=True)]
    assert len(sets) == 200 and len({str(s) for s in sets}) == 200
    for key, wanted in asdict(DecodingOptions()).items():
        assert key == "fp16" or {str(s.get(key)) for s in sets} - {str(wanted)}, key


@torch.no_grad()
def test_from_the_log_mel():
    reference, model = random_pair("tiny")
    mel = random_mel("tiny", 2)
    with _engine.require():
        got = decode(model, mel, DecodingOptions(fp16=False, sample_len=10))
    for window, result in zip(mel, got, strict=True):
        options = {"fp16": False, "sample_len": 10}
        wanted = whisper.decode(reference, window, whisper.DecodingOptions(**options))
        assert_same(reference, wanted.audio_features, options, result, wanted)
