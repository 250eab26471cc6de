"""Shared code of the tests, by subject."""
