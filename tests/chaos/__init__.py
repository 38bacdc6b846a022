"""What was broken on purpose: disturbances of a run, and what must hold after each of them."""
