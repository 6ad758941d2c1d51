"""The configuration of a run: its schema, the parser of its text, and the files of `configs/`."""
