"""Publish: what makes a dataset one that others can use."""
