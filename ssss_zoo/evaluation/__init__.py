"""The evaluation of networks: metrics, the protocol that they are scored by, and pictures of predictions."""
