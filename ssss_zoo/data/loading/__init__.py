"""Images to batches: crops, the loader's processes, what is kept in memory, statistics of channels."""
