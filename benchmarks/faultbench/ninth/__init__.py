"""A ninth suite: plain networks for everyday tasks, changes and mistakes, written without a look at the rules."""
