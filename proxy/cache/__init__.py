"""What is borrowed from upstreams: their pages and files, kept on disk, verified, bounded, and made again at need."""
