"""Readers: one file a corpus layout."""
