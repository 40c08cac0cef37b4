"""Programs from where they come: JAX functions and files."""
