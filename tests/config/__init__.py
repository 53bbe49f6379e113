"""Tests of `proxy.config`."""
