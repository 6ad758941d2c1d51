"""What `ssss data` does: looks for faults, finds copies, draws split lists."""
