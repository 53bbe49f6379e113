"""Tests of `proxy.web`, against the real command: HTTP to the letter."""
