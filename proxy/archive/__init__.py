"""What wheels and sdists say of themselves, read within limits and never unpacked."""
