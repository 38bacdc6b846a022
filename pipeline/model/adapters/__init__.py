"""Adapters: from an encoder's frames to what the LLM reads. One file each."""
