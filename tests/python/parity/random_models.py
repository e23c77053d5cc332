"""Models of the official dimensions with every parameter set from a seed."""

import functools

import torch
import whisper
from conftest import ModelPair, make_pair

# Full width everywhere; fewer layers where a full stack would only take longer.
_SIZES = {
    # name: (n_mels, state, head, audio layers, text layers, n_vocab)
    "tiny": (80, 384, 6, 4, 4, 51865),
    "tiny.en": (80, 384, 6, 4, 4, 51864),
    "base": (80, 512, 8, 6, 6, 51865),
    "small": (80, 768, 12, 4, 4, 51865),
    "large-v3": (128, 1280, 20, 2, 2, 51866),
    "turbo": (128, 1280, 20, 2, 4, 51866),
}
NAMES = list(_SIZES)


def dimensions(name: str) -> dict[str, int]:
    n_mels, state, head, audio_layers, text_layers, n_vocab = _SIZES[name]
    audio = {"ctx": 1500, "state": state, "head": head, "layer": audio_layers}
    text = {"ctx": 448, "state": state, "head": head, "layer": text_layers}
    return {
        "n_mels": n_mels,
        **{f"n_audio_{key}": value for key, value in audio.items()},
        "n_vocab": n_vocab,
        **{f"n_text_{key}": value for key, value in text.items()},
    }


@functools.lru_cache(maxsize=1)
def random_pair(name: str) -> ModelPair:
    """The reference's model and ours; decoding ends now and then, since the end token is louder."""
    reference, ours = make_pair(dimensions(name), seed=NAMES.index(name))
    tokenizer = whisper.tokenizer.get_tokenizer(reference.is_multilingual)
    for model in (reference, ours):
        model.requires_grad_(False)
        model.decoder.token_embedding.weight[tokenizer.eot] *= 2.5
    return reference, ours


def random_mel(name: str, batch: int, seed: int = 1) -> torch.Tensor:
    """[batch, n_mels, 3000], spread like a log-mel."""
    generator = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(batch, dimensions(name)["n_mels"], 3000, generator=generator)
