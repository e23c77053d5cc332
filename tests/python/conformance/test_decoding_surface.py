"""decode(), its options and results, and detect_language()."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, fill

JFK = ROOT / "examples" / "jfk.flac"
SAMPLING = {"language": "en", "fp16": False, "sample_len": 6}


def options(package, **given):
    return package.decoding.DecodingOptions(**{**SAMPLING, **given})


def task(package, model, **given):
    return package.decoding.DecodingTask(model, options(package, **given))


@pytest.fixture
def english(package):
    """A random model without languages."""
    model = package.model.Whisper(package.model.ModelDimensions(**{**SMALL, "n_vocab": 51864}))
    fill(model, 0)
    return model


def test_options(package):
    given = package.decoding.DecodingOptions()
    assert dataclasses.asdict(given) == {
        **{"task": "transcribe", "language": None, "temperature": 0.0, "sample_len": None, "best_of": None},
        **{"beam_size": None, "patience": None, "length_penalty": None, "prompt": None, "prefix": None},
        **{"suppress_tokens": "-1", "suppress_blank": True, "without_timestamps": False},
        **{"max_initial_timestamp": 1.0, "fp16": True},
    }
    assert dataclasses.replace(given, beam_size=5).beam_size == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.beam_size = 5

    @dataclasses.dataclass(frozen=True)
    class Extended(package.decoding.DecodingOptions):
        lm_weight: float = 0.5

    assert Extended(temperature=0.2).lm_weight == 0.5


def test_results(package):
    result = package.decoding.DecodingResult(audio_features=torch.zeros(1), language="en")
    names = (
        "audio_features language language_probs tokens text avg_logprob no_speech_prob temperature "
        "compression_ratio"
    )
    assert [field.name for field in dataclasses.fields(result)] == names.split()
    assert (result.language_probs, result.tokens, result.text) == (None, [], "")
    for name in ("avg_logprob", "no_speech_prob", "temperature", "compression_ratio"):
        assert np.isnan(getattr(result, name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.text = ""


def test_a_result_of_speech(package, demo):
    mel = package.root.pad_or_trim(package.root.log_mel_spectrogram(str(JFK)), 3000)
    result = package.root.decode(demo, mel, package.root.DecodingOptions(fp16=False))
    assert result.language == "en" and result.language_probs is None
    assert result.tokens[0] > 50363 and 50257 not in result.tokens
    assert result.text == result.text.strip() and "your country" in result.text.lower()
    assert result.temperature == 0.0 and -1 < result.avg_logprob < 0
    assert result.compression_ratio == package.utils.compression_ratio(result.text)
    assert result.audio_features.shape == (1500, 256)
    assert 0 <= result.no_speech_prob < 0.5


def test_one_window_or_a_batch(package, small, mel):
    one, batch = (
        package.root.decode(small, mel[0], options(package)),
        package.root.decode(small, mel, options(package)),
    )
    assert isinstance(batch, list) and [len(batch), one.tokens] == [2, batch[0].tokens]
    features = small.embed_audio(mel)
    assert package.root.decode(small, features, options(package))[1].tokens == batch[1].tokens
    assert package.root.decode(small, features[1], options(package)).tokens == batch[1].tokens


def test_probabilities_of_a_result(package, small, mel):
    """avg_logprob counts the end of the text; no_speech_prob is read at <|startoftranscript|>, unfiltered."""
    free = {"suppress_tokens": None, "suppress_blank": False, "without_timestamps": True, "prompt": [5]}
    result = package.root.decode(small, mel[0], options(package, **free, sample_len=1))
    decoding_task = task(package, small, **free)
    initial = torch.tensor([decoding_task.initial_tokens])
    with torch.no_grad():
        logits = small.logits(initial, small.embed_audio(mel[:1]))[0]
    best = logits[-1].log_softmax(-1).max(-1)
    assert result.tokens == [best.indices.item()]
    assert result.avg_logprob == pytest.approx(best.values.item() / 2, abs=1e-4)
    assert decoding_task.sot_index == 2
    assert result.no_speech_prob == pytest.approx(logits[2].softmax(-1)[NO_SPEECH].item(), abs=1e-6)


@pytest.mark.parametrize("given", [{}, {"beam_size": 2}, {"temperature": 0.5}])
def test_decoding_ends_with_the_context(package, small, mel, given):
    """Not before a token stands beyond it: 33 for a context of 32."""
    endless = {"suppress_tokens": "50257", "without_timestamps": True, "sample_len": 99}
    result = package.root.decode(small, mel[0], options(package, **endless, **given))
    assert len(result.tokens) == 33 - 4


def test_a_language_comes_back_as_it_was_given(package, small, mel):
    assert package.root.decode(small, mel[0], options(package, language="German")).language == "German"


def test_keywords_replace_options(package, small, mel):
    result = package.root.decode(small, mel[0], options(package), temperature=0.4, sample_len=2)
    assert result.temperature == 0.4 and len(result.tokens) <= 2
    assert (
        small.decode(mel[0], options(package), sample_len=2).tokens
        == package.root.decode(small, mel[0], options(package, sample_len=2)).tokens
    )
    with pytest.raises(TypeError):
        package.root.decode(small, mel[0], options(package), beams=5)


def test_half_precision_is_the_default_even_on_the_cpu(package, small, mel):
    result = package.root.decode(small, mel[0], options(package, fp16=True))
    assert result.audio_features.dtype == torch.float16


def test_features_of_another_dtype(package, small, mel):
    """The reference returns a TypeError in place of the features, and fails when it uses them."""
    features = small.embed_audio(mel)
    if package.is_reference:
        with pytest.raises(AttributeError):
            package.root.decode(small, features.double(), options(package))
    else:
        with pytest.raises(TypeError, match=r"audio_features has an incorrect dtype: torch.float64"):
            package.root.decode(small, features.double(), options(package))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beam_size": 2, "best_of": 2, "temperature": 0.5}, "beam_size and best_of can't be given together"),
        ({"best_of": 2}, r"best_of with greedy sampling \(T=0\) is not compatible"),
        ({"patience": 2.0}, "patience requires beam_size to be given"),
        ({"length_penalty": 1.5}, r"length_penalty \(alpha\) should be a value between 0 and 1"),
        ({"language": "Klingon"}, "Unsupported language: klingon"),
        ({"language": "yue"}, r"tuple.index\(x\): x not in tuple"),
        ({"prompt": "as <|endoftext|> says"}, "disallowed special token"),
        ({"suppress_tokens": "1,x"}, "invalid literal for int"),
    ],
)
def test_options_that_are_a_value_error(package, small, given, message):
    with pytest.raises(ValueError, match=message):
        task(package, small, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beam_size": 1, "patience": 0.4}, r"Invalid beam size \(1\) or patience \(0.4\)"),
        ({"beam_size": 0}, r"Invalid beam size \(0\) or patience \(None\)"),
        ({"suppress_tokens": (1, 2)}, "suppress_tokens must be a list"),
    ],
)
def test_options_that_are_an_assertion_error(package, small, given, message):
    with pytest.raises(AssertionError, match=message):
        task(package, small, **given)


def test_beams_of_a_batch_that_they_do_not_divide(package):
    decoder = package.decoding.BeamSearchDecoder(2, 50257, package.decoding.Inference())
    with pytest.raises(ValueError, match=r"torch.Size\(\[3, 1\]\)\[0\] % 2 != 0"):
        decoder.update(torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, 9), torch.zeros(3))


@pytest.mark.parametrize(
    ("beam_size", "patience", "most"), [(5, None, 5), (5, 0, 5), (5, 0.5, 2), (5, 0.7, 4), (3, 2.0, 6)]
)
def test_patience_is_rounded_to_even(package, beam_size, patience, most):
    decoder = package.decoding.BeamSearchDecoder(beam_size, 50257, package.decoding.Inference(), patience)
    assert decoder.max_candidates == most


def test_results_of_different_lengths(package, small, mel):
    class Short(package.decoding.MaximumLikelihoodRanker):
        def rank(self, tokens, sum_logprobs):
            return super().rank(tokens, sum_logprobs)[:1]

    decoding_task = task(package, small)
    decoding_task.sequence_ranker = Short(None)
    with pytest.raises(RuntimeError, match="inconsistent result lengths"):
        decoding_task.run(mel)


@pytest.mark.parametrize("given", [{"beam_size": 2}, {"best_of": 2, "temperature": 0.5}])
def test_groups_in_a_batch(package, small, mel, given):
    """The reference repeats the tokens of a batch, and not its features."""
    if package.is_reference:
        with pytest.raises((RuntimeError, ValueError)):
            package.root.decode(small, mel, options(package, **given))
    else:
        assert len(package.root.decode(small, mel, options(package, **given))) == 2


def test_beams_at_a_temperature(package, small, mel):
    hot = package.root.decode(small, mel[0], options(package, beam_size=2, temperature=0.7))
    cold = package.root.decode(small, mel[0], options(package, beam_size=2))
    assert (hot.tokens, hot.temperature) == (cold.tokens, 0.7)


def test_identical_beams_fall_together(package):
    """Which is how the first step, where all beams are the same, gives different ones."""

    class Order(package.decoding.Inference):
        def rearrange_kv_cache(self, source_indices):
            self.sources = source_indices

    inference = Order()
    decoder = package.decoding.BeamSearchDecoder(2, 9, inference)
    decoder.reset()
    logits = torch.arange(10.0).flip(0).repeat(2, 1)
    sums = torch.zeros(2)
    tokens, complete = decoder.update(torch.tensor([[7], [7]]), logits, sums)
    assert tokens.tolist() == [[7, 0], [7, 1]] and not complete
    assert sums[0] > sums[1]
    assert len(inference.sources) == 2


def test_finished_beams_are_topped_up_to_the_beam_size(package):
    class Nothing(package.decoding.Inference):
        def rearrange_kv_cache(self, source_indices):
            pass

    decoder = package.decoding.BeamSearchDecoder(2, 9, Nothing(), patience=3.0)
    decoder.reset()
    logits = torch.zeros(2, 10)
    logits[:, 9] = 5.0
    sums = torch.zeros(2)
    tokens, complete = decoder.update(torch.tensor([[7], [7]]), logits, sums)
    assert decoder.max_candidates == 6 and not complete
    candidates, logprobs = decoder.finalize(tokens[None], sums[None])
    assert [c.tolist()[-1] for c in candidates[0]] == [9, 9]
    assert len(candidates[0]) == 2 == len(logprobs[0])


def test_an_empty_candidate(package):
    """The reference divides by its length, 0."""
    ranker = package.decoding.MaximumLikelihoodRanker(None)
    candidates = [[torch.tensor([], dtype=torch.long), torch.tensor([1, 2])]]
    if package.is_reference:
        with pytest.raises(ZeroDivisionError):
            ranker.rank(candidates, [[-1.0, -4.0]])
    else:
        assert ranker.rank(candidates, [[-1.0, -4.0]]) == [0]


def test_ranking(package):
    two = [[torch.tensor([1]), torch.tensor([1, 2, 3, 4])]]
    rank = lambda penalty: package.decoding.MaximumLikelihoodRanker(penalty).rank(two, [[-1.0, -3.0]])  # noqa: E731
    assert rank(None) == [1]  # -1 and -0.75
    assert rank(1.0) == [0]  # -1 and -2
    assert rank(0.0) == [0]


def test_sampling_draws_from_the_global_generator(pair, mel):
    """One multinomial per step, so that a seed gives the reference's tokens."""
    import whisper

    import torchwhisper

    given = {**SAMPLING, "temperature": 0.8, "sample_len": 12}
    found = []
    for package, model in zip((whisper, torchwhisper), pair, strict=True):
        torch.manual_seed(5)
        found.append([r.tokens for r in package.decode(model, mel, package.DecodingOptions(**given))])
        found[-1].append(torch.rand(1).item())  # the generator stands where the reference leaves it
    assert found[0] == found[1]


