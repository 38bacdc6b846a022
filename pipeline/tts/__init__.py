"""TTS engines: one file an engine."""
