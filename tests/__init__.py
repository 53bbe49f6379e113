"""The tests of pypi-overlay, the fake upstream they ask, and the tooling they share (`tests.support`)."""