def test_weights_that_are_no_numbers(package, small, mel):
    """The reference notices where it samples, and otherwise decodes what it likes."""
    torch.nn.init.constant_(small.decoder.ln.bias, torch.nan)
    with pytest.raises(
        ValueError, match=r"Expected parameter logits|the model cannot decode: its decoder\.ln\.bias"
    ):
        package.root.decode(small, mel, options(package, temperature=0.5))
    if package.is_reference:
        assert np.isnan(package.root.decode(small, mel, options(package))[0].avg_logprob)
    else:
        with pytest.raises(ValueError, match=r"the model cannot decode: its decoder\.ln\.bias holds"):
            package.root.decode(small, mel, options(package))


SOT, EN, TRANSCRIBE, TRANSLATE, SOT_LM, SOT_PREV, NO_SPEECH, NO_TIMESTAMPS = (
    *(50258, 50259, 50359, 50358, 50360, 50361, 50362, 50363),
)


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ({}, [SOT, EN, TRANSCRIBE]),
        ({"task": "translate", "language": "German"}, [SOT, 50261, TRANSLATE]),
        ({"without_timestamps": True}, [SOT, EN, TRANSCRIBE, NO_TIMESTAMPS]),
        ({"prompt": [5, 6]}, [SOT_PREV, 5, 6, SOT, EN, TRANSCRIBE]),
        ({"prompt": "  Ada  "}, [SOT_PREV, 32276, SOT, EN, TRANSCRIBE]),
        ({"prompt": ""}, [SOT, EN, TRANSCRIBE]),
        ({"prompt": []}, [SOT, EN, TRANSCRIBE]),
        ({"prefix": "Ada"}, [SOT, EN, TRANSCRIBE, 32276]),
        ({"prefix": [5, 6]}, [SOT, EN, TRANSCRIBE, 5, 6]),
        ({"prompt": list(range(30))}, [SOT_PREV, *range(15, 30), SOT, EN, TRANSCRIBE]),  # n_text_ctx // 2 - 1
        ({"prefix": list(range(12)), "sample_len": 10}, [SOT, EN, TRANSCRIBE, *range(6, 12)]),
        ({"prefix": list(range(12)), "sample_len": None}, [SOT, EN, TRANSCRIBE, *range(12)]),  # [-0:]
    ],
)
def test_initial_tokens(package, small, given, tokens):
    decoding_task = task(package, small, **given)
    assert list(decoding_task.initial_tokens) == tokens
    assert decoding_task.sot_index == tokens.index(SOT)
    assert decoding_task.sample_begin == len(tokens)


