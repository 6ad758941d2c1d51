"""From images to batches: crops, the loader and its processes, the cache in memory, statistics of the images."""
