"""The fourth suite of runs, written without a look at the rules."""
