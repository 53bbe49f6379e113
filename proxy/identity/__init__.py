"""Who is asking: tokens made, kept as hashes and ended, and the headers that present them."""
