"""The life of executions: their states, the threads that run guests, and the manager that owns both."""
