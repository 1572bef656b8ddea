"""A seventh suite: sound runs of yet other networks, tasks and losses."""
