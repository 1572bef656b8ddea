"""An eighth suite: sound runs of still other networks, tasks, losses and styles."""
