"""Writing checkpoints that engines load, and checking what the engines make of them."""
