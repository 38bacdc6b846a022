"""Filters: one file a group of checks."""
