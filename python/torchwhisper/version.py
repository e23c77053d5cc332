# Date-like on purpose: dependents compare it as a string with openai-whisper's versions.
__version__ = "20261123"
