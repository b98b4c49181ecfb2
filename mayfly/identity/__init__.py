"""Who asks, and what they may: keys, users, tokens, tenants. Pure but for the clock that callers hand in."""
