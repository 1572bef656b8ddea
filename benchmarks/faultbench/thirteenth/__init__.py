"""A thirteenth suite: networks for everyday tasks, and what looks bad, by people who had not read the rules."""
