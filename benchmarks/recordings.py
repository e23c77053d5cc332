"""The recordings: their language, what is said in them, and how many words an engine got wrong."""

import json
from dataclasses import dataclass
from pathlib import Path

import common

# examples/jfk.flac comes without a file of its own.
_SAID = {
    "jfk.flac": "And so my fellow Americans, ask not what your country can do for you, "
    "ask what you can do for your country."
}


@dataclass(frozen=True)
class Recording:
    path: Path
    language: str
    text: str | None  # what is said, if it is known

    def errors(self, heard: str) -> tuple[int, int]:
        """Substituted, deleted and inserted words in `heard`, and the words that were said."""
        import jiwer

        from torchwhisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

        assert self.text is not None
        normalized = EnglishTextNormalizer() if self.language == "en" else BasicTextNormalizer()
        found = jiwer.process_words(normalized(self.text), normalized(heard))
        wrong = found.substitutions + found.deletions + found.insertions
        return wrong, found.hits + found.substitutions + found.deletions


def recording(path: Path) -> Recording:
    """What NAME.json beside the sound file says about it; without one, English is assumed."""
    notes = path.with_suffix(".json")
    if not notes.exists():
        return Recording(path, "en", _SAID.get(path.name))
    content = json.loads(notes.read_text())
    return Recording(path, content["segments"][0].get("lang", "en"), content["text"])


def error_rate(recordings: list[Recording], heard: list[str]) -> float | None:
    """Per cent of words wrong in all recordings together; None if what is said is not known."""
    pairs = [(one, text) for one, text in zip(recordings, heard, strict=True) if one.text is not None]
    if not pairs:
        return None
    counts = [one.errors(text) for one, text in pairs]
    return 100 * sum(wrong for wrong, _ in counts) / sum(words for _, words in counts)


def shared_recordings() -> list[Path]:
    """All recordings of the shared folder but the one with voices that the shared models do not know."""
    found = sorted((common.SHARED / "audio").glob("*.flac"))
    return [path for path in found if path.stem != "digits_human_en"] or common.default_audio()
