"""What a person says: the schema of a run's configuration, its text read by types, and the files of `configs/`."""
