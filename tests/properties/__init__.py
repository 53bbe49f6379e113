"""Properties: what must hold for any input, shown with hypothesis."""
