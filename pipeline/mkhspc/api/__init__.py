"""What `import mkhspc` offers: the commands as functions, and a run as an object."""
