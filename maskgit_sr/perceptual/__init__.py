"""Frozen networks of others that compare images: losses and scores."""
