"""What one caller may ask for, and what the gateway takes on at all: so that none hurts the others.

`bucket`, `daily`, `gauge` and `standing` are pure; `limits` puts them together and talks with the other
gateways; `load` is what this one has under way.
"""
