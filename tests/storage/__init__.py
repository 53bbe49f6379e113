"""Tests of `proxy.storage`, with real files and real processes."""
