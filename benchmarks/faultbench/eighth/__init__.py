"""The eighth suite: sound runs of 107 kinds, by two authors who had not read the rules."""
