"""A ninth suite: networks for everyday tasks, changes and mistakes, by authors who had not read the rules."""
