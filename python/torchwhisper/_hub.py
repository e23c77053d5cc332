"""Models of the Hugging Face Hub, through huggingface_hub where that is installed."""

import json
import os
import re
from typing import Any

from . import _settings

_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PATIENCE = 10.0  # seconds for the first answer


def is_id(name: str) -> bool:
    """Whether `name` can be owner/model and does not look like a path."""
    return (
        re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None
        and not name.endswith(_SUFFIXES)
        and not os.path.isdir(name.split("/")[0])
    )


def folder(name: str, cache: str | None, unknown: str) -> str:
    """The local folder with the files of model `name`, fetched unless they are in the cache.

    cache: the cache's folder, default huggingface_hub's own. unknown: what to say of a name that is none.
    Raises RuntimeError if the model cannot be had. TORCHWHISPER_OFFLINE and HF_HUB_OFFLINE allow only what
    is in the cache; it also serves where the network does not.
    """
    try:
        from huggingface_hub import HfApi, constants, errors, hf_hub_download, snapshot_download
    except ImportError:
        hint = "for a model of the Hugging Face Hub, pip install huggingface_hub"
        raise RuntimeError(f"{unknown}; {hint}") from None

    def get(file: str) -> str:
        return str(hf_hub_download(name, file, cache_dir=cache))

    hindrance: str | None = None
    if _settings.flag("TORCHWHISPER_OFFLINE") or constants.HF_HUB_OFFLINE:
        hindrance = "TORCHWHISPER_OFFLINE or HF_HUB_OFFLINE forbids a download"
    try:
        if hindrance is None:
            # One question without retries: a path that was mistyped must not wait for a network.
            listing = HfApi().model_info(name, timeout=_PATIENCE).siblings or []
            files = {file.rfilename for file in listing}
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise RuntimeError(f"{unknown}; nor is it a public model of the Hugging Face Hub") from error
    except errors.HfHubHTTPError as error:
        raise _failure(name, error) from error
    except Exception as error:  # those of its HTTP library, which has changed more than once
        hindrance = f"the Hub cannot be reached: {_line(error)}"
    if hindrance is not None:
        try:
            return str(snapshot_download(name, cache_dir=cache, local_files_only=True))
        except errors.LocalEntryNotFoundError:
            reason = f"as a model of the Hugging Face Hub it is not in the cache, and {hindrance}"
            raise RuntimeError(f"{unknown}; {reason}") from None
    try:
        for file in files & {"config.json", "generation_config.json"}:
            get(file)
        for weights in _WEIGHTS:
            if weights in files:
                return os.path.dirname(get(weights))
            if (index := f"{weights}.index.json") in files:
                path = get(index)
                for part in _parts(path):
                    get(part)
                return os.path.dirname(path)
    except Exception as error:
        raise _failure(name, error) from error
    raise RuntimeError(f"Model {name} cannot be loaded: on the Hub it has no {' or '.join(_WEIGHTS)}")


def _parts(index: str) -> list[str]:
    with open(index, encoding="utf-8") as file:
        content: Any = json.load(file)
    return sorted(set(content["weight_map"].values()))


def _failure(name: str, error: Exception) -> RuntimeError:
    return RuntimeError(f"Model {name} cannot be loaded from the Hugging Face Hub: {_line(error)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
