"""Stages: the steps of a unit."""
