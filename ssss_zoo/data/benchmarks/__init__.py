"""The public benchmarks: where they come from and how their files are read; and the drawn scenes, `shapes`."""
