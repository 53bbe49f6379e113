"""Processes, sockets, signals, and the assembly of everything that lives as long as they do."""
