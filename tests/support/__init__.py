"""What tests share: distributions made on the spot, the fake upstream's driver, servers, clients, waiting.

Standard library, aiohttp and PyYAML only: nothing of the project's own code, so that a test never asks the
code under test whether the code under test is right.
"""
