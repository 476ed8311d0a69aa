"""A run as a static site: pages, sheets of pictures, serving and publishing."""
