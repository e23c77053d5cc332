"""A model whose answers are written down beforehand, for tests of the loop over the windows."""

import contextlib
import dataclasses
from types import SimpleNamespace

import torch

TIMESTAMP = 50364  # <|0.00|>
DIMS = SimpleNamespace(n_mels=2, n_audio_ctx=1500, n_text_ctx=448, n_audio_state=8)


@dataclasses.dataclass
class Answer:
    """What one call of `decode` gives."""

    tokens: list
    avg_logprob: float = -0.3
    no_speech_prob: float = 0.1
    compression_ratio: float = 1.5
    temperature: float = 0.0


PLAIN = Answer([400, 401, 402])


class ScriptedModel:
    device = torch.device("cpu")
    dims = DIMS

    def __init__(self, answers, multilingual=True):
        self.answers = iter(answers)
        self.is_multilingual = multilingual
        self.num_languages = 99
        self.calls = []

    def decode(self, mel, options):
        window = (tuple(mel.shape), mel.dtype, mel[:, 0].tolist(), mel.double().sum().item())
        self.calls.append((window, dataclasses.asdict(options)))
        answer = next(self.answers, PLAIN)
        return dataclasses.replace(answer, temperature=options.temperature)

    def detect_language(self, mel):
        self.calls.append((tuple(mel.shape), mel[:, -1].tolist(), mel.double().sum().item()))
        return None, {"en": 0.2, "de": 0.7, "fr": 0.1}


class ScriptedWords:
    """Stands in for add_word_timestamps. `plans`: per segment a list of (gap, length, probability, word)."""

    def __init__(self, plans):
        self.plans = iter(plans)
        self.calls = []

    def __call__(self, *, segments, model, tokenizer, mel, num_frames, last_speech_timestamp, **punctuations):
        texts = [segment["text"] for segment in segments]
        self.calls.append((texts, tuple(mel.shape), num_frames, last_speech_timestamp, punctuations))
        time = segments[0]["seek"] / 100
        for segment in segments:
            segment["words"] = words = []
            for gap, length, probability, word in next(self.plans, []):
                start = round(time + gap / 100, 2)
                time = round(start + length / 100, 2)
                words.append({"word": word, "start": start, "end": time, "probability": probability})
            if words:
                segment["start"], segment["end"] = words[0]["start"], words[-1]["end"]


def scripted_tqdm():
    """A stand-in for the module tqdm that notes how it is used."""
    log = []

    class Bar(contextlib.AbstractContextManager):
        def __init__(self, **kwargs):
            log.append(kwargs)

        def update(self, frames):
            log.append(frames)

        def __exit__(self, *_):
            log.append("closed")

    return SimpleNamespace(tqdm=Bar, log=log)
