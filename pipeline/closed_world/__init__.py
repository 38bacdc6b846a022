"""The closed world: bases made on the spot, to prove the trainer without any pretrained weights."""
