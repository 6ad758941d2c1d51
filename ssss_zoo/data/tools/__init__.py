"""The parts of `ssss data`: they find faults and copies, and draw split lists."""
