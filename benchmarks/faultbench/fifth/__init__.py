"""A fifth suite: more networks and tasks, sound runs foremost."""
