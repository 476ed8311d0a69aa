"""Several processes on one run, and the cluster that starts them."""
