"""Real clients, as people run them, against the real server: what they install, publish and get to see."""
