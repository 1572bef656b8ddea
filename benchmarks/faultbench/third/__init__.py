"""The third suite of runs, written without a look at the rules."""
