"""What all tests share: the shared folder, models, both packages, both lanes, a guard for random states."""

import importlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    import whisper

    import torchwhisper.model

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TORCHWHISPER_SHARED", ROOT.parent / "shared"))

# A model of every kind of dimension that is small enough to be built in each test.
SMALL = {
    "n_mels": 80,
    "n_audio_ctx": 60,
    "n_audio_state": 64,
    "n_audio_head": 2,
    "n_audio_layer": 2,
    "n_vocab": 51865,
    "n_text_ctx": 32,
    "n_text_state": 64,
    "n_text_head": 2,
    "n_text_layer": 2,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-full", action="store_true", help="run the whole parity matrix (make parity)")


@pytest.fixture(autouse=True)
def _keep_random_states() -> Iterator[None]:
    """A test may seed as it likes; the next one does not notice."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Gives the path of a file in the shared folder; skips where it is absent."""

    def path(name: str) -> Path:
        found = SHARED / name
        if not found.exists():
            pytest.skip(f"{name} is not in {SHARED} (set TORCHWHISPER_SHARED)")
        return found

    return path


@pytest.fixture(scope="session")
def compat(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process in which `import whisper` finds the wheel of python/compat."""
    folder = tmp_path_factory.mktemp("compat")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--target", folder, ROOT / "python" / "compat"], check=True)
    import torchwhisper

    package = Path(torchwhisper.__file__).parent.parent
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{package}"}


def fill(model: torch.nn.Module, seed: int) -> None:
    """Sets every parameter from `seed`, so that activations keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("ln.weight") or name.endswith("ln_post.weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.ndim == 1 or name.endswith("positional_embedding"):
                parameter.copy_(0.1 * noise)
            elif name.endswith("token_embedding.weight"):
                # Logits spread by 3: wide enough that text and timestamps both win at times.
                parameter.copy_(3 * parameter.shape[1] ** -0.5 * noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)


ModelPair = tuple["whisper.model.Whisper", "torchwhisper.model.Whisper"]


def make_pair(dims: dict[str, int], seed: int = 0) -> ModelPair:
    """The reference's model and ours with the same random parameters."""
    # Not every test wants to wait for these.
    import whisper

    import torchwhisper.model

    reference = whisper.model.Whisper(whisper.model.ModelDimensions(**dims))
    fill(reference, seed)
    ours = torchwhisper.model.Whisper(torchwhisper.model.ModelDimensions(**dims))
    ours.load_state_dict(reference.state_dict())
    return reference, ours


class Package:
    """openai-whisper or this package; `package.transcribe` is the module, not the function of that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_reference = name == "whisper"
        self.root = importlib.import_module(name)

    def __getattr__(self, module: str) -> ModuleType:
        return importlib.import_module(f"{self.name}.{module}")


@pytest.fixture(params=["whisper", "torchwhisper"])
def package(request: pytest.FixtureRequest) -> Package:
    """The test runs twice, so that a wrong reading of the reference fails as well."""
    return Package(request.param)


@pytest.fixture(scope="session")
def demo_models() -> dict[str, Any]:
    """The bundled model in each package."""
    from torchwhisper import _bundled

    checkpoint = _bundled.load("demo")
    models = {}
    for name in ("whisper", "torchwhisper"):
        module = importlib.import_module(f"{name}.model")
        models[name] = module.Whisper(module.ModelDimensions(**checkpoint["dims"]))
        models[name].load_state_dict(checkpoint["model_state_dict"])
    return models


@pytest.fixture
def demo(package: Package, demo_models: dict[str, Any]) -> Any:
    """The bundled model in the package under test; shared between tests, which leave it as it is."""
    return demo_models[package.name]


@pytest.fixture
def small(package: Package) -> Any:
    """A random model of the package under test."""
    model = package.model.Whisper(package.model.ModelDimensions(**SMALL))
    fill(model, 0)
    return model


@pytest.fixture(params=["engine", "python"])
def lane(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs twice: with the C++ engine required, and with it switched off."""
    from torchwhisper import _engine

    with _engine.require() if request.param == "engine" else _engine.disable():
        yield request.param


@pytest.fixture
def pair() -> ModelPair:
    return make_pair(SMALL)


@pytest.fixture
def model(pair: ModelPair) -> "torchwhisper.model.Whisper":
    return pair[1]


@pytest.fixture
def mel() -> torch.Tensor:
    """Two log-mel windows of the small model: [2, 80, 120]."""
    return torch.randn(
        2, SMALL["n_mels"], 2 * SMALL["n_audio_ctx"], generator=torch.Generator().manual_seed(7)
    )


@pytest.fixture
def tokens() -> torch.Tensor:
    """[2, 9]"""
    return torch.randint(0, SMALL["n_vocab"], (2, 9), generator=torch.Generator().manual_seed(8))
