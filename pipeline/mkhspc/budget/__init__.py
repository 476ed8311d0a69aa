"""What a run will take: memory of a tile and of a whole run."""
