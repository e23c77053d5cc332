"""Normalizers that make transcripts comparable, as for word error rates. Source: `whisper.normalizers`."""

from .basic import BasicTextNormalizer as BasicTextNormalizer
from .english import EnglishTextNormalizer as EnglishTextNormalizer
