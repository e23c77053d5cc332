"""Windows as tensors."""

import dataclasses
import threading
import time

import numpy as np
import pytest
import torch
from corpus import DIMS, write_manifest

from torchwhisper.audio import load_audio, log_mel_spectrogram, pad_or_trim
from torchwhisper.model import ModelDimensions
from torchwhisper.tokenizer import get_tokenizer
from torchwhisper.training import (
    IGNORED,
    DataOptions,
    Dataset,
    ManifestError,
    PackOptions,
    SpecAugment,
    check_audio,
    read_manifest,
)
from torchwhisper.training.batches import prefetched
from torchwhisper.training.pack import Window

N_SAMPLES = 60 * 320


@pytest.fixture
def utterances(tmp_path):
    return read_manifest(write_manifest(tmp_path))


def make(utterances, **options):
    return Dataset(utterances, check_audio(utterances, 1.2), ModelDimensions(**DIMS), DataOptions(**options))


def test_a_batch_of_single_utterances(utterances):
    dataset = make(utterances)
    windows = [Window((i,), (0.0,)) for i in (0, 3)]
    batch = dataset.batch(windows, [(0, 0), (0, 1)])
    tokenizer = get_tokenizer(True, language="en", task="transcribe")
    for row, i in enumerate((0, 3)):
        own = batch.targets[row] != IGNORED
        text = tokenizer.encode(" " + utterances[i].text)
        assert batch.targets[row][own].tolist()[3:] == [*text, tokenizer.eot]
        assert batch.tokens[row][: own.sum()].tolist()[4:] == text
        expected = log_mel_spectrogram(pad_or_trim(load_audio(utterances[i].audio), N_SAMPLES))
        assert torch.equal(batch.mel[row], expected)
    assert (batch.targets[0] == IGNORED).sum() == batch.tokens.shape[1] - 5


def test_a_packed_window(utterances):
    dataset = make(utterances, pack=PackOptions(0))
    mel, labels = dataset.example(Window((0, 1), (0.0, 0.5)), (0, 0))
    samples = np.zeros(N_SAMPLES, np.float32)
    for i, start in ((0, 0), (1, 8000)):
        own = load_audio(utterances[i].audio)
        samples[start : start + len(own)] = own
    assert torch.equal(mel, log_mel_spectrogram(samples))
    tokenizer = dataset.tokenizer(utterances[0])
    assert tokenizer.decode(labels.tokens[4:]) == f" {utterances[0].text} {utterances[1].text}"


def test_packed_timestamps_are_shifted(utterances):
    timed = [
        dataclasses.replace(u, segments=((0.0, 0.1, u.text),), previous="before") for u in utterances[:2]
    ]
    dataset = make(timed, timestamps=1.0, prompts=1.0)
    _, labels = dataset.example(Window((0, 1), (0.0, 0.5)), (0, 0))
    tokenizer = dataset.tokenizer(timed[0])
    assert tokenizer.decode_with_timestamps(labels.tokens) == (
        "<|startofprev|> before<|startoftranscript|><|en|><|transcribe|>"
        "<|0.00|> one<|0.10|><|0.50|> two three<|0.60|>"
    )
    _, untimed = make([timed[0], utterances[1]], timestamps=1.0).example(Window((0, 1), (0.0, 0.5)), (0, 0))
    assert tokenizer.no_timestamps in untimed.tokens


def test_probabilities(utterances):
    timed = [dataclasses.replace(u, segments=((0.0, 0.1, u.text),), previous="so") for u in utterances]
    dataset = make(timed, timestamps=0.3, prompts=0.6)
    tokenizer = dataset.tokenizer(timed[0])
    drawn = [dataset.example(Window((0,), (0.0,)), (0, i))[1].tokens for i in range(200)]
    share_timed = sum(tokenizer.no_timestamps not in tokens for tokens in drawn) / 200
    share_prompted = sum(tokenizer.sot_prev in tokens for tokens in drawn) / 200
    assert share_timed == pytest.approx(0.3, abs=0.1)
    assert share_prompted == pytest.approx(0.6, abs=0.1)


def test_draws_depend_on_the_place_alone(utterances):
    dataset = make(utterances, spec_augment=SpecAugment())
    window = Window((0,), (0.0,))
    first, again, other = (dataset.example(window, seed)[0] for seed in ((1, 5), (1, 5), (1, 6)))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_no_windows_make_a_batch_that_counts_for_nothing(utterances):
    batch = make(utterances).batch([], [])
    assert batch.mel.shape == (1, 80, 120)
    assert (batch.targets == IGNORED).all()


def test_labels_that_are_too_long_are_named(utterances):
    long = dataclasses.replace(utterances[1], text="word " * 30)
    with pytest.raises(ManifestError, match=r"line 2: the label has 34 tokens, the model takes at most 32"):
        make([utterances[0], long])


def test_a_multilingual_model_needs_a_language(utterances):
    with pytest.raises(ManifestError, match="line 1: no language"):
        make([dataclasses.replace(utterances[0], language=None)])


@pytest.mark.parametrize(
    ("n_vocab", "given", "said"),
    [
        (51865, {"language": "yue"}, "line 2: language is 'yue', the model knows 99 others"),
        (51864, {"language": "de"}, "line 2: language is 'de', the model knows English only"),
        (51864, {"task": "translate"}, "line 2: task is 'translate', the model knows English only"),
    ],
)
def test_what_the_model_does_not_know_is_named(utterances, n_vocab, given, said):
    dims = ModelDimensions(**DIMS | {"n_vocab": n_vocab})
    changed = [utterances[0], dataclasses.replace(utterances[1], **given)]
    with pytest.raises(ManifestError, match=said):
        Dataset(changed, [0.5, 0.5], dims)


def test_previous_texts_are_looked_at_before_the_training(utterances):
    with pytest.raises(ManifestError, match="line 1: the text has the special token"):
        make([dataclasses.replace(utterances[0], previous="<|endoftext|>")], prompts=0.5)


def test_prefetched_keeps_the_order_and_its_distance():
    started, lock = [], threading.Lock()

    def job(i):
        with lock:
            started.append(i)
        time.sleep(0.002 * (i % 3))
        return i

    taken = []
    for result in prefetched(((lambda i=i: job(i)) for i in range(20)), workers=3, ahead=4):
        taken.append(result)
        assert len(started) <= len(taken) + 4
    assert taken == list(range(20))


def test_prefetched_tells_an_error_in_its_place():
    def job(i):
        if i == 2:
            raise OSError("gone")
        return i

    taken = []
    with pytest.raises(OSError, match="gone"):
        for result in prefetched(((lambda i=i: job(i)) for i in range(5)), workers=2, ahead=3):
            taken.append(result)
    assert taken == [0, 1]
