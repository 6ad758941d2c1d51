"""A folder of one's own: how files lie in it, which image has which mask, and what the masks mean."""
