"""An eighth suite: sound runs in yet other styles, on data of their own."""
