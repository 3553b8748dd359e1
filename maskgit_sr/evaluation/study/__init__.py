"""Forced-choice study of people, and the fool rates of its answers."""
