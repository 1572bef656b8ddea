"""A tenth suite: sound runs as a judge would choose them, and of kinds that no suite before has."""
