"""The command line: in this process where it is quick, as a program beside a running server where it matters."""
