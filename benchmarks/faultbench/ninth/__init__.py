"""A ninth suite: mistakes in settings, models and data, written without a look at the rules."""
