"""pypi-overlay: a caching, forwarding index in front of PyPI with a private overlay."""
