"""A run from beginning to end: what it is made of, its loop, its folder, what it keeps."""
