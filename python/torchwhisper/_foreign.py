"""Recognizes files and folders of other programs, to say what to give `load_model` instead."""

import os
import re

_SOURCE = "give the model that it was converted from"
_CTRANSLATE2 = f"it is a model of CTranslate2 (faster-whisper): {_SOURCE}"
_GGML = f"it is a ggml file of whisper.cpp: {_SOURCE}"
_BEGINNINGS = {
    rb"lmgg|ggml|GGUF": _GGML,
    rb".{4}.{2}WhisperSpec": _CTRANSLATE2,
    rb"version https://git-lfs": "it is a pointer of Git LFS: git lfs pull brings the file itself",
    rb"\s*<(?i:!doctype|html)": "it is a web page: the download went wrong",
}
_PART = re.compile(r"-\d{5}-of-\d{5}\.")


def kind_of_file(head: bytes) -> str | None:
    """What a file is by its first bytes (64 will do) and what to do about it; None where it is not known."""
    return next((text for start, text in _BEGINNINGS.items() if re.match(start, head, re.DOTALL)), None)


def kind_of_folder(folder: str) -> str | None:
    """The same of a folder in which the weights of transformers are not."""
    names = sorted(os.listdir(folder))
    if "model.bin" in names:
        return _CTRANSLATE2
    if "adapter_config.json" in names:
        return "it is an adapter of PEFT: merge it with its model and save that"
    checkpoints = [name for name in names if name.endswith((".pt", ".pth"))]
    if checkpoints:
        return f"it is a folder: give the file in it, {os.path.join(folder, checkpoints[0])}"
    return None


def is_part(path: str) -> bool:
    """Whether a file is named like one of several that make a model of transformers."""
    return _PART.search(os.path.basename(path)) is not None
