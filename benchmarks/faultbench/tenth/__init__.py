"""The tenth suite: sound runs of kinds that no suite before has, by authors who had not read the rules."""
