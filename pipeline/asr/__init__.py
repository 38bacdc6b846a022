"""ASR engines: one file an engine."""
