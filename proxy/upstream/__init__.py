"""Other indexes: asked within limits, read by allow-list, and only at hosts they may name."""
