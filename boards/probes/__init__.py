"""Designs placed to choose between them; not part of the product."""
