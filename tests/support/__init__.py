"""Test doubles and helpers that tests of several modules use."""