def test_parts_of_a_task_have_the_attributes_of_the_reference(pair):
    """Subclasses read and set them."""
    import whisper.decoding

    import torchwhisper.decoding

    for given in ({"beam_size": 2}, {"best_of": 2, "temperature": 0.5}):
        reference, ours = (
            module.DecodingTask(model, module.DecodingOptions(**SAMPLING, **given))
            for module, model in zip((whisper.decoding, torchwhisper.decoding), pair, strict=True)
        )
        assert vars(ours).keys() == vars(reference).keys()
        for name in ("inference", "sequence_ranker", "decoder", "tokenizer", "options"):
            assert vars(getattr(ours, name)).keys() == vars(getattr(reference, name)).keys(), name
        for mine, theirs in zip(ours.logit_filters, reference.logit_filters, strict=True):
            assert vars(mine).keys() == vars(theirs).keys()


def test_default_lengths(package, demo):
    decoding_task = package.decoding.DecodingTask(demo, package.decoding.DecodingOptions())
    assert (decoding_task.n_ctx, decoding_task.sample_len, decoding_task.n_group) == (448, 224, 1)


def filters(decoding_task):
    return [type(f).__name__ for f in decoding_task.logit_filters]


def test_filters_and_their_order(package, small):
    every = ["SuppressBlank", "SuppressTokens", "ApplyTimestampRules"]
    assert filters(task(package, small)) == every
    assert filters(task(package, small, suppress_blank=False)) == every[1:]
    assert filters(task(package, small, without_timestamps=True)) == every[:2]


