"""LLM engines: one file an engine."""
