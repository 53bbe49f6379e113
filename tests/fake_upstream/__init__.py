"""A package index that behaves like PyPI, or misbehaves as a scenario tells it to.

A program of its own on a real port: `python -m tests.fake_upstream --scenario FILE [--port 0]`. What a
scenario can say stands in `scenario`; tests drive the program through `tests.support.upstream`.
"""
