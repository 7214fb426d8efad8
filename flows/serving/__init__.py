"""A hypernetwork behind MLflow's prediction interface: an architecture goes in, its parameters come out."""
