"""Cluster files: reading them, what is wrong with them, and what a recipe's actors find there."""
