"""An eleventh suite: sound runs and hard negatives as a judge would choose them."""
