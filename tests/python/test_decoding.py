"""decode() and its parts: against the reference where it can answer, and what it cannot."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import whisper.decoding as theirs
from conftest import SMALL, make_pair
from hypothesis import given, settings
from hypothesis import strategies as st

import torchwhisper.decoding as ours
from torchwhisper import _engine
from torchwhisper.tokenizer import get_tokenizer

DECODE = {"language": "en", "fp16": False, "sample_len": 8}

token_ids = st.integers(0, 50000)
texts = st.text("abc äß?!\n ", max_size=12)

option_sets = st.fixed_dictionaries(
    {
        "task": st.sampled_from(["transcribe", "translate", "lang_id"]),
        "language": st.sampled_from([None, "en", "de", "German", "yue"]),
        "temperature": st.sampled_from([0.0, 0.5]),
        "sample_len": st.sampled_from([None, 0, 3, 8, 16, 20]),
        "best_of": st.sampled_from([None, None, 1, 3]),
        "beam_size": st.sampled_from([None, None, 1, 3, 0]),
        "patience": st.sampled_from([None, None, 0.5, 2.0]),
        "length_penalty": st.sampled_from([None, 0.0, 0.7, 1.0, -0.1, 1.1]),
        "prompt": st.none() | texts | st.lists(token_ids, max_size=14),
        "prefix": st.none() | texts | st.lists(token_ids, max_size=8),
        "suppress_tokens": st.none()
        | st.sampled_from(["-1", "", "1,2", "-1,7", (-1, 3), (1, 2), [], "x"])
        | st.lists(token_ids, max_size=4),
        "suppress_blank": st.booleans(),
        "without_timestamps": st.booleans(),
        "max_initial_timestamp": st.sampled_from([None, 0.0, 1.0, 2.5]),
    }
)


@pytest.fixture(scope="module")
def kept_pair():
    return make_pair(SMALL)


def attempt(call: Any) -> Any:
    try:
        return call()
    except Exception as error:
        return error


@settings(max_examples=150, deadline=None)
@given(options=option_sets)
def test_a_task_is_set_up_as_the_reference_does(kept_pair, options):
    """The same initial tokens, filters and search, or the same error."""
    reference, model = kept_pair
    wanted = attempt(lambda: theirs.DecodingTask(reference, theirs.DecodingOptions(**options)))
    got = attempt(lambda: ours.DecodingTask(model, ours.DecodingOptions(**options)))
    if isinstance(wanted, Exception):
        assert (type(got), str(got)) == (type(wanted), str(wanted))
        return
    assert not isinstance(got, Exception), got
    for name in ("n_group", "n_ctx", "sample_len", "sample_begin", "sot_index"):
        assert getattr(got, name) == getattr(wanted, name), name
    assert got.initial_tokens == wanted.initial_tokens
    for part, their_part in zip(
        (got.decoder, got.sequence_ranker, *got.logit_filters),
        (wanted.decoder, wanted.sequence_ranker, *wanted.logit_filters),
        strict=True,
    ):
        assert type(part).__name__ == type(their_part).__name__
        assert numbers(part) == numbers(their_part)


def numbers(part: Any) -> dict[str, Any]:
    return {k: v for k, v in vars(part).items() if not hasattr(v, "__dict__")}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_timestamp_rules_mask_what_the_reference_masks(data):
    tokenizer = get_tokenizer(True)
    begin, eot = tokenizer.timestamp_begin, tokenizer.eot
    sampled = st.one_of(st.integers(begin, begin + 1500), st.integers(0, eot), st.integers(begin, begin + 3))
    length = data.draw(st.integers(0, 5))
    rows = data.draw(st.lists(st.lists(sampled, min_size=length, max_size=length), min_size=1, max_size=3))
    tokens = torch.tensor([[tokenizer.sot, *row] for row in rows])
    seed = data.draw(st.integers(0, 1000))
    latest = data.draw(st.sampled_from([None, 0, 50]))
    logits = 4 * torch.randn(len(rows), 51865, generator=torch.Generator().manual_seed(seed))
    wanted = logits.clone()
    theirs.ApplyTimestampRules(tokenizer, 1, latest).apply(wanted, tokens)
    ours.ApplyTimestampRules(tokenizer, 1, latest).apply(logits, tokens)
    assert torch.equal(logits, wanted)


class _NoCache:
    def __init__(self) -> None:
        self.sources: list[Any] = []

    def rearrange_kv_cache(self, sources: Any) -> None:
        self.sources.append(list(sources))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    beam_size=st.integers(1, 4),
    n_audio=st.integers(1, 3),
    patience=st.sampled_from([None, 0.7, 2.0]),
    spread=st.sampled_from([0.5, 4.0]),
)
def test_beam_search_goes_as_the_reference_goes(seed, beam_size, n_audio, patience, spread):
    eot, n_vocab = 7, 12
    inferences = _NoCache(), _NoCache()
    decoders = [
        module.BeamSearchDecoder(beam_size, eot, inference, patience)
        for module, inference in zip((theirs, ours), inferences, strict=True)
    ]
    generator = torch.Generator().manual_seed(seed)
    tokens = [torch.full((n_audio * beam_size, 1), 3)] * 2
    sums = [torch.zeros(n_audio * beam_size) for _ in decoders]
    for _ in range(6):
        logits = spread * torch.randn(n_audio * beam_size, n_vocab, generator=generator)
        steps = [d.update(t, logits, s) for d, t, s in zip(decoders, tokens, sums, strict=True)]
        tokens = [step[0] for step in steps]
        assert torch.equal(*tokens) and torch.equal(*sums) and steps[0][1] == steps[1][1]
        if steps[0][1]:
            break
    assert inferences[0].sources == inferences[1].sources
    shaped = [
        (t.view(n_audio, beam_size, -1), s.view(n_audio, beam_size))
        for t, s in zip(tokens, sums, strict=True)
    ]
    ends = [d.finalize(*given) for d, given in zip(decoders, shaped, strict=True)]
    for theirs_, ours_ in zip(ends[0][0], ends[1][0], strict=True):
        assert [t.tolist() for t in theirs_] == [t.tolist() for t in ours_]
    assert ends[0][1] == ends[1][1]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_greedy_steps_are_the_references(temperature):
    decoders = [module.GreedyDecoder(temperature, 7) for module in (theirs, ours)]
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    results = []
    for decoder in decoders:
        torch.manual_seed(5)
        sums = torch.zeros(3)
        tokens, complete = decoder.update(torch.tensor([[1], [7], [2]]), logits.clone(), sums)
        results.append(
            (tokens.tolist(), bool(complete), sums.tolist(), decoder.finalize(tokens[:, None], sums[:, None]))
        )
    assert results[0][:3] == results[1][:3]
    assert torch.equal(results[0][3][0], results[1][3][0])
    assert results[0][0][1] == [7, 7]


@pytest.mark.parametrize("length_penalty", [None, 0.0, 0.6])
def test_ranking(length_penalty):
    tokens = [[torch.zeros(n) for n in (1, 5, 3)], [torch.zeros(n) for n in (4, 4, 4)]]
    logprobs = [[-1.0, -2.5, -2.4], [-3.0, -3.0, -2.9]]
    wanted = theirs.MaximumLikelihoodRanker(length_penalty).rank(tokens, logprobs)
    assert ours.MaximumLikelihoodRanker(length_penalty).rank(tokens, logprobs) == wanted


def test_an_empty_candidate_can_be_ranked():
    tokens, logprobs = [[torch.zeros(0), torch.zeros(2)]], [[-1.0, -4.0]]
    with pytest.raises(ZeroDivisionError):
        theirs.MaximumLikelihoodRanker(None).rank(tokens, logprobs)
    assert ours.MaximumLikelihoodRanker(None).rank(tokens, logprobs) == [0]


def results(lane_model: Any, mel: torch.Tensor, **options: Any) -> Any:
    torch.manual_seed(0)
    return ours.decode(lane_model, mel, **{**DECODE, **options})


def test_results_are_the_references(pair, lane, mel):
    reference, model = pair
    for options in (
        {},
        {"language": None},
        {"beam_size": 3},
        {"task": "translate", "without_timestamps": True},
    ):
        for i, got in enumerate(results(model, mel, **options)):
            wanted = theirs.decode(reference, mel[i], theirs.DecodingOptions(**{**DECODE, **options}))
            assert [f.name for f in dataclasses.fields(got)] == [f.name for f in dataclasses.fields(wanted)]
            assert (got.tokens, got.text, got.language) == (wanted.tokens, wanted.text, wanted.language)
            assert (got.audio_features - wanted.audio_features).abs().max() < 1e-5
            for name in ("avg_logprob", "no_speech_prob", "temperature", "compression_ratio"):
                assert getattr(got, name) == pytest.approx(getattr(wanted, name), abs=1e-5)


def test_one_window_gives_one_result(model, lane, mel):
    single = results(model, mel[0])
    assert isinstance(single, ours.DecodingResult)
    assert single.tokens == results(model, mel)[0].tokens


def test_features_may_be_given(model, lane, mel):
    features = model.embed_audio(mel).detach()
    assert [r.tokens for r in results(model, features)] == [r.tokens for r in results(model, mel)]
    assert results(model, features[0]).tokens == results(model, mel[0]).tokens


@pytest.mark.parametrize("options", [{"beam_size": 3}, {"temperature": 0.5, "best_of": 2}])
def test_groups_in_a_batch_which_the_reference_cannot(pair, lane, mel, options):
    reference, model = pair
    with pytest.raises(RuntimeError):
        theirs.decode(reference, mel, theirs.DecodingOptions(**{**DECODE, **options}))
    got = results(model, mel, **options)
    assert len(got) == 2
    if "beam_size" in options:
        assert [r.tokens for r in got] == [results(model, window, **options).tokens for window in mel]


def test_sampling_is_reproducible(model, lane, mel):
    options = {"temperature": 0.9, "best_of": 3}
    assert results(model, mel, **options)[1].tokens == results(model, mel, **options)[1].tokens


def test_no_windows_give_no_results(model, lane, mel):
    assert results(model, mel[:0]) == []


def test_lang_id(pair, lane, mel):
    reference, model = pair
    for language in (None, "de"):
        options = {"task": "lang_id", "language": language, "fp16": False}
        got = ours.decode(model, mel, **options)
        wanted = theirs.decode(reference, mel, theirs.DecodingOptions(**options))
        for a, b in zip(got, wanted, strict=True):
            assert a.language == b.language and a.text == "" and np.isnan(a.avg_logprob)
            assert a.language_probs == pytest.approx(b.language_probs, abs=1e-6)


def test_detect_language(pair, lane, mel):
    reference, model = pair
    tokens, probs = ours.detect_language(model, mel)
    wanted_tokens, wanted = theirs.detect_language(reference, mel)
    assert torch.equal(tokens, wanted_tokens)
    assert probs[1] == pytest.approx(wanted[1], abs=1e-6)
    token, prob = model.detect_language(mel[1])
    assert token.ndim == 0 and token == tokens[1] and prob == pytest.approx(probs[1], abs=1e-6)


def test_detect_language_needs_language_tokens(lane, mel):
    model = make_pair({**SMALL, "n_vocab": 51864})[1]
    for call in (lambda: model.detect_language(mel), lambda: model.decode(mel, fp16=False)):
        with pytest.raises(ValueError, match="This model doesn't have language tokens"):
            call()


def test_fp16_on_cpu(pair, lane, mel):
    reference, model = pair
    wanted = theirs.decode(reference, mel, theirs.DecodingOptions(language="en", sample_len=4))
    got = ours.decode(model, mel, language="en", sample_len=4)
    for a, b in zip(got, wanted, strict=True):
        assert a.audio_features.dtype == torch.float16
        assert a.avg_logprob == pytest.approx(b.avg_logprob, abs=0.05)


def test_features_of_another_dtype_are_refused(pair, lane, mel):
    reference, model = pair
    features = reference.encoder(mel).detach().double()
    with pytest.raises(AttributeError):  # it returns its TypeError
        theirs.decode(reference, features, theirs.DecodingOptions(**DECODE))
    with pytest.raises(TypeError, match=r"audio_features has an incorrect dtype: torch\.float64"):
        results(model, features)


def test_a_prefix_beyond_the_context(pair, lane, mel):
    reference, model = pair
    prefix = list(range(100, 150))
    with pytest.raises(RuntimeError):
        theirs.decode(reference, mel[0], theirs.DecodingOptions(language="en", fp16=False, prefix=prefix))
    for prompt in (None, list(range(40))):
        task = ours.DecodingTask(model, ours.DecodingOptions(language="en", prefix=prefix, prompt=prompt))
        assert len(task.initial_tokens) == SMALL["n_text_ctx"] and task.initial_tokens[-1] == 149
        assert (
            ours.decode(model, mel[0], language="en", fp16=False, prefix=prefix, prompt=prompt).tokens
            is not None
        )


def test_a_negative_sample_len(model, lane, mel):
    with pytest.raises(ValueError, match="sample_len is -1"):
        results(model, mel, sample_len=-1)


def test_an_unknown_option(model, mel):
    with pytest.raises(TypeError, match="no_such_option"):
        ours.decode(model, mel, no_such_option=1)


def test_suppressed_tokens_beyond_the_vocabulary(pair, lane, mel):
    reference, model = pair
    with pytest.raises(IndexError):
        theirs.decode(reference, mel[0], theirs.DecodingOptions(**DECODE, suppress_tokens=[60000]))
    with pytest.raises(IndexError):
        results(model, mel, suppress_tokens=[60000])


@pytest.mark.parametrize("token", [51865, -1])
def test_a_prompt_with_ids_beyond_the_vocabulary(pair, lane, mel, token):
    reference, model = pair
    with pytest.raises(IndexError):
        theirs.decode(reference, mel[0], theirs.DecodingOptions(**DECODE, prompt=[token]))
    with pytest.raises(IndexError):
        results(model, mel, prompt=[token])


def test_the_callers_list_stays_as_it_was(model):
    mine = [1, 2]
    ours.DecodingTask(model, ours.DecodingOptions(language="en", suppress_tokens=mine))
    assert mine == [1, 2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["encoder.conv1.bias", "decoder.blocks.1.mlp.0.weight", "decoder.ln.bias"])
@pytest.mark.parametrize("options", [{}, {"beam_size": 2}, {"temperature": 0.5, "best_of": 2}], ids=str)
def test_weights_that_are_no_numbers(model, lane, mel, name, bad, options):
    with torch.no_grad():
        model.get_parameter(name).view(-1)[1] = bad
    with pytest.raises(ValueError, match=f"the model cannot decode: its {name} holds NaN or infinity"):
        results(model, mel, **options)


def test_features_that_are_no_numbers(model, lane, mel):
    mel[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"the audio features hold NaN or infinity: so does the log-mel$"):
        results(model, mel)
    features = model.encoder(mel).detach().half()
    with pytest.raises(ValueError, match=r"float16 is too narrow for this model: try fp16=False"):
        results(model, features, fp16=True)


def test_nothing_but_forbidden_tokens_is_nobody_s_fault(pair, lane, mel):
    everything = {**DECODE, "suppress_tokens": list(range(51865)), "sample_len": 2}
    wanted = theirs.decode(pair[0], mel[0], theirs.DecodingOptions(**everything))
    got = ours.decode(pair[1], mel[0], ours.DecodingOptions(**everything))
    assert np.isnan(wanted.avg_logprob) and np.isnan(got.avg_logprob)


def test_an_empty_best_candidate(model, lane, mel):
    """The reference divides by its length."""
    task = ours.DecodingTask(
        model,
        ours.DecodingOptions(
            **DECODE, suppress_tokens=list(range(50257)), suppress_blank=False, without_timestamps=True
        ),
    )
    task.logit_filters[0] = ours.SuppressTokens([t for t in range(51865) if t != task.tokenizer.eot])
    result = task.run(mel)[0]
    assert result.tokens == [] and result.text == ""


class Forbid(ours.LogitFilter):
    def __init__(self, token: int) -> None:
        self.token = token

    def apply(self, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        logits[:, self.token] = -np.inf


def test_a_filter_of_ones_own(model, mel):
    wanted = results(model, mel[0]).tokens
    task = ours.DecodingTask(model, ours.DecodingOptions(**DECODE))
    task.logit_filters.append(Forbid(wanted[1]))
    with _engine.require(), pytest.raises(RuntimeError, match="Forbid is not a stock part"):
        task.run(mel[:1])
    assert wanted[1] not in task.run(mel[:1])[0].tokens


def _subclassed(task):
    class Mine(ours.GreedyDecoder):
        pass

    task.decoder.__class__ = Mine


def _patched_method(task):
    task.decoder.update = task.decoder.update


def _own_main_loop(task):
    task._main_loop = task._main_loop


def _other_inference(task):
    task.inference = ours.PyTorchInference(task.model, task.sample_begin + 1)


def _filters_reversed(task):
    task.logit_filters.reverse()


def _cache_in_use(task):
    task.inference.kv_cache = {task.model.decoder.ln: torch.zeros(1)}


def _other_tokens(task):
    task.initial_tokens = task.initial_tokens[:-1]


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("PyTorchInference", "logits", {}),
        ("MaximumLikelihoodRanker", "rank", {}),
        ("GreedyDecoder", "update", {}),
        ("BeamSearchDecoder", "update", {"beam_size": 2}),
        ("SuppressTokens", "apply", {}),
        ("ApplyTimestampRules", "apply", {}),
        ("DecodingTask", "_main_loop", {}),
    ],
)
def test_a_class_under_a_name_of_ours_is_used(pair, mel, monkeypatch, name, method, options):
    """Programs replace a class of the module by a subclass."""
    counts = []
    made = ours.DecodingTask(pair[1], ours.DecodingOptions(**DECODE, **options))
    for module, model in zip((theirs, ours), pair, strict=True):
        stock, calls = getattr(module, name), []

        def call(self, *args, stock=stock, calls=calls):
            calls.append(1)
            return getattr(stock, method)(self, *args)

        monkeypatch.setattr(module, name, type(name, (stock,), {method: call}))
        found = module.decode(model, mel[0], module.DecodingOptions(**DECODE, **options))
        counts.append((len(calls), found.tokens))
    assert counts[0] == counts[1] and counts[0][0] > 0
    with _engine.require():
        assert made.run(mel[:1])[0].tokens == counts[0][1]  # its parts are those from before


@pytest.mark.parametrize(
    "change",
    [
        _subclassed,
        _patched_method,
        _own_main_loop,
        _other_inference,
        _filters_reversed,
        _cache_in_use,
        _other_tokens,
    ],
)
def test_a_changed_task_is_not_stock(model, mel, change):
    task = ours.DecodingTask(model, ours.DecodingOptions(**DECODE))
    assert ours._why_not_stock(task) is None
    change(task)
    with _engine.require(), pytest.raises(RuntimeError, match="engine is required"):
        task.run(mel)


@pytest.mark.parametrize(("cls", "name"), [(ours.GreedyDecoder, "update"), (ours.DecodingTask, "_main_loop")])
def test_a_patched_part_is_honoured(model, mel, monkeypatch, cls, name):
    original, calls = getattr(cls, name), []

    def patched(self, *args):
        calls.append(args)
        return original(self, *args)

    monkeypatch.setattr(cls, name, patched)
    results(model, mel)
    assert calls
    with _engine.require(), pytest.raises(RuntimeError, match="patched"):
        results(model, mel)


def test_changed_numbers_are_honoured_by_both(model, mel):
    """Whoever sets another temperature or other tokens on a stock part keeps the engine."""

    def run(switch):
        task = ours.DecodingTask(model, ours.DecodingOptions(**DECODE))
        task.decoder.temperature = 0.7
        task.logit_filters[1].suppress_tokens = list(range(0, 50000, 2))
        torch.manual_seed(3)
        with switch():
            return [r.tokens for r in task.run(mel)]

    got = run(_engine.require)
    assert got == run(_engine.disable)
    assert all(t % 2 or t > 50000 for tokens in got for t in tokens)


def test_public_names():
    missing = {n for n in vars(theirs) if not n.startswith("_")} - set(vars(ours))
    assert missing <= {"Dict", "List", "Optional", "Tuple", "Union"}


def test_options_and_results_are_the_references():
    for name in ("DecodingOptions", "DecodingResult"):
        fields = [
            [(f.name, repr(f.default)) for f in dataclasses.fields(getattr(m, name))] for m in (ours, theirs)
        ]
        assert fields[0] == fields[1]
        assert getattr(ours, name).__dataclass_params__.frozen
