"""Database, objects on disk, locks and the layout of the data directory. Knows nothing of HTTP or policy."""
