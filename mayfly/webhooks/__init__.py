"""Webhooks: who is told of a task's end, and how that is signed."""
