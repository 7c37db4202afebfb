"""WASI, as host functions of ours: what a guest sees of the world is what it was given here."""
