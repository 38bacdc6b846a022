"""Contracts as plain frozen data. This layer imports nothing else of the project."""
