"""Data sets: what a run trains and validates on. A data set never hears of a method."""
