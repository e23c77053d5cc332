"""Checkpoints in the forms that the peers read, each written once.

They go to build/benchmarks/ or the folder in $TORCHWHISPER_BENCHMARK_MODELS.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

FOLDER = Path(os.environ.get("TORCHWHISPER_BENCHMARK_MODELS", common.ROOT / "build" / "benchmarks"))


def _of(model: Path, kind: str, write: Callable[[Path], None]) -> Path:
    """The file or folder that `write` made of `model`; a model that has changed is converted anew."""
    status = model.stat()
    key = hashlib.sha256(f"{model.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:8]
    return once(FOLDER / f"{model.stem}-{key}.{kind}", write)


def once(target: Path, write: Callable[[Path], None]) -> Path:
    """`target`, written unless it is there; never half of it."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f"unfinished-{target.name}")
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        write(unfinished)
        unfinished.rename(target)
    return target


def ctranslate2_folder(model: Path, compute: str) -> Path:
    """A folder for CTranslate2 and faster-whisper, by CTranslate2's own converter for transformers' models.

    compute: float32 or int8; the weights are stored in it.
    """

    def write(target: Path) -> None:
        import ctranslate2

        converter = ctranslate2.converters.TransformersConverter(
            str(hugging_face_folder(model)), copy_files=["tokenizer.json", "preprocessor_config.json"]
        )
        converter.convert(str(target), quantization=compute)

    return _of(model, f"ct2-{compute}", write)


def hugging_face_folder(model: Path) -> Path:
    """A folder that transformers loads, with the tokenizer."""

    def write(target: Path) -> None:
        import torchwhisper

        loaded = torchwhisper.load_model(str(model), device="cpu")
        torchwhisper.save_model(loaded, target, "hugging_face")
        write_tokenizer(target, loaded.is_multilingual, loaded.num_languages)
        features = {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": loaded.dims.n_mels,
            "sampling_rate": 16000,
            "hop_length": 160,
            "chunk_length": 30,
            "n_fft": 400,
        }
        (target / "preprocessor_config.json").write_text(json.dumps(features))

    return _of(model, "hf", write)


def ggml_file(model: Path, kind: str) -> Path:
    """A file for whisper.cpp.

    kind: f16 or q8_0.
    """

    def write(target: Path) -> None:
        import ggml_format

        ggml_format.write(model, target, kind)

    return _of(model, f"{kind}.bin", write)


def write_tokenizer(folder: Path, multilingual: bool, num_languages: int) -> None:
    """The tokenizer as Hugging Face's tokenizers and transformers read it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    from torchwhisper.tokenizer import get_encoding

    encoding = get_encoding("multilingual" if multilingual else "gpt2", num_languages=num_languages)
    ranks: dict[bytes, int] = encoding._mergeable_ranks
    letters = _letters()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {spelled(token): rank for token, rank in ranks.items()}
    pairs = [
        _halves(token, ranks) for token in sorted(ranks, key=lambda token: ranks[token]) if len(token) > 1
    ]
    merges = [(spelled(left), spelled(right)) for left, right in pairs]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = sorted(encoding._special_tokens, key=lambda token: encoding._special_tokens[token])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    about: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    about |= {name: "<|endoftext|>" for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def _letters() -> list[str]:
    """The visible character that stands for each byte in byte-level vocabularies since GPT-2."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(hidden)) for byte in range(0x100)]


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merging gives `token`: what is left when all earlier merges are done."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joined = [ranks.get(parts[at] + parts[at + 1], len(ranks)) for at in range(len(parts) - 1)]
        at = joined.index(min(joined))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]
