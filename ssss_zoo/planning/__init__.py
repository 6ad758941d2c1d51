"""Settings for a data set, a device and a time: `ssss plan`, and `ssss run ... time=30m`."""
