"""Sandboxes that are ready before their task comes, on top of any runtime."""
