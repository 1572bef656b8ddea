"""An eleventh suite: sound runs as an outside judge would take them."""
