"""An eleventh suite: sound runs that were written without a look at the rules."""
