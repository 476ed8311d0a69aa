"""A run as a static site: pages, sprites, serving and publishing."""
