"""What the program says of itself while it runs: its log, without secrets."""
