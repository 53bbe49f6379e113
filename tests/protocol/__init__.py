"""One file per table of the protocol reference; traps carry their id."""
