"""What lies here is run by tests, never imported."""

collect_ignore_glob = ["*.py", "package/*.py"]
