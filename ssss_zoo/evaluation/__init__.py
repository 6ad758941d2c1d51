"""What is measured and shown of a network, and by which protocol."""
