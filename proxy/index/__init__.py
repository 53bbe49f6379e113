"""What a namespace answers: pages, files, names, and why. Asks `decide`, orders the I/O around it."""
