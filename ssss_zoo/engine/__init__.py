"""One training step, the hooks that it asks, and the methods that answer them. It knows no method by name."""
