"""What is ours: published packages, their claims, and the namespaces that hold them."""
