"""Measures, run by command (`python -m tests.bench`), never asserted as times."""
