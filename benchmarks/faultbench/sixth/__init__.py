"""A sixth suite: other networks, tasks, changes and mistakes, written without a look at the rules."""
