"""A tenth suite: sound runs as an outside judge would choose them, written without a look at the rules."""
