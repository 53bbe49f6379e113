"""Tests of what `deploy` has: each thing is started as its reader would start it."""
