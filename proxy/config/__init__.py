"""The configuration file: its schema, its loading with every problem at once, its compilation."""
