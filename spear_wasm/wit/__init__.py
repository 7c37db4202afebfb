"""WIT: the types of components, how they are written, and the values that have them."""
