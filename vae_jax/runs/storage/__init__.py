"""What a run keeps on disk: the names of its files, checkpoints with checksums, and its metrics."""
