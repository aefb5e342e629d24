"""Improvers: whatever turns prompt, draft and history into a revision."""
