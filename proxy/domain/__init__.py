"""The pure heart: what a name, an address, a right, a rule and an answer are. No I/O, no clock."""
