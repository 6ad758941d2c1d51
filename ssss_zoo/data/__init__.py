"""Data sets, on which a run trains and validates. A data set knows nothing of methods."""
