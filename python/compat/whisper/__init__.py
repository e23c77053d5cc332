"""`whisper` is torchwhisper: from here on both names mean the same modules."""

from torchwhisper import _compat

_compat.install()