@pytest.mark.parametrize("nothing", ["", [], None])
def test_no_tokens_to_suppress_drop_the_filter(package, small, nothing):
    assert "SuppressTokens" not in filters(task(package, small, suppress_tokens=nothing))


def test_suppressed_tokens(package, small):
    always = {TRANSCRIBE, TRANSLATE, SOT, SOT_PREV, SOT_LM, NO_SPEECH}
    decoding_task = task(package, small, suppress_tokens="-1")
    non_speech = set(decoding_task.tokenizer.non_speech_tokens)
    assert set(decoding_task.logit_filters[1].suppress_tokens) == always | non_speech
    assert set(task(package, small, suppress_tokens=[7]).logit_filters[1].suppress_tokens) == always | {7}
    both = set(task(package, small, suppress_tokens="-1,7").logit_filters[1].suppress_tokens)
    assert both == always | non_speech | {7}


def test_the_callers_list(package, small):
    """The reference appends to it."""
    given = [7]
    task(package, small, suppress_tokens=given)
    assert (given == [7]) != package.is_reference


def first_step(package, small, **given):
    decoding_task = task(package, small, **given)
    tokens = torch.tensor([decoding_task.initial_tokens])
    logits = torch.zeros(1, SMALL["n_vocab"])
    for logit_filter in decoding_task.logit_filters:
        logit_filter.apply(logits, tokens)
    return set((logits[0] > -torch.inf).nonzero()[:, 0].tolist())


def test_the_first_token(package, small):
    begin = NO_TIMESTAMPS + 1
    per_second = SMALL["n_audio_ctx"] / 30
    latest = round(1.0 * per_second)
    assert first_step(package, small) == set(range(begin, begin + latest + 1))
    assert first_step(package, small, max_initial_timestamp=3.0) == set(
        range(begin, begin + round(3 * per_second) + 1)
    )
    for nothing in (0, None):
        free = first_step(package, small, max_initial_timestamp=nothing)
        assert free == set(range(begin, SMALL["n_vocab"]))
    text = first_step(package, small, without_timestamps=True)
    assert 50257 not in text and 220 not in text and 400 in text


