"""One adapter per technology. They never import each other; only the composition roots name them."""
