"""Error rates."""

import jiwer
import pytest
import torch
from corpus import DIMS, small_model, write_manifest

from torchwhisper import _engine
from torchwhisper.decoding import DecodingOptions, decode
from torchwhisper.model import ModelDimensions
from torchwhisper.training import (
    Dataset,
    Ranks,
    Utterance,
    check_audio,
    evaluate,
    read_manifest,
    score,
)
from torchwhisper.training.evaluate import transcripts


def said(text, language="en", task="transcribe"):
    return Utterance(audio="", text=text, language=language, task=task)


def test_rates_as_written_and_normalized():
    scores = score([(said("Hello, World!"), " hello world"), (said("It's ten"), "it is 10")])
    assert scores.wer == jiwer.wer(["Hello, World!", "It's ten"], ["hello world", "it is 10"]) > 0.5
    assert scores.cer > 0
    assert scores.wer_normalized == scores.cer_normalized == 0
    assert scores.n_utterances == 2


def test_each_language_has_its_normalizer():
    assert score([(said("Zehn Äpfel.", "de"), "zehn äpfel")]).wer_normalized == 0
    assert score([(said("it's", "de"), "it is")]).wer_normalized > 0
    assert score([(said("it's", "de", "translate"), "it is")]).wer_normalized == 0


def test_silence_and_nothing():
    assert score([(said(""), "words")]).wer == 0
    assert score([]).n_utterances == 0


@pytest.fixture
def dataset(tmp_path):
    utterances = read_manifest(write_manifest(tmp_path))
    return Dataset(utterances, check_audio(utterances, 1.2), ModelDimensions(**DIMS))


def test_transcripts_are_those_of_decode(dataset):
    model = small_model()
    options = DecodingOptions(language="en", without_timestamps=True, fp16=False)
    expected = [decode(model, dataset.mel(utterance), options).text for utterance in dataset.utterances]
    with _engine.require():
        assert transcripts(model, dataset, dataset.utterances, batch_size=3) == expected


def test_evaluation_uses_the_weights_of_the_moment(dataset):
    model, other = small_model(), small_model(seed=1)
    ranks = Ranks(device="cpu")
    with _engine.require():
        evaluate(model, dataset, ranks, 4)
        with torch.no_grad():
            for parameter, changed in zip(model.parameters(), other.parameters(), strict=True):
                parameter.data.copy_(changed)
        assert model.training
        assert evaluate(model, dataset, ranks, 4) == evaluate(other, dataset, ranks, 4)
        assert model.training