def test_timestamp_rules(package, demo):
    tokenizer = package.tokenizer.get_tokenizer(True)
    rules = package.decoding.ApplyTimestampRules(tokenizer, 0, None)
    begin, eot = tokenizer.timestamp_begin, tokenizer.eot

    def allowed(*sampled):
        logits = torch.zeros(1, 51865)
        logits[:, 400] = 100.0  # text is more probable than all timestamps together
        rules.apply(logits, torch.tensor([sampled]))
        return set((logits[0] > -torch.inf).nonzero()[:, 0].tolist())

    assert allowed(begin + 5) == set(range(eot)) | set(range(eot, begin)) - {
        NO_TIMESTAMPS
    }  # text after an opening one
    after_text = allowed(begin + 5, 400)
    assert min(t for t in after_text if t >= begin) == begin + 6  # no segment without length
    closing = allowed(begin + 5, 400, begin + 9)
    assert not closing & set(range(eot))
    assert min(t for t in closing if t >= begin) == begin + 9
    pair = allowed(begin + 5, 400, begin + 9, begin + 9)
    assert not pair & set(range(begin, 51865)) and 400 in pair


def test_timestamps_win_together(package):
    tokenizer = package.tokenizer.get_tokenizer(True)
    rules = package.decoding.ApplyTimestampRules(tokenizer, 0, None)
    for boost, timestamps in ((7.0, True), (8.0, False)):  # 1501 equal timestamps weigh log(1501) = 7.3
        logits = torch.zeros(1, 51865)
        logits[:, 400] = boost
        rules.apply(logits, torch.tensor([[tokenizer.timestamp_begin, 400]]))
        assert (logits[0, 400] == -torch.inf) == timestamps


class TestDetectLanguage:
    def test_of_a_batch(self, package, small, mel):
        tokens, probs = package.root.detect_language(small, mel)
        assert tokens.shape == (2,) and [len(p) for p in probs] == [99, 99]
        for token, p in zip(tokens.tolist(), probs, strict=True):
            best = max(p, key=p.get)
            assert package.tokenizer.get_tokenizer(True).to_language_token(best) == token
            assert sum(p.values()) == pytest.approx(1, abs=1e-4)

    def test_of_one_window(self, package, small, mel):
        token, probs = package.root.detect_language(small, mel[0])
        assert token.ndim == 0 and isinstance(probs, dict)
        features = small.embed_audio(mel)
        again, _ = package.root.detect_language(small, features[0])
        assert again == token == small.detect_language(mel)[0][0]

    def test_of_an_english_model(self, package, english, mel):
        message = "This model doesn't have language tokens so it can't perform lang id"
        with pytest.raises(ValueError, match=message):
            package.root.detect_language(english, mel)
        with pytest.raises(ValueError, match=message):
            package.root.decode(english, mel, package.root.DecodingOptions(fp16=False))

    def test_with_a_tokenizer(self, package, small, mel):
        get = package.tokenizer.get_tokenizer
        _, (probs, _) = package.root.detect_language(small, mel, get(True, num_languages=99))
        assert len(probs) == 99
        with pytest.raises(ValueError, match="This model doesn't have language tokens"):
            package.root.detect_language(small, mel, get(False))

    def test_in_a_batch_each_window_has_its_own(self, package, small, mel):
        decoding_task = task(package, small, language=None)
        results = decoding_task.run(mel)
        _, probs = package.root.detect_language(small, mel)
        assert [r.language for r in results] == [max(p, key=p.get) for p in probs]
        assert decoding_task.tokenizer.language == "en"

    def test_as_the_task(self, package, small, mel):
        results = package.root.decode(small, mel, options(package, task="lang_id", language=None))
        assert [r.tokens for r in results] == [[], []]
        assert all(max(r.language_probs, key=r.language_probs.get) == r.language for r in results)


def test_other_tasks_are_translations(package):
    tokenizer = package.tokenizer.get_tokenizer(True, language="en", task="lang_id")
    assert tokenizer.sot_sequence == (SOT, EN, TRANSLATE)


def test_tokenizers_are_shared(package):
    get = package.tokenizer.get_tokenizer
    assert get(True, language="de") is get(True, language="de")
    assert package.tokenizer.get_encoding("gpt2") is package.tokenizer.get_encoding("gpt2")


def test_an_unknown_language_token(package):
    tokenizer = package.tokenizer.get_tokenizer(True, num_languages=99)
    with pytest.raises(KeyError, match=r"Language yue not found in tokenizer."):
        tokenizer.to_language_token("yue")
