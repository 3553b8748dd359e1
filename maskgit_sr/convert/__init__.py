"""Published checkpoints of other frameworks → bundles."""
