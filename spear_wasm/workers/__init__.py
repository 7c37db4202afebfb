"""Many processes that serve as one: a supervisor, and the workers that it starts and replaces."""
