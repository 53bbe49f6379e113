"""The command line: arguments in, tables or JSON out, an exit status. What it does stands in the layers below."""
