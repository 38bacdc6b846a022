"""Benchmarks that anyone can run: `make bench`, or `python -m bench NAME ...`.

Each measures us beside a bare floor in the same run, alternating, and reports medians and ratios.
"""
